# SPDX-License-Identifier: Apache-2.0
"""Work whose time and memory somebody else's text decides, in a process of its own that the kernel stops.

A template can count to any number, and Python cannot interrupt one long operation of itself: only another process's
end is sure. Time is the processor's, so a busy machine stops nobody.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import resource
import signal
import time
import traceback
import warnings
from pathlib import Path
from typing import Any, Callable

#: What one step may take: seconds of the processor, and memory beyond what the process had, bytes.
STEP_CPU_S = 5
MEMORY_BYTES = 4 << 30

#: Longest name of a step, bytes.
_STEP_BYTES = 1024


Say = Callable[..., None]


class TooMuchError(Exception):
    """A step took more than it may; `step` names it, the message says what it took."""

    def __init__(self, step: str, what: str) -> None:
        super().__init__(what)
        self.step = step


def bounded(work: Callable[[Say], Any]) -> Any:
    """Run some work in a child and return its result, or raise what it raised.

    Args:
        work: is given a function to call with the name of each step before it begins, and with the step's processor
            time in seconds where that is not `STEP_CPU_S`.

    Raises:
        TooMuchError: a step took more processor time than that, or the child was ended for its memory.
    """
    steps = mmap.mmap(-1, _STEP_BYTES)
    read_end, write_end = os.pipe()
    child = _fork()
    if child == 0:
        os.close(read_end)
        _child(work, steps, write_end)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        answer = pipe.read()
    status = os.waitpid(child, 0)[1]
    step = bytes(steps).rstrip(b"\0").decode("utf-8", "replace")
    steps.close()
    if os.WIFSIGNALED(status):
        ended = os.WTERMSIG(status)
        over = ended == signal.SIGXCPU
        raise TooMuchError(step, "more than its processor time" if over else "it was ended by signal %d" % ended)
    succeeded, value = pickle.loads(answer)  # noqa: S301 - written by this very process's child
    if succeeded:
        return value
    raise value


def _fork() -> int:
    with warnings.catch_warnings():
        # Python 3.12 warns of a fork beside threads; the child here starts none and waits for none.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _child(work: Callable[[Say], Any], steps: mmap.mmap, write_end: int) -> None:
    """Work, write the result, and end without what the parent does when it ends."""
    try:
        with os.fdopen(write_end, "wb") as pipe:
            try:
                answer = (True, work(_limits(steps)))
            except Exception as error:  # noqa: BLE001 - the parent raises it
                answer = (False, error)
            pipe.write(_packed(answer))
    except BaseException:  # noqa: BLE001 - nothing may go on here as a second parent
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _packed(answer: Any) -> bytes:
    try:
        return pickle.dumps(answer)
    except Exception:  # noqa: BLE001 - what cannot be packed is told in words
        return pickle.dumps((False, ValueError(str(answer[1]))))


def _limits(steps: mmap.mmap) -> Say:
    """Bound the process, and return what begins a step."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + MEMORY_BYTES
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard == -1 else min(limit, hard), hard))
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    given = [0.0]

    def say(step: str, cpu_s: int = STEP_CPU_S) -> None:
        name = step.encode("utf-8", "replace")[:_STEP_BYTES]
        steps[:] = name.ljust(_STEP_BYTES, b"\0")
        used = time.process_time()
        # The kernel counts whole seconds, so the same limit serves many short steps.
        wanted = int(used) + 1 + cpu_s
        if wanted != given[0]:
            given[0] = wanted
            hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
            resource.setrlimit(resource.RLIMIT_CPU, (wanted if hard == -1 else min(wanted, hard), hard))

    say("")
    return say
