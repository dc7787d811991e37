# SPDX-License-Identifier: Apache-2.0
"""Runs a target on many inputs and counts: tracebacks, hangs, and what was accepted and must not be."""

from __future__ import annotations

import reprlib
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

#: Processor time that one input may take, seconds; that of the process, so a busy machine fails nobody.
INPUT_S = 5.0

#: Where even Python cannot interrupt itself the kernel ends the process, after so many seconds.
PROCESS_S = 15.0

#: Of each kind of failure so many are shown.
SHOWN = 5


@dataclass(frozen=True)
class Target:
    """A parser or a schema.

    Attributes:
        name: what it is.
        inputs: what it is given.
        run: reads an input and works with what was read; returns what was accepted.
        refuses: the exceptions by which it refuses.
        oracle: says why what was accepted must not be, empty where it may.
        weight: share of all inputs.
    """

    name: str
    inputs: SearchStrategy[Any]
    run: Callable[[Any], Any]
    refuses: tuple[type[Exception], ...]
    oracle: Callable[[Any, Any], str] = lambda _given, _accepted: ""
    weight: int = 1


@dataclass
class Tally:
    """What came of the inputs."""

    inputs: int = 0
    tracebacks: int = 0
    hangs: int = 0
    wrong: int = 0
    accepted: int = 0
    shown: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Count another's as well."""
        for name in ("inputs", "tracebacks", "hangs", "wrong", "accepted"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.shown += other.shown

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not (self.tracebacks or self.hangs or self.wrong)


#: Writing out an input whose aliases multiply would take longer than the input may.
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxlist, _SHORT.maxtuple = 5, 20, 10, 10
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 200


class HangError(BaseException):
    """An input took too long; no `except Exception` on its way may hold it up."""


@contextmanager
def bounded() -> Iterator[None]:
    """Interrupt what takes longer than an input may."""

    def over(_number: int, _frame: Any) -> None:
        raise HangError

    before = signal.signal(signal.SIGVTALRM, over)
    signal.setitimer(signal.ITIMER_VIRTUAL, INPUT_S)
    signal.setitimer(signal.ITIMER_PROF, PROCESS_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGVTALRM, before)


def _written(value: Any) -> str:
    """An input for people, cut; numbers that Python itself refuses to write are said to be such."""
    try:
        return f"{_SHORT.repr(value):.1500}"
    except ValueError:
        return "(an input with a number too long to be written)"


def one(target: Target, value: Any, tally: Tally) -> None:
    """Give a target one input and count what comes of it."""
    tally.inputs += 1
    shown = _written(value)
    try:
        with bounded():
            accepted = target.run(value)
            fault = target.oracle(value, accepted)
    except target.refuses:
        return
    except HangError:
        tally.hangs += 1
        told = f"{target.name}: over {INPUT_S} s: {shown}"
    except Exception:  # noqa: BLE001 - any other one is what is looked for
        tally.tracebacks += 1
        told = f"{target.name}: {shown}\n{traceback.format_exc(limit=-6)}"
    else:
        tally.accepted += 1
        if not fault:
            return
        tally.wrong += 1
        told = f"{target.name}: wrongly accepted: {fault}: {shown}"
    if len(tally.shown) < SHOWN:
        tally.shown.append(told)


def fuzz(target: Target, count: int, number: int, told: Callable[[int], None] = lambda _inputs: None) -> Tally:
    """Give a target many inputs.

    Args:
        target: the target.
        count: how many.
        number: where the inputs begin; the same number gives the same inputs.
        told: is called with how many there were.
    """
    tally = Tally()

    @seed(number)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(target.inputs)
    def each(value: Any) -> None:
        one(target, value, tally)
        told(tally.inputs)

    each()
    return tally
