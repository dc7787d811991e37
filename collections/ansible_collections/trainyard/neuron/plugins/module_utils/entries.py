# SPDX-License-Identifier: Apache-2.0
"""The wanted paths of a ``file_tree`` task, and the form in which they travel from the controller to the host."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

FILE_MODE = 0o644
DIRECTORY_MODE = 0o755


@dataclass(frozen=True)
class Entry:
    """One wanted path.

    Attributes:
        path: absolute path on the host.
        state: ``file``, ``directory``, ``link`` or ``absent``.
        content: the bytes of a file.
        target: what a link points to, as it is written into the link.
        previous: a second link that gets the old target when this one moves.
        owner: user name or number; None leaves it as it is.
        group: group name or number; None leaves it as it is.
        mode: permission bits; None stands for 0644 (file) and 0755 (directory).
        validate: command that must exit 0 before the file lands, with ``%s`` for the staged file.
        sensitive: keep the content out of every diff and message.
        prune: names (globs) inside a directory that are removed when no other entry wants them.
    """

    path: str
    state: str = "file"
    content: Optional[bytes] = None
    target: Optional[str] = None
    previous: Optional[str] = None
    owner: Optional[str] = None
    group: Optional[str] = None
    mode: Optional[int] = None
    validate: Optional[str] = None
    sensitive: bool = False
    prune: Tuple[str, ...] = ()

    def wanted_mode(self) -> int:
        """Permission bits that the path is to have."""
        if self.mode is not None:
            return self.mode
        return DIRECTORY_MODE if self.state == "directory" else FILE_MODE


def pack(entries: Sequence[Entry]) -> str:
    """Entries as one printable string, the form in which they travel to the host.

    It is one opaque, unlogged parameter on purpose: Ansible censors every *value* of a ``no_log`` parameter in all
    output, so a parameter per content would blank out the diffs of the files that are no secret.
    """
    rows = []
    for entry in entries:
        row = {key: value for key, value in vars(entry).items() if value is not None and value is not False}
        if entry.content is not None:
            row["content"] = entry.content.decode("utf-8", "surrogateescape")
        rows.append(row)
    return base64.b64encode(zlib.compress(json.dumps(rows).encode("ascii"), zlib.Z_BEST_SPEED)).decode("ascii")


def unpack(payload: str) -> List[Entry]:
    """The inverse of `pack`."""
    entries = []
    for row in json.loads(zlib.decompress(base64.b64decode(payload)).decode("ascii")):
        if "content" in row:
            row["content"] = row["content"].encode("utf-8", "surrogateescape")
        row["prune"] = tuple(row.get("prune", ()))
        entries.append(Entry(**row))
    return entries
