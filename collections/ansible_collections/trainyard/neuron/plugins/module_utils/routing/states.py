# SPDX-License-Identifier: Apache-2.0
"""What operators and rolls have set at a router, kept in a file that HAProxy reads when it starts.

The file is HAProxy's own (`show servers state`), with a line that says what the rest of it has to be, so that half of
one or another's is noticed. It is kept twice: what is lost with it is which server must get nothing.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import List, Tuple

MOST_BYTES = 16 * 1024 * 1024
"""More than the states of any fleet; what is larger is not read."""
_VERSION = "1"
_MARK = "# trainyard sha256 "
_HEADER = "# be_id "
_FIELDS = 25
"""Fields of a row of version 1, at least. Source: HAProxy's management guide, `show servers state`."""
_NUMBERS = (0, 2, 5, 6, 7, 8)
"""Those of them that are whole numbers and that somebody here reads."""


class BrokenStatesError(Exception):
    """A file is not what a router's states were written as."""


def sibling(path: Path, word: str) -> Path:
    """Return a file of the same directory that goes with it: its ``copy``, or what was ``broken``."""
    return path.with_name("{0}.{1}".format(path.name, word))


def checked(text: str) -> str:
    """Return states without the line that vouches for them.

    Raises:
        BrokenStatesError: they are not whole, or no states.
    """
    lines = text.split("\n")
    if lines[0] != _VERSION or not text.endswith("\n"):
        raise BrokenStatesError("it does not begin or end as states do")
    if len(lines) > 1 and lines[1].startswith(_MARK):
        wanted = lines.pop(1)[len(_MARK) :]
        if _digest("\n".join(lines)) != wanted:
            raise BrokenStatesError("it was changed or cut after it was written")
    elif len(lines) < 2 or not lines[1].startswith(_HEADER):
        raise BrokenStatesError("line 2 does not name the fields of states")
    for number, line in enumerate(lines[1:], 2):
        cells = line.split(" ")
        if not line or line.startswith("#"):
            continue
        if len(cells) < _FIELDS or not all(cells[at].lstrip("-").isdigit() for at in _NUMBERS):
            raise BrokenStatesError("line {0} is no server's state".format(number))
    return "\n".join(lines)


def read(path: Path) -> str:
    """Return the states of a file.

    Raises:
        BrokenStatesError: it holds none.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise BrokenStatesError("it is larger than {0} bytes".format(MOST_BYTES))
    try:
        return checked(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BrokenStatesError("it is no text: {0}".format(error)) from error


def keep(path: Path, text: str) -> None:
    """Write states and their copy, each whole or not at all.

    Raises:
        BrokenStatesError: the text is no states; nothing was written.
        OSError: it cannot be written.
    """
    states = checked(text)
    version, _, rest = states.partition("\n")
    marked = "{0}\n{1}{2}\n{3}".format(version, _MARK, _digest(states), rest)
    for target in (sibling(path, "copy"), path):
        staged = sibling(target, "new")
        with staged.open("w", encoding="utf-8") as file:
            file.write(marked)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(target)


def recover(path: Path) -> Tuple[str, List[str]]:
    """Return the states to start with, and what is to be said of them.

    What is broken is put aside, so that HAProxy does not read it.

    Returns:
        The states, empty where there are none; and a line for each thing that somebody should know.
    """
    copy, said = sibling(path, "copy"), []
    states, broken = "", []
    for source in (path, copy):
        try:
            states = read(source)
            break
        except FileNotFoundError:
            continue
        except (BrokenStatesError, OSError) as error:
            broken.append(source)
            said.append("{0} is not what was written there: {1}".format(source, error))
    aside = sibling(path, "broken" if states else "lost")
    if broken:
        broken[0].replace(aside)
    if states and broken:
        said.append("its copy is used, and nothing is lost; the file is kept as {0}".format(aside))
    elif broken:
        said.append(lost(path))
    return states, said


def lost(path: Path) -> str:
    """Return what a router does not know any more since its states and their copy were broken; empty where it does."""
    aside = sibling(path, "lost")
    if not aside.exists():
        return ""
    return (
        "which servers were drained, in maintenance or on trial is lost: all but spares take requests. Look with"
        " `/usr/local/lib/trainyard/router status`, take one out again with `router drain SERVER`, then remove {0},"
        " which is what was left of the states"
    ).format(aside)


def _digest(states: str) -> str:
    return hashlib.sha256(states.encode("utf-8")).hexdigest()
