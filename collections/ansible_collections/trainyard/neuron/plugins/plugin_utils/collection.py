# SPDX-License-Identifier: Apache-2.0
"""What this collection says of itself, in a checkout and where it was installed."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

HOME = Path(__file__).resolve().parents[2]


def collection_version(home: Path = HOME) -> str:
    """The collection's version, by what `ansible-galaxy` wrote beside an installed one, or by a checkout's own file.

    Args:
        home: the collection's directory.
    """
    installed = home / "MANIFEST.json"
    if installed.exists():
        return str(json.loads(installed.read_text(encoding="utf-8"))["collection_info"]["version"])
    return str(yaml.safe_load((home / "galaxy.yml").read_text(encoding="utf-8"))["version"])
