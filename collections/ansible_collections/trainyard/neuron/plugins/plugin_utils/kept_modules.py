# SPDX-License-Identifier: Apache-2.0
"""Packed modules that a user's runs hand on to each other, under a digest of all that they were packed of.

Ansible keeps a packed module for one run, below that run's own temporary directory. What it wrote there is kept as it
is, and brought back where a later run would pack the same bytes. A packed module is code that hosts run as root, and
Ansible reads it back in a way that may run code on the controller too: what another user could have written is left
alone, at every step from the directory to the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

#: How many digests are kept: of the checkout that is used, of others beside it, of the ones before a change.
DIGESTS = 8

#: Files of other modules are not ours to hand on.
OURS = "ansible_collections.trainyard.neuron.plugins.modules."

#: No packed module is larger, bytes.
FILE_BYTES = 16 << 20


def place() -> Path | None:
    """Return where a user's packed modules are kept; None for a user without a home."""
    with contextlib.suppress(RuntimeError):
        told = Path(os.environ.get("XDG_CACHE_HOME", ""))
        return (told if told.is_absolute() else Path.home() / ".cache") / "trainyard" / "modules"
    return None


def digest(words: Iterable[str], roots: Iterable[Path]) -> str:
    """Return a digest of words and of every Python file below directories: their places, names and bytes.

    Raises:
        OSError: a file cannot be read.
    """
    found = hashlib.sha256()
    for word in words:
        found.update(f"{word}\0".encode(errors="surrogateescape"))
    for root in roots:
        for path in sorted(root.rglob("*.py")):
            content = path.read_bytes()
            found.update(f"{path}\0{len(content)}\0".encode(errors="surrogateescape"))
            found.update(content)
    return found.hexdigest()


def bring(base: Path, name: str, run: Path) -> None:
    """Copy what is kept under a digest into a run's own directory, which is made; nothing where anything is in doubt.

    Raises:
        OSError: the run's directory cannot be written.
    """
    with _opened(base) as top, _below(top, name) as kept:
        there = _packed(kept)
        if kept is None or not there:
            return
        run.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _opened(run) as own:
            for packed in there if own is not None else []:
                content = whole(_read(kept, packed) or b"")
                if own is not None and content is not None:
                    _write(own, packed, content)
        os.utime(kept)


def keep(base: Path, name: str, run: Path) -> None:
    """Keep what a run packed under a digest, and of the digests those that were used last.

    Raises:
        OSError: the directory cannot be written.
    """
    with _opened(run) as own:
        if own is None or not _packed(own):
            return
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _opened(base) as top:
            if top is None:
                return
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=top)
            with _below(top, name) as kept:
                for packed in sorted(set(_packed(own)) - set(_packed(kept))) if kept is not None else []:
                    content = _read(own, packed)
                    if kept is not None and content is not None:
                        _write(kept, packed, sealed(content))
            _drop_oldest(top)


def sealed(content: bytes) -> bytes:
    """Return content behind its digest: a machine that loses its power may leave a file that is cut off."""
    return hashlib.sha256(content).digest() + content


def whole(kept: bytes) -> bytes | None:
    """Return what stands behind a digest; None where it is not that."""
    size = hashlib.sha256().digest_size
    return kept[size:] if hashlib.sha256(kept[size:]).digest() == kept[:size] else None


def _names(folder: int | None) -> list[str]:
    if folder is None:
        return []
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries]


def _packed(folder: int | None) -> list[str]:
    """Return the whole files of our modules in a directory: no locks, and nothing half written."""
    ours = [name for name in _names(folder) if name.startswith(OURS)]
    return sorted(name for name in ours if not name.endswith((".lock", "-part")))


def _write(folder: int, name: str, content: bytes) -> None:
    """Put a file in its place whole, for nobody else to read."""
    beside = f"{name}.{os.getpid()}-part"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(beside, flags, 0o600, dir_fd=folder), "wb") as file:
        file.write(content)
    os.rename(beside, name, src_dir_fd=folder, dst_dir_fd=folder)


def _read(folder: int, name: str) -> bytes | None:
    """Return what a file of this user's holds; None where somebody else could have written it."""
    try:
        opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return None
    with os.fdopen(opened, "rb") as file:
        status = os.fstat(opened)
        if not stat.S_ISREG(status.st_mode) or not _only_ours(status) or status.st_size > FILE_BYTES:
            return None
        return file.read(FILE_BYTES)


@contextlib.contextmanager
def _opened(path: Path | str, top: int | None = None) -> Iterator[int | None]:
    """Open a directory of this user's that nobody else may write; None where it is no such."""
    opened: int | None = None
    with contextlib.suppress(OSError):
        opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
    try:
        yield opened if opened is not None and _only_ours(os.fstat(opened)) else None
    finally:
        if opened is not None:
            os.close(opened)


@contextlib.contextmanager
def _below(top: int | None, name: str) -> Iterator[int | None]:
    """Open a directory below one that was opened; None below none."""
    if top is None:
        yield None
    else:
        with _opened(name, top) as folder:
            yield folder


def _only_ours(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _drop_oldest(top: int) -> None:
    """Remove the digests that no run used for the longest time."""
    used = {name: os.stat(name, dir_fd=top, follow_symlinks=False).st_mtime_ns for name in _names(top)}
    for name in sorted(used, key=lambda one: used[one])[:-DIGESTS]:
        with _below(top, name) as folder:
            for packed in _names(folder):
                os.unlink(packed, dir_fd=folder)
        with contextlib.suppress(OSError):
            os.rmdir(name, dir_fd=top)
