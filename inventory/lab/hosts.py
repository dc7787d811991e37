#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The lab as an Ansible inventory: prints what `trainyard lab up` wrote for the lab $TRAINYARD_LAB (default)."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def state() -> Path:
    """Return where labs are kept, as trainyard.paths has it: at the root of a checkout, else with the user's state."""
    root = Path(__file__).resolve().parents[2]
    if not (root.parent / "paths.py").is_file():  # a wheel carries this beside its modules
        return root
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "trainyard"


def main() -> int:
    """Print the inventory, one without hosts where there is no such lab: `--syntax-check` and `lab up` need none."""
    name = os.environ.get("TRAINYARD_LAB") or "default"
    path = state() / ".lab" / name / "inventory.json"
    if not path.exists():
        sys.stderr.write(f"no lab {name!r} is up: run `trainyard lab up --name {name}` first\n")
        sys.stdout.write('{"_meta": {"hostvars": {}}}')
        return 0
    sys.stdout.write(path.read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
