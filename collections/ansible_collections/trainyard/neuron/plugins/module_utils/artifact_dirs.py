# SPDX-License-Identifier: Apache-2.0
"""The artifacts in a host's data directory, and which releases of replicas use them. Used by module `artifacts`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Dict, List, Optional

from ansible_collections.trainyard.neuron.plugins.module_utils.jobs import job, manifest, store

#: Releases of replicas, one directory each, and the links that say which of them serve or may serve again.
RELEASES = Path("/etc/vllm/releases")
LINKS = ("current", "previous")


def users(releases: Path = RELEASES) -> Dict[str, List[str]]:
    """Return for each digest the releases whose files name it, with `(current)` or `(previous)` where a link says so.

    A release that can still be gone back to counts: its artifact must stay.
    """
    roles: Dict[str, List[str]] = {}
    for link in LINKS:
        path = releases.parent / link
        if path.is_symlink():
            roles.setdefault(path.resolve().name, []).append(link)
    found: Dict[str, List[str]] = {}
    for path in sorted(releases.glob("*/*")):
        if not path.is_file():
            continue
        for digest in set(store.DIGEST.findall(path.read_text(encoding="utf-8", errors="replace"))):
            name = path.parent.name
            label = f"{name} ({', '.join(roles[name])})" if name in roles else name
            if label not in found.setdefault(digest, []):
                found[digest].append(label)
    return found


def describe(
    folder: Path, verify: bool = False, used_by: Optional[Dict[str, List[str]]] = None
) -> List[Dict[str, Any]]:
    """Return every artifact of a directory: what it is for, its size, what is wrong with it, and what uses it.

    Args:
        folder: directory that all artifacts of the host lie in.
        verify: read every file and compare its sum, instead of names and sizes alone.
        used_by: releases by digest.
    """
    if not folder.is_dir():
        return []
    return [
        {**one(path, verify), "used_by": (used_by or {}).get(path.name, [])}
        for path in sorted(folder.iterdir())
        if store.DIGEST.fullmatch(path.name)
    ]


def one(path: Path, verify: bool) -> Dict[str, Any]:
    """Return one artifact."""
    try:
        described = manifest.read(path)
        look = manifest.full_problems if verify else manifest.quick_problems
        problems = ["no manifest.json"] if described is None else look(path, described)
    except manifest.ManifestError as error:
        described, problems = None, [str(error)]
    return {
        "digest": path.name,
        "size_bytes": job.tree_bytes(path),
        "problems": problems,
        "inputs": described["inputs"] if described else {},
        "made": described["made"] if described else {},
    }


def remove(folder: Path, digest: str) -> None:
    """Remove an artifact from a host; its manifest goes first, so that nothing takes a half-removed one for whole."""
    path = folder / digest
    (path / manifest.NAME).unlink(missing_ok=True)
    job.stored_note(path).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)
