# SPDX-License-Identifier: Apache-2.0
"""What happened to a fleet: a line of JSON for each event, beside its inventory, that is only ever added to.

Rolls and healing write it, `trainyard events` shows it, and healing counts its own actions in it.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Dict, List

#: Of an extension that Ansible takes for no part of the inventory beside which it lies.
NAME = "trainyard_history.txt"
VARIABLE = "trainyard_history_file"
#: What is read of it, from its end: years of events.
MOST_BYTES = 8 << 20
LINE_BYTES = 64 * 1024
#: No event is so late; neither is NaN, which is less than nothing.
FOREVER_S = 1e12


class HistoryError(ValueError):
    """The history cannot be read or written; says what follows from that."""


def path_of(variables: Mapping[str, Any]) -> Path:
    """Where the history of a fleet is: what the inventory says, or beside the first inventory of the run.

    Args:
        variables: of any host of the run.
    """
    given = variables.get(VARIABLE)
    if given:
        return Path(str(given))
    return beside(str((variables.get("ansible_inventory_sources") or ["."])[0]))


def beside(source: str) -> Path:
    """The file beside an inventory: in it where it is a directory."""
    found = Path(source)
    return (found if found.is_dir() else found.parent) / NAME


def add(path: Path, event: Mapping[str, Any]) -> None:
    """Add an event, whole and on the disk before this returns.

    Args:
        path: the history.
        event: with `at_s`, seconds since 1970, and `what`.

    Raises:
        HistoryError: it cannot be written.
    """
    line = json.dumps(event, sort_keys=True)
    if len(line) > LINE_BYTES:
        raise HistoryError("an event of %d bytes is not written to %s: it is longer than any" % (len(line), path))
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            size = file.seek(0, os.SEEK_END)
            # Of a line that a full disk cut, the next one begins anew.
            whole = size == 0 or os.pread(file.fileno(), 1, size - 1) == b"\n"
            file.write((b"" if whole else b"\n") + line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise HistoryError("%s cannot be written: %s" % (path, error.strerror or error)) from error


def read(path: Path) -> List[Dict[str, Any]]:
    """The events, the oldest first; lines that are none are left out, since a full disk may have cut one.

    Raises:
        HistoryError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - MOST_BYTES))
            data = file.read(MOST_BYTES)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise HistoryError("%s cannot be read: %s" % (path, error.strerror or error)) from error
    if size > MOST_BYTES:
        data = data.partition(b"\n")[2]
    return [event for event in map(_event, data.splitlines()) if event]


def _event(line: bytes) -> Dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict) or not isinstance(found.get("what"), str):
        return {}
    at_s = found.get("at_s")
    timed = isinstance(at_s, (int, float)) and not isinstance(at_s, bool) and abs(at_s) < FOREVER_S
    return found if timed else {}
