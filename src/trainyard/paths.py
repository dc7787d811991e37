"""Where things are, in a checkout and where a wheel was installed, so that no other module counts parent folders.

The pure core that the playbooks use lives in the collection; importing this module makes it importable.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
#: What a wheel carries of the tree beside these modules (release/wheel.py): the collection, recipes, the lab.
_CARRIED = _PACKAGE / "project"
#: Whether this is an installed wheel, which is never written to, and no checkout.
INSTALLED = _CARRIED.is_dir()

#: The root of the checkout, or of what the wheel carries of it.
ROOT = _CARRIED if INSTALLED else _PACKAGE.parents[1]

COLLECTIONS = ROOT / "collections"
#: Where `.lab` is: of a checkout its root, else a place of the user's.
STATE = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "trainyard" if INSTALLED else ROOT
#: Where benchmarks leave their runs: in a checkout, else where the user is.
RESULTS = (Path.cwd() if INSTALLED else ROOT) / "results"


def playbook(name: str) -> Path:
    """Return a playbook's file by its verb: a built collection has all of them, a checkout has them at its root."""
    if INSTALLED:
        return COLLECTIONS / "ansible_collections/trainyard/neuron/playbooks" / f"{name}.yml"
    return ROOT / "site.yml" if name == "site" else ROOT / "playbooks" / f"{name}.yml"


def called(name: str) -> str:
    """Return what stands behind `ansible-playbook` for a verb, in the words of who reads it."""
    return f"trainyard.neuron.{name}" if INSTALLED else str(playbook(name).relative_to(ROOT))


def absolute(source: str) -> str:
    """Return an inventory source as every directory finds it; a list of hosts is none and stays as it is."""
    return str(Path(source).resolve()) if Path(source).exists() else source


if str(COLLECTIONS) not in sys.path:
    sys.path.insert(0, str(COLLECTIONS))
