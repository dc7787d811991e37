# SPDX-License-Identifier: Apache-2.0
"""Times of starts and compiles that acceptances measured, and what a calibration makes of them.

A report comes from somebody: what is no number that a time can be is not read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.trainyard.neuron.plugins.plugin_utils.bounded_file import FileError, read_json
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.calibration import Time, Times
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.planned import NATIVE

CALLED = "acceptance"
#: Least and most of a time that was seen, as a share of what was counted with.
LEAST, MOST = 1e-4, 100.0
#: Nothing is known better than this, however well a few times agree.
LEAST_ERROR = 1.05


class SeenError(Exception):
    """Reports that nothing can be fitted to; the text names each."""


@dataclass(frozen=True)
class Seen:
    """What one host's trials took, seconds. `compile_s` None: nothing was compiled; `start_s` likewise.

    Attributes:
        cut: whether the weights lay cut for the cores.
        cut_at_compile: whether the compile cut them.
    """

    name: str
    native: bool
    start_s: float | None
    load_bytes: int
    cut: bool
    compile_s: float | None
    cut_at_compile: bool


def seen_in(files: Sequence[Path]) -> list[Seen]:
    """Return what reports of acceptances have of times.

    Raises:
        SeenError: one of them is no such report, or has none.
    """
    found: list[Seen] = []
    wrong = []
    for file in files:
        try:
            report = read_json(file)
        except FileError as error:
            wrong.append(f"{file} is no report of an acceptance: {error}")
            continue
        hosts = report.get("hosts") if isinstance(report, Mapping) and report.get("called") == CALLED else None
        if not isinstance(hosts, Mapping):
            wrong.append(f"{file} is no report of an acceptance: trainyard accept writes one")
            continue
        here = [_seen(f"{file} {name}", host.get("times")) for name, host in hosts.items() if isinstance(host, Mapping)]
        if not any(here):
            wrong.append(f"{file} has no times: accept with the stages compile and serve")
        found += [one for one in here if one]
    if wrong:
        raise SeenError("\n       ".join(wrong))
    return found


def _seen(name: str, times: Any) -> Seen | None:
    if not isinstance(times, Mapping):
        return None
    start, compiled, size = (_number(times.get(key)) for key in ("start_s", "compile_s", "load_bytes"))
    if start is None and compiled is None:
        return None
    cut, cut_at_compile = (times.get(key) is True for key in ("presharded", "presharded_at_compile"))
    return Seen(name, times.get("generation") == NATIVE, start, int(size or 0), cut, compiled, cut_at_compile)


def _number(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and 0 < value < 1e15 else None


def times_fitted(times: Times, seen: Sequence[Seen]) -> Times:
    """Return the times as they were seen: each kind times the factor by which it was off.

    A few starts tell no constant from a pace, so both are scaled. Their error is how far the times are off that factor,
    or, of a single one, what was known before.

    Args:
        times: what was counted with before.
        seen: what acceptances measured.

    Raises:
        SeenError: a time is so far off that no host's it can be.
    """
    changed: dict[str, Time] = {}
    groups: list[tuple[dict[str, float], list[str], list[str]]] = [
        (_starts(times, seen), ["start_s"], ["load_bytes_per_s", "shard_bytes_per_s"]),
        (_compiles(times, seen, native=False), ["compile_s"], ["presharding_bytes_per_s"]),
        (_compiles(times, seen, native=True), ["native_compile_s"], []),
    ]
    wrong = [
        f"{name}: it took {ratio:.3g} times what was counted with, which no host does: leave it out"
        for group in groups
        for name, ratio in group[0].items()
        if not LEAST <= ratio <= MOST
    ]
    if wrong:
        raise SeenError("\n       ".join(wrong))
    for ratios, lasting, paces in groups:
        if not ratios:
            continue
        factor = math.exp(sum(map(math.log, ratios.values())) / len(ratios))
        for name in (*lasting, *paces):
            old: Time = getattr(times, name)
            value = old.value / factor if name in paces else old.value * factor
            changed[name] = Time(value=value, error_factor=_error(ratios, factor, old), source=_source(ratios))
    return times.model_copy(update=changed)


def told_of(times: Times, seen: Sequence[Seen]) -> list[str]:
    """Return a line for each kind of time that was seen: by what factor it was off, and the worst of them."""
    lines = []
    for word, ratios in (
        ("starts", _starts(times, seen)),
        ("compiles", _compiles(times, seen, native=False)),
        ("native compiles", _compiles(times, seen, native=True)),
    ):
        if ratios:
            low, high = min(ratios.values()), max(ratios.values())
            worst = max(ratios, key=lambda name: abs(math.log(ratios[name])))
            lines.append(f"{word}: {low:.3g} to {high:.3g} times what was counted with; furthest off: {worst}")
    return lines


def _starts(times: Times, seen: Sequence[Seen]) -> dict[str, float]:
    found = {}
    for one in seen:
        if one.start_s is not None:
            pace = times.load_bytes_per_s if one.cut or one.native else times.shard_bytes_per_s
            found[one.name] = one.start_s / (times.start_s.value + one.load_bytes / pace.value)
    return found


def _compiles(times: Times, seen: Sequence[Seen], *, native: bool) -> dict[str, float]:
    found = {}
    for one in seen:
        if one.compile_s is not None and one.native is native:
            whole = (times.native_compile_s if native else times.compile_s).value
            whole += one.load_bytes / times.presharding_bytes_per_s.value if one.cut_at_compile else 0.0
            found[one.name] = one.compile_s / whole
    return found


def _error(ratios: Mapping[str, float], factor: float, old: Time) -> float:
    if len(ratios) == 1:
        return old.error_factor
    return min(100.0, max(LEAST_ERROR, *(max(one / factor, factor / one) for one in ratios.values())))


def _source(ratios: Mapping[str, float]) -> str:
    return f"scaled to {len(ratios)} that acceptances measured"
