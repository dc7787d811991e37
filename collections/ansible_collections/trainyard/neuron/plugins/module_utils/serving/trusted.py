# SPDX-License-Identifier: Apache-2.0
"""Files of a directory that a server may write in: read and written without being led anywhere else.

A replica's run-time directory belongs to the user that its programs run as, and so its server may put there what it
likes: a link to a secret, a pipe that never ends, a gigabyte. What reads there reads a plain file of the directory's
own owner, up to a limit; what writes there writes in its own directory alone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import Tuple

STATE_LIMIT = 64 * 1024
"""Bytes of a file of state: a process id, a gate's record, a reason."""
CONFIGURATION_LIMIT = 1024 * 1024
"""Bytes of a replica's configuration."""


class UntrustedError(OSError):
    """A file that is not what it should be: a link, somebody else's, too large. Nothing of it was read or written."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(errno.EPERM, why, str(path))


def read_text(path: Path, limit: int = STATE_LIMIT) -> str:
    """A small plain file that belongs to whoever owns its directory.

    Args:
        path: the file; neither it nor its directory is taken if it is a link.
        limit: bytes; a larger file is not read.

    Raises:
        UntrustedError: it is no such file.
        OSError: it is not there or may not be read.
        UnicodeDecodeError: it is no text.
    """
    directory, owner = _directory(path)
    try:
        # Without O_NONBLOCK the opening of a pipe would wait for ever.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = _opened(path, flags, directory)
    finally:
        os.close(directory)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UntrustedError(path, "is no plain file")
        if status.st_uid != owner:
            raise UntrustedError(path, "belongs to user {0}, its directory to {1}".format(status.st_uid, owner))
        data = file.read(limit + 1)
    if len(data) > limit:
        raise UntrustedError(path, "has more than {0} bytes".format(limit))
    return data.decode("utf-8")


def there(path: Path) -> bool:
    """Whether there is a plain file of that name; a link is none."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def write_text(path: Path, text: str, mode: int = 0o640) -> None:
    """Write a file at once in a directory of this process's own user.

    Args:
        path: the file; what is there, a link too, is replaced and not written to.
        text: its content.
        mode: its permissions, whatever the umask.

    Raises:
        UntrustedError: the directory belongs to somebody else, who could lead the write elsewhere.
        OSError: the directory is not there, or the disk is full.
    """
    directory, owner = _directory(path)
    staged = path.name + ".new"
    try:
        if owner != os.geteuid():
            said = "belongs to user {0} and is written to by {1}".format(owner, os.geteuid())
            raise UntrustedError(path.parent, said)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(staged, dir_fd=directory)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(staged, flags, mode, dir_fd=directory)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(text.encode("utf-8"))
        os.replace(staged, path.name, src_dir_fd=directory, dst_dir_fd=directory)
    finally:
        os.close(directory)


def _directory(path: Path) -> Tuple[int, int]:
    """The directory of a path, open, and its owner."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = _opened(path.parent, flags)
    return descriptor, os.fstat(descriptor).st_uid


def _opened(path: Path, flags: int, directory: int = -1) -> int:
    try:
        return os.open(path, flags) if directory < 0 else os.open(path.name, flags, dir_fd=directory)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise UntrustedError(path, "is a link, or no directory") from error
        raise
