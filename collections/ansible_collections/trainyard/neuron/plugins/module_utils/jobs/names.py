# SPDX-License-Identifier: Apache-2.0
"""Names of files that others chose: a listing of S3 or of a hub, a manifest, another host, an archive, an index file.

Whoever may write such a list must not be able to say where on this host a file is read, written or removed. So every
name passes `relative`, and every path that is made of one comes from `inside`.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any, Dict, Iterable, List, Tuple

#: Longest name, bytes of UTF-8: what an S3 key may have.
NAME_BYTES = 1024

#: Longest part of a name, bytes: file systems take 255, and a download adds a suffix of its own.
PART_BYTES = 200

#: Unicode categories of what cannot be seen or changes what is seen: controls, formats (bidirectional marks among
#: them), surrogates, separators of lines and paragraphs.
UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})

#: How many wrong names an error lists.
TOLD = 5


class BadNameError(ValueError):
    """A name that is not taken; says which, from where, and why."""


def fault(name: object) -> str:
    """Return why a name cannot be that of a file below a directory, empty when it can."""
    if not isinstance(name, str):
        return "it is no text"
    if not name:
        return "it is empty"
    if any(unicodedata.category(character) in UNSEEN for character in name):
        return "it holds control or invisible characters"
    if len(name.encode()) > NAME_BYTES:
        return f"it has {len(name.encode())} bytes, {NAME_BYTES} are allowed"
    if "\\" in name:
        return "it holds a backslash"
    if name.startswith("/"):
        return "it is absolute"
    for part in name.split("/"):
        if part in ("", ".", ".."):
            return f"its part {part!r} names no file of the directory" if part != ".." else "it leads out by '..'"
        if len(part.encode()) > PART_BYTES:
            return f"a part of it has {len(part.encode())} bytes, {PART_BYTES} are allowed"
    return ""


def relative(name: object, origin: str) -> str:
    """Return a name as it is, when it is one of a file below a directory.

    Raises:
        BadNameError: it is not.
    """
    why = fault(name)
    if why:
        raise BadNameError(f"{origin} names a file {shown(name)}, which is refused: {why}")
    return str(name)


def inside(root: Path, name: object, origin: str) -> Path:
    """Return the path of a named file below `root`, where it is still below it after all links are followed.

    Raises:
        BadNameError: the name is refused, or a link on the way leads out of `root`.
    """
    path = root / relative(name, origin)
    real, real_root = os.path.realpath(path), os.path.realpath(root)
    if not real.startswith(real_root.rstrip("/") + "/"):
        raise BadNameError(f"{origin} names a file {shown(name)}, which is refused: a link takes it to {real}")
    return path


def listing(entries: Iterable[Dict[str, Any]], origin: str) -> List[Dict[str, Any]]:
    """Return the entries `{path, size, ...}` of a list of files, when all of them can lie in one directory together.

    Raises:
        BadNameError: with every name that is refused, is there twice or is a file and a folder, and every wrong size.
    """
    found = list(entries)
    wrong = [f"{shown(entry['path'])}: {fault(entry['path'])}" for entry in found if fault(entry["path"])]
    names = [entry["path"] for entry in found if not fault(entry["path"])]
    wrong += [f"{shown(name)}: it is there twice" for name in sorted(_twice(names))]
    folders = {folder for name in names for folder in parents(name)}
    wrong += [f"{shown(name)}: it is a file and a folder" for name in sorted(set(names) & folders)]
    wrong += [
        f"{shown(entry['path'])}: its size is {shown(entry['size'])}"
        for entry in found
        if isinstance(entry["size"], bool) or not isinstance(entry["size"], int) or entry["size"] < 0
    ]
    if wrong:
        more = f", and {len(wrong) - TOLD} more" if len(wrong) > TOLD else ""
        raise BadNameError(f"{origin} lists files that are refused: {'; '.join(wrong[:TOLD])}{more}")
    return found


def parents(name: str) -> Tuple[str, ...]:
    """Return the folders that a name goes through, the outermost first."""
    parts = name.split("/")
    return tuple("/".join(parts[:count]) for count in range(1, len(parts)))


def shown(value: object) -> str:
    """Return a value for a message: on one line, nothing in it unseen, and not longer than a line."""
    text = ascii(value)
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text)} characters)"


def _twice(names: List[str]) -> List[str]:
    return [name for name, count in Counter(names).items() if count > 1]
