# SPDX-License-Identifier: Apache-2.0
"""Runs on a host of the lab: ends the module that replaces a replica at the moment the journal names a step.

Says ``runs`` when the replacement has begun, then waits for the step; prints ``killed at STEP`` with the step that the
journal names when nothing is left of the module. Standard library only.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

STATE = Path("/var/lib/trainyard/roll/state.json")
DEADLINE_S = 120.0


def step_of(name: str) -> str:
    """The step that the journal names for a replica."""
    try:
        return str(json.loads(STATE.read_text(encoding="utf-8"))["replicas"][name]["step"])
    except (OSError, ValueError, KeyError):
        return ""


def modules() -> list[int]:
    """Python processes that read their program from a connection, which is how Ansible runs a module."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        except OSError:
            continue
        if len(words) == 1 and Path(words[0].decode()).name.startswith("python3"):
            found.append(int(folder.name))
    return found


def main() -> None:
    """Wait for the beginning, then for the step, then kill."""
    name, wanted = sys.argv[1:3]
    deadline = time.monotonic() + DEADLINE_S
    while step_of(name) in ("", "planned") and time.monotonic() < deadline:
        time.sleep(0.001)
    sys.stdout.write("runs\n")
    while step_of(name) != wanted and time.monotonic() < deadline:
        time.sleep(0.0001)
    for pid in modules():
        os.kill(pid, signal.SIGKILL)
    sys.stdout.write(f"killed at {step_of(name)}\n")


if __name__ == "__main__":
    main()
