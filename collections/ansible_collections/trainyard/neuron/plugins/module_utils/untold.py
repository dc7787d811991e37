# SPDX-License-Identifier: Apache-2.0
"""What changed on a host and its units have not been told yet: a note that outlasts the run which changed it.

A unit is restarted or reloaded because a file changed "in this run". Where files are laid out now and units brought up
by another task or another run, and where a run is cut off between the two, that a file changed has to be kept.
Standard library only: it runs on the hosts' Python (3.9 and newer).
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import List, Sequence

NOTES = Path("/var/lib/trainyard/untold")
LIMIT_BYTES = 1024 * 1024


class NoteError(Exception):
    """A note that cannot be read or written; says what to do."""


@dataclass(frozen=True)
class Note:
    """The paths of one owner (a role) that changed and whose units have not been told.

    Attributes:
        name: of the owner, as `NAME` has it.
    """

    name: str

    def __post_init__(self) -> None:
        """Refuse a name that would lead elsewhere.

        Raises:
            NoteError: the name has other characters than those of a role's name.
        """
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", self.name):
            raise NoteError("{0!r} is no name of a note: lower-case letters, digits and _ alone".format(self.name))

    @property
    def path(self) -> Path:
        """The file."""
        return NOTES / (self.name + ".json")

    def read(self) -> List[str]:
        """The paths, in the order in which they changed; empty where there is no note.

        Raises:
            NoteError: the file is not what `write` wrote.
        """
        try:
            with self.path.open("rb") as file:
                raw = file.read(LIMIT_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise NoteError("{0}: {1}".format(self.path, error)) from error
        try:
            paths = json.loads(raw.decode("utf-8")) if len(raw) <= LIMIT_BYTES else None
        except (ValueError, RecursionError):
            paths = None
        if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
            raise NoteError(
                "{0} says which files changed since their units were told, and cannot be read: remove it, and "
                "restart the units of {1}".format(self.path, self.name)
            )
        return paths

    def write(self, paths: Sequence[str]) -> None:
        """Keep these paths and no others; none at all removes the note. It is there whole, or as it was before.

        Raises:
            NoteError: it cannot be written.
        """
        try:
            if not paths:
                self.path.unlink()
                return
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            beside = self.path.with_suffix(".new")
            with beside.open("w", encoding="utf-8") as file:
                file.write(json.dumps(list(paths)))
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self.path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise NoteError("{0}: {1}".format(self.path, error)) from error
