# SPDX-License-Identifier: Apache-2.0
"""What the boot unit runs: bring the data volume up, and make it anew after a stop and start gave blank disks.

The volume's line in /etc/fstab gives up after some seconds, so that a host without its disks still boots; on a slow
boot those seconds can be too few for disks that are there. So this program mounts what is there as well.
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


def bring_up(config: Dict[str, Any]) -> str:
    """Assemble and mount the volume, or make it when every disk is blank; return a line about what was done.

    Raises:
        volume.RefusedError: the disks hold something else, only some are blank, or fewer are there than made it.
    """
    wanted = volume.Wanted(**config["volume"])
    found = await_disks(config)
    if found and not any(disk.blank for disk in found):
        return keep(wanted, found)
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


def keep(wanted: volume.Wanted, found: List[disks.Disk]) -> str:
    """Assemble and mount a volume that is there; nothing is written to its disks.

    Raises:
        volume.RefusedError: more would have to be done, which is the provision playbook's to decide.
    """
    steps = volume.plan(volume.look(run, wanted, found), wanted)
    more = [step.says for step in steps if step.kind not in ("assemble", "mount")]
    if more:
        raise volume.RefusedError(f"left alone, run the provision playbook: {'; '.join(more)}")
    volume.carry_out(run, [step for step in steps if step.kind == "assemble"], wanted)
    mount(wanted.mount)
    if not os.path.ismount(wanted.mount):
        raise disks.StorageError(f"{wanted.mount} cannot be mounted although its disks are here")
    return "; ".join(step.says for step in steps) or "the volume is there"


def mount(where: str) -> None:
    """Have a filesystem mounted: by systemd, which waits for its label during boot, or else by this program."""
    Path(where).mkdir(parents=True, exist_ok=True)
    deadline_s = time.monotonic() + MOUNT_S
    while not os.path.ismount(where) and time.monotonic() < deadline_s:
        time.sleep(0.5)
    if not os.path.ismount(where):
        run(["mount", where])


def main() -> int:
    """Entry point; exit status 1 with the reason on stderr when the volume could not be made."""
    try:
        print(bring_up(json.loads(CONFIG.read_text(encoding="utf-8"))))  # noqa: T201 - the unit's journal
    except (OSError, disks.StorageError, volume.RefusedError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - the unit's journal
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
