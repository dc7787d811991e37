# SPDX-License-Identifier: Apache-2.0
"""What a running job tells those who wait for it: a small JSON file, replaced every second."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Optional

from . import manifest

#: Where jobs report, and where modules look.
RUN_DIR = Path("/run/trainyard")

#: Seconds between two reports.
INTERVAL_S = 1.0


class Progress:
    """Counts bytes of one phase after the other and reports them; safe to feed from several threads."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._state: Dict[str, Any] = {"state": "running"}
        self._phase_began_s = clock()
        self._at_start_bytes = 0
        self._written_s: Optional[float] = None
        self._waited_s = 0.0

    @property
    def current(self) -> str:
        """The phase that was begun last, empty before the first."""
        return str(self._state.get("phase", ""))

    def wait(self, what: str) -> None:
        """Begin a phase of doing nothing; a wait that is asked for again goes on."""
        if self.current != what:
            self.phase(what)
            self._state["waits"] = True

    @property
    def waited_s(self) -> float:
        """Seconds of all waits that are over."""
        return self._waited_s

    def phase(self, name: str, bytes_total: int = 0, bytes_done: int = 0) -> None:
        """Begin a phase; `bytes_done` is what an earlier run had finished and is not counted into the rate."""
        with self._lock:
            if self._state.get("waits"):
                self._waited_s += self._clock() - self._phase_began_s
            self._phase_began_s = self._clock()
            self._at_start_bytes = bytes_done
            self._state = {"state": "running", "phase": name, "bytes_total": bytes_total, "bytes_done": bytes_done}
        print(f"{name}" + (f": {human_bytes(bytes_total)}" if bytes_total else ""), flush=True)  # noqa: T201 - the job's log
        self._write(force=True)

    def add(self, count: int) -> None:
        """Count further bytes of this phase."""
        with self._lock:
            self._state["bytes_done"] = self._state.get("bytes_done", 0) + count
        self._write()

    def set(self, bytes_done: int) -> None:
        """State how many bytes of this phase are done, where a look at the disk tells."""
        with self._lock:
            self._state["bytes_done"] = bytes_done
        self._write()

    def fail(self, cause: str, left: str, next_step: str) -> None:
        """Report the end of a failed job: its cause, what state was left, and what to do next."""
        with self._lock:
            self._state = {"state": "failed", "cause": cause, "left": left, "next": next_step}
        self._write(force=True)

    def done(self, **facts: Any) -> None:
        """Report the end of a job that did its work; `facts` are numbers worth showing (bytes, seconds)."""
        with self._lock:
            self._state = {"state": "done", **facts}
        self._write(force=True)

    def _write(self, force: bool = False) -> None:
        now_s = self._clock()
        with self._lock:
            if not force and self._written_s is not None and now_s - self._written_s < INTERVAL_S:
                return
            self._written_s = now_s
            state = dict(self._state)
            elapsed_s = now_s - self._phase_began_s
            gained = state.get("bytes_done", 0) - self._at_start_bytes
            if elapsed_s > 0 and gained > 0:
                state["bytes_per_s"] = round(gained / elapsed_s)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            manifest.write_atomically(self._path, json.dumps(state))


def read(path: Path) -> Dict[str, Any]:
    """Return a job's last report, empty where it made none."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return report if isinstance(report, dict) else {}


def human_bytes(count: float) -> str:
    """Return a byte count for people: `1.4 GB`, in powers of 1000 as disks and networks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def human_seconds(seconds: float) -> str:
    """Return a duration for people: `45 s`, `3 min`, `2 h 5 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _amount(value: Any) -> float:
    """Return a number of a report, 0 for anything else: a file that was cut off must stop nobody."""
    usable = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e18
    return value if usable else 0


def describe(report: Dict[str, Any]) -> str:
    """Return one line about a running job: phase, bytes, rate, time left."""
    parts = [str(report.get("phase", "starting"))]
    done, total, rate = (_amount(report.get(key)) for key in ("bytes_done", "bytes_total", "bytes_per_s"))
    if total:
        parts.append(f"{human_bytes(done)} of {human_bytes(total)} ({100 * done / total:.0f} %)")
    elif done:
        parts.append(human_bytes(done))
    if rate:
        parts.append(f"{human_bytes(rate)}/s")
        if total > done:
            parts.append(f"{human_seconds((total - done) / rate)} left")
    return ", ".join(parts)
