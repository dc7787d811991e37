# SPDX-License-Identifier: Apache-2.0
"""What a node is sent: the toolkit, and the whole inventory as it is read here, whoever it was asked of."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from trainyard.paths import COLLECTIONS, INSTALLED, ROOT, called

from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan import pinned_images  # isort: skip

#: In the directory that is sent: the inventory in its `inventory`, and what that prints.
INVENTORY, ANSWER = "fleet", "fleet.json"
#: Ansible calls it and reads what it prints, in the form in which trust and vaults are kept apart.
_SCRIPT = f"""#!/bin/sh
exec cat "$(dirname "$0")/../{ANSWER}"
"""
_TREE = ("ansible.cfg", "site.yml", "playbooks", "roles", "templates", "collections")
_LEFT_OUT = shutil.ignore_patterns("__pycache__", ".*", "tests", "*.pyc")


class ParcelError(Exception):
    """What the nodes need cannot be put together; one line."""


def pack(folder: Path, inventory: Sequence[str]) -> None:
    """Put into a directory what ansible-runner sends.

    Args:
        folder: an empty directory that only this user can read.
        inventory: sources, as after `-i`.

    Raises:
        ParcelError: the inventory cannot be read.
    """
    project = folder / "project"
    if INSTALLED:
        collection = "ansible_collections/trainyard/neuron"
        shutil.copytree(COLLECTIONS / collection, project / "collections" / collection, ignore=_LEFT_OUT)
        shutil.copy(ROOT / "ansible.cfg", project / "ansible.cfg")
    else:
        for name in _TREE:
            _copy(ROOT / name, project / name)
    sources = [word for source in inventory for word in ("--inventory", source)]
    argv = ["ansible-inventory", *sources, "--list", "--export", "--output", str(folder / ANSWER)]
    environment = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), **os.environ}
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ParcelError(f"ansible-inventory: {' '.join(done.stderr.split()) or 'it ended without a word'}")
    script = folder / "inventory" / INVENTORY
    script.parent.mkdir()
    script.write_text(_SCRIPT, encoding="utf-8")
    script.chmod(0o700)
    for source in inventory:
        path = Path(source)
        beside = path if path.is_dir() else path.parent
        known = pinned_images.read(pinned_images.file_of_inventory(str(beside)))
        if known:
            pinned_images.add(str(script.with_name(pinned_images.NAME)), known)


def playbook_of(verb: str) -> str:
    """Return how a node names a playbook, from the directory that it is sent."""
    return called(verb)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=_LEFT_OUT, symlinks=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
