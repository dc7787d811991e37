# SPDX-License-Identifier: Apache-2.0
"""Writes down what the hosts of a lab have before anything is done to them: `python -m tests.site_life.look`."""

from __future__ import annotations

import base64
import json
import os

from tests.attack.test_teardown_on_a_lab import LOOK
from tests.stand_in import Lab

HOSTS = ("lab-1", "lab-2")
FILE = "before.json"


def look(lab: Lab, host: str) -> dict[str, list[str]]:
    """Files, users, groups, units, packages and rules of a host, by name."""
    packed = base64.b64encode(LOOK.encode()).decode()
    return dict(json.loads(lab.on(host, f"echo {packed} | base64 -d | python3 -")))


def main() -> None:
    """Look at every host."""
    lab = Lab(os.environ["TRAINYARD_LAB"])
    (lab.folder / FILE).write_text(json.dumps({host: look(lab, host) for host in HOSTS}), encoding="utf-8")


if __name__ == "__main__":
    main()
