# SPDX-License-Identifier: Apache-2.0
"""The artifacts in a host's data directory, and which releases of replicas use them. Used by module `artifacts`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.jobs import job, manifest, store
from ansible_collections.trainyard.neuron.plugins.module_utils.serving import layout


def users(root: Path = layout.ROOT) -> Dict[str, List[str]]:
    """Return for each digest the releases of replicas whose files name it: `release 1f0a33c2b9de of llama-0 (current)`.

    A release has the id that `status` prints. One that can still be gone back to counts: its artifact must stay; so
    does one that cannot be read.

    Args:
        root: what `/etc/vllm` is.
    """
    links: Dict[Tuple[str, str], Dict[str, List[str]]] = {}
    for path in layout.staged_files(root):
        digests = set(store.DIGEST.findall(path.read_text(encoding="utf-8", errors="replace")))
        release = layout.release_id(layout.entry_of(path.with_suffix(layout.ENTRY))) or "that cannot be read"
        for digest in digests:
            found = links.setdefault((path.stem, release), {}).setdefault(digest, [])
            found += [role for role in layout.roles_of(path, root) if role not in found]
    named: Dict[str, List[str]] = {}
    for (replica, release), by_digest in sorted(links.items()):
        for digest, roles in by_digest.items():
            label = "release {0} of {1}".format(release, replica)
            named.setdefault(digest, []).append("{0} ({1})".format(label, ", ".join(roles)) if roles else label)
    return named


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
