# SPDX-License-Identifier: Apache-2.0
"""The defaults of the roles that a run will apply: before a role runs, its variables have only the inventory's."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
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
    found: dict[str, Any] = {}
    for role in ROLES:
        path = _first(folders, f"{role}/defaults/main.yml")
        if path:
            found.update({key: value for key, value in _said(loader, path).items() if key in VARIABLES})
    return found
