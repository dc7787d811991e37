# SPDX-License-Identifier: Apache-2.0
"""Files that a command writes where somebody said: nobody else's is replaced, and none is ever half written."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import typer

#: What of a file is looked at, to know whose it is.
LOOKED_AT = 1 << 16


class TakenError(OSError):
    """The file is there and somebody else's."""


def write(path: Path, content: str | bytes, ours: Callable[[bytes], bool]) -> None:
    """Write a file, or replace one that the same command wrote.

    What is no regular file, as a terminal or a pipe, is written to as it is. A link is followed.

    Args:
        path: where.
        content: of the file, in UTF-8 where it is text.
        ours: whether a file that begins so is one that the command wrote before; an empty one always is.

    Raises:
        TakenError: it is not.
        OSError: it cannot be written.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = None
    if mode is not None and not stat.S_ISREG(mode):
        path.write_bytes(data)  # by this name: what /dev/stdout leads to has no other
        return
    target = Path(os.path.realpath(path))
    if mode is not None:
        with target.open("rb") as old:
            begins = old.read(LOOKED_AT)
        if begins and not ours(begins):
            raise TakenError(
                errno.EEXIST, "it is there, and this command did not make it: remove it, or name another", str(path)
            )
    _replace(target, data, None if mode is None else stat.S_IMODE(mode))


def write_or_exit(path: Path, content: str | bytes, ours: Callable[[bytes], bool]) -> None:
    """Write a file as `write` does, for a command.

    Raises:
        typer.Exit: with 2 where it cannot be written, which is told.
    """
    try:
        write(path, content, ours)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        typer.echo(f"error: {path} cannot be written: {why}", err=True)
        raise typer.Exit(2) from error


def begins_with(*beginnings: str) -> Callable[[bytes], bool]:
    """Return what knows files by how they begin."""
    known = tuple(one.encode("utf-8") for one in beginnings)
    return lambda data: data.startswith(known)


def _replace(target: Path, data: bytes, mode: int | None) -> None:
    if mode is None:
        # As open() would make it; the mask can only be read by setting it.
        mask = os.umask(0)
        os.umask(mask)
        mode = 0o666 & ~mask
    number, beside = tempfile.mkstemp(prefix=".", suffix=".new", dir=target.parent)
    try:
        with os.fdopen(number, "wb") as new:
            new.write(data)
            os.fchmod(new.fileno(), mode)
        Path(beside).replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(beside).unlink()
        raise
