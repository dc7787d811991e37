"""Where things are in a checkout, so that no other module counts parent folders.

The pure core that the playbooks use lives in the in-tree collection; importing this module makes it importable.
"""

from __future__ import annotations

import sys
from pathlib import Path

#: The root of the checkout: trainyard runs from one, as its playbooks and its collection do.
ROOT = Path(__file__).resolve().parents[2]

COLLECTIONS = ROOT / "collections"


def absolute(source: str) -> str:
    """Return an inventory source as every directory finds it; a list of hosts is none and stays as it is."""
    return str(Path(source).resolve()) if Path(source).exists() else source


if str(COLLECTIONS) not in sys.path:
    sys.path.insert(0, str(COLLECTIONS))
