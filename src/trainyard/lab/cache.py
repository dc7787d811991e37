# SPDX-License-Identifier: Apache-2.0
"""Where costly things are kept between labs, and the locks that let two commands share them."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Say = Callable[[str], None]


def cache_dir() -> Path:
    """The cache folder of the lab, made when missing; XDG_CACHE_HOME is honoured."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(base).expanduser() / "trainyard"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def locked(name: str, say: Say | None = None) -> Iterator[None]:
    """Hold the cache's lock `name`; the kernel frees it when the process ends, however it ends.

    Args:
        name: a file name; the lock file stays, it is empty.
        say: told once when another process holds the lock.
    """
    path = cache_dir() / f"{name}.lock"
    with path.open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if say:
                say(f"another command is at work on {name}; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file in one step, its folder made when missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.chmod(mode)
    part.rename(path)


def digest(*parts: str | bytes) -> str:
    """SHA-256 over parts, each with its length, so that moving text from one part to the next changes it."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(str(len(data)).encode() + b":" + data)
    return total.hexdigest()


class Stopwatch:
    """Seconds since it was made, for progress lines."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start
