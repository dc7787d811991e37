# SPDX-License-Identifier: Apache-2.0
"""What the tests ask of a virtual machine: run the role on it, and say how its disks and its volume are."""

from __future__ import annotations

import json
import os
import re
import subprocess
from typing import Any

from tests.vm.machine import Machine
from trainyard.paths import ROOT

#: Emulated disks all have this model; the serial number tells instance store (AWS...) from the root disk (vol...).
CHOICE = {"nvme_raid_model": "QEMU NVMe Ctrl", "nvme_raid_serial": "AWS.*"}


def role(machine: Machine, *flags: str, fails: bool = False, **variables: Any) -> str:
    """Run the role; return what Ansible printed."""
    argv = ["ansible-playbook", "-i", str(machine.inventory()), "tests/vm/nvme_raid.yml", *flags]
    argv += ["--extra-vars", json.dumps({**CHOICE, **variables})]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    result = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode != 0) is fails, result.stdout + result.stderr
    return result.stdout + result.stderr


def changed(output: str) -> int:
    """Return how many tasks changed something."""
    return int(re.findall(r"changed=(\d+)", output)[-1])


def by_serial(machine: Machine) -> dict[str, str]:
    """Return the kernel's name of each disk in this boot."""
    lines = machine.run("lsblk --nodeps --noheadings --output SERIAL,PATH").stdout.split("\n")
    return dict(line.split() for line in lines if len(line.split()) == 2)


def volume(machine: Machine, mount: str = "/data") -> list[str]:
    """Return what is mounted there: filesystem and label, nothing where nothing is."""
    words = f"findmnt --noheadings --output FSTYPE,LABEL --mountpoint {mount}"
    return machine.run(words, check=False).stdout.split()
