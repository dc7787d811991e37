# SPDX-License-Identifier: Apache-2.0
"""The defaults of the roles that a run will apply: before a role runs, its variables have only the inventory's."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from ansible import constants
from ansible_collections.trainyard.neuron.plugins.plugin_utils.preflight.questions import (
    LOCKS,
    PATCHED,
    ROLES,
    VARIABLES,
)


def defaults(loader: Any, playbook_dir: str) -> dict[str, Any]:
    """Return the defaults of the variables that are asked about, templates among them.

    Args:
        loader: Ansible's, which marks what it reads as its own to template.
        playbook_dir: the directory of the playbook, beside which or above which the roles are.
    """
    return _read(loader, _folders(playbook_dir))


def locks(loader: Any, playbook_dir: str) -> dict[str, str]:
    """Return the locked lists of Python packages that roles have, and the digest of the source that one patches.

    Args:
        loader: Ansible's.
        playbook_dir: as in `defaults`.
    """
    return _locks(loader, _folders(playbook_dir))


def _folders(playbook_dir: str) -> tuple[str, ...]:
    return (*map(str, constants.DEFAULT_ROLES_PATH or ()), *_around(playbook_dir))


@cache
def _locks(loader: Any, folders: tuple[str, ...]) -> dict[str, str]:
    found = {name: path.read_text(encoding="utf-8") for name, part in LOCKS.items() if (path := _first(folders, part))}
    patched = _first(folders, PATCHED[0])
    if patched:
        found["patched"] = str(_said(loader, patched).get(PATCHED[1], ""))
    return found


def _said(loader: Any, path: Path) -> Mapping[str, Any]:
    """Return what a file of variables says, to read and never to change.

    Without `unsafe` the loader copies all of it, value by value: half of what a host costs a worker that asks it.
    """
    return loader.load_from_file(str(path), unsafe=True) or {}


def _first(folders: tuple[str, ...], part: str) -> Path | None:
    return next((path for folder in folders if (path := Path(folder, part)).is_file()), None)


def _around(playbook_dir: str) -> tuple[str, ...]:
    folder = Path(playbook_dir or ".")
    return (str(folder / "roles"), str(folder.parent / "roles"))


@cache
def _read(loader: Any, folders: tuple[str, ...]) -> dict[str, Any]:
    kept = Path(
        constants.DEFAULT_LOCAL_TMP, f"trainyard-defaults-{sha256(json.dumps(folders).encode()).hexdigest()[:16]}"
    )
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads(kept.read_bytes()))
    found: dict[str, Any] = {}
    for role in ROLES:
        path = _first(folders, f"{role}/defaults/main.yml")
        if path:
            found.update({key: value for key, value in _said(loader, path).items() if key in VARIABLES})
    _keep(kept, found)
    return found


def _keep(path: Path, found: dict[str, Any]) -> None:
    """Keep for the run's other workers what one has read, of which a host is a process: YAML is slow to read.

    A template has to stay what the loader marked as one, so where there is one each reads for itself.
    """
    text = json.dumps(found)
    if "{{" in text or "{%" in text:
        return
    with contextlib.suppress(OSError), tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(text)
        file.flush()
        Path(file.name).rename(path)
