# SPDX-License-Identifier: Apache-2.0
"""Where the configuration of a host's replicas lies, and what runs from it: the one place that says so in Python.

Role `vllm_endpoint` makes it, a roll switches in it, the replicas' programs start from it:

    /etc/vllm/releases/<id of the directory>/<replica>.json|env|conf   what a replica has in a release
    /etc/vllm/current/<replica>.json|env|conf                          links into it: what a start takes
    /etc/vllm/previous/<replica>.json|env|conf                         links into it: what a roll goes back to

A directory of releases is made for a whole host, and its id is nobody's release: that is what `<replica>.json` says.
Standard library only, since hosts run it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

ROOT = Path("/etc/vllm")
RELEASES, CURRENT, PREVIOUS = "releases", "current", "previous"
LINKS = (CURRENT, PREVIOUS)
FILES = (".json", ".env", ".conf")
"""What a replica has in a release: the plan's entry, the unit's environment, the unit's drop-in."""
ENTRY, ENVIRONMENT, DROP_IN = FILES
CONFIGURATION = ROOT / CURRENT
RULES = ROOT / "fence.nft"
RUNTIME = Path("/run/vllm")
"""A directory for each replica that runs: its own user's, of a container root's."""
STATE = Path("/var/lib/vllm")


def staged_entries(root: Path = ROOT, name: str = "*") -> Iterator[Path]:
    """Return the plan's entries of all releases of a replica, or of all replicas, complete or not."""
    return root.glob("/".join((RELEASES, "*", name + ENTRY)))


def staged_files(root: Path = ROOT) -> List[Path]:
    """Return the files of all replicas in all releases, sorted; not those that a directory has for all of them."""
    return sorted(path for path in root.glob(RELEASES + "/*/*") if path.suffix in FILES and path.is_file())


def linked(root: Path, side: str) -> Iterator[Path]:
    """Return the links of `current` or `previous` to the plan's entries, one for each replica."""
    return root.glob("/".join((side, "*" + ENTRY)))


def linked_entry(root: Path, side: str, name: str) -> Path:
    """Return the link of `current` or `previous` to a replica's plan entry, whether it is there or not."""
    return root / side / (name + ENTRY)


def roles_of(path: Path, root: Path) -> List[str]:
    """Return which of `current` and `previous` point a replica at this file of a release."""
    found = []
    for side in LINKS:
        link = root / side / path.name
        if link.is_symlink() and link.exists() and link.samefile(path):
            found.append(side)
    return found


def entry_of(path: Path) -> Dict[str, Any]:
    """Return the plan's entry in a release's file; empty if it is missing or unreadable."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return raw if isinstance(raw, dict) else {}


def release_id(entry: Dict[str, Any]) -> Optional[str]:
    """Return the release that an entry is of, as `status` and the roll name it; None if it says none."""
    found = entry.get("release")
    return found if isinstance(found, str) and found else None
