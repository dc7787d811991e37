# SPDX-License-Identifier: Apache-2.0
"""What the boot unit runs: make the data volume anew after a stop and start gave this host blank disks, and only then.

An array that is there, or that udev is about to assemble, is left to its line in /etc/fstab.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Tuple

from . import disks, volume

CONFIG = Path("/etc/trainyard/instance-store.json")

#: How long the disks may take to appear after the kernel started, seconds.
APPEAR_S = 60.0

#: How long systemd may take to mount a fresh filesystem whose label it waits for, seconds.
MOUNT_S = 10.0


def run(argv: List[str]) -> Tuple[int, str, str]:
    """Run a command; its absence is a status as the shell has it."""
    try:
        result = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return 127, "", f"{argv[0]}: not found"
    return result.returncode, result.stdout, result.stderr


def await_disks(config: Dict[str, Any]) -> List[disks.Disk]:
    """Return the instance-store disks once all of the volume's are there, or what is there at the deadline."""
    deadline_s = time.monotonic() + APPEAR_S
    while True:
        found = disks.candidates(run, config["model"], config["serial"])
        if len(found) >= config["count"] or time.monotonic() >= deadline_s:
            return found
        time.sleep(1.0)


def rebuild(config: Dict[str, Any]) -> str:
    """Make the volume when every disk is blank; return a line about what was done.

    Raises:
        volume.RefusedError: only some of the disks are blank, or fewer are there than the volume was made of.
    """
    wanted = volume.Wanted(**config["volume"])
    found = await_disks(config)
    if found and not any(disk.blank for disk in found):
        return "the disks hold the volume; nothing to do"
    if len(found) != config["count"] or not all(disk.blank for disk in found):
        raise volume.RefusedError(
            f"{len(found)} instance-store disks are here, {config['count']} made the volume, and it is not made anew "
            f"unless all are here and blank: {'; '.join(map(str, found)) or 'none'}. Run the provision playbook"
        )
    steps = [step for step in volume.plan(volume.look(run, wanted, found), wanted) if step.kind != "mount"]
    volume.carry_out(run, steps, wanted)
    mount(wanted.mount)
    if not os.path.ismount(wanted.mount):
        raise disks.StorageError(f"{wanted.mount} is not mounted although its filesystem was made")
    shutil.chown(wanted.mount, config["owner"], config["group"])
    Path(wanted.mount).chmod(int(config["mode"], 8))
    return "; ".join(step.says for step in steps)


def mount(where: str) -> None:
    """Have a fresh filesystem mounted: by systemd, which waits for its label during boot, or else by this program."""
    Path(where).mkdir(parents=True, exist_ok=True)
    deadline_s = time.monotonic() + MOUNT_S
    while not os.path.ismount(where) and time.monotonic() < deadline_s:
        time.sleep(0.5)
    if not os.path.ismount(where):
        run(["mount", where])


def main() -> int:
    """Entry point; exit status 1 with the reason on stderr when the volume could not be made."""
    try:
        print(rebuild(json.loads(CONFIG.read_text(encoding="utf-8"))))  # noqa: T201 - the unit's journal
    except (OSError, disks.StorageError, volume.RefusedError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - the unit's journal
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
