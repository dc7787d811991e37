# SPDX-License-Identifier: Apache-2.0
"""The data volume on real (emulated) NVMe disks: made, kept, made anew, and never over somebody's data.

One machine goes through its life in the order of the tests; each needs the one before it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from typing import Any

import pytest

from tests.vm.conftest import THROTTLE
from tests.vm.machine import Machine
from trainyard.paths import ROOT

pytestmark = [pytest.mark.vm, pytest.mark.xdist_group("vm")]

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


def volume(machine: Machine) -> str:
    """Return what is mounted at /data: filesystem and label."""
    return machine.run("findmnt --noheadings --output FSTYPE,LABEL --mountpoint /data", check=False).stdout.strip()


def test_disks_that_hold_something_are_refused_and_unchanged(machine: Machine) -> None:
    machine.start()
    name = by_serial(machine)
    first, second, third, _fourth = (name[drive.serial] for drive in machine.drives[:4])
    machine.run(
        f"mkfs.ext4 -q -L precious {first} && echo 'label: gpt\n,' | sfdisk -q {second} && pvcreate -q {third} && sync"
    )
    machine.run("udevadm settle")
    before = {drive.serial: drive.sha256() for drive in machine.drives}
    expected = {
        machine.drives[0].serial: "signature ext4",
        machine.drives[1].serial: "partition table gpt with 1 partition",
        machine.drives[2].serial: "signature LVM2_member",
        "vol0123456789abcdef0": "mounted at /",
    }
    everything = role(machine, fails=True, nvme_raid_serial="(AWS|vol).*")
    for serial, claim in expected.items():
        assert serial in everything
        assert claim in everything
    assert "Nothing was changed" in everything
    for serial in list(expected)[:3]:
        assert serial in role(machine, fails=True, nvme_raid_disks=[serial])
    root = role(machine, fails=True, nvme_raid_serial="vol.*", nvme_raid_wipe=["vol0123456789abcdef0"])
    assert "mounted at /" in root
    machine.run("sync")
    assert {drive.serial: drive.sha256() for drive in machine.drives} == before
    assert machine.run("blkid -o value -s LABEL /dev/disk/by-label/precious").stdout.strip() == "precious"


def test_permission_names_the_disk(machine: Machine) -> None:
    serials = [drive.serial for drive in machine.drives[:4]]
    refused = role(machine, fails=True, nvme_raid_wipe=serials[:2])
    assert serials[2] in refused
    assert "signature ext4" not in refused
    checked = role(machine, "--check", "--diff", nvme_raid_wipe=serials[:3])
    assert "make RAID 0 /dev/md/data over 4 disks" in checked
    assert volume(machine) == ""
    assert changed(role(machine, nvme_raid_wipe=serials[:3], nvme_raid_mode="0750")) > 0
    assert volume(machine).split() == ["xfs", "data"]
    assert machine.run("stat --format=%a /data").stdout.strip() == "750"
    assert machine.run("mdadm --detail /dev/md/data | grep -c 'active sync'").stdout.strip() == "4"


def test_second_run_changes_nothing(machine: Machine) -> None:
    assert changed(role(machine, nvme_raid_mode="0750")) == 0
    assert changed(role(machine, "--check", nvme_raid_mode="0750")) == 0


def test_growing_and_shrinking_are_refused(machine: Machine) -> None:
    serials = [drive.serial for drive in machine.drives]
    assert "cannot grow from 4 disks to 5" in role(machine, fails=True, nvme_raid_serial="(AWS|OTHER).*")
    assert "do not make up one array" in role(machine, fails=True, nvme_raid_disks=serials[:3])


def test_reboot_keeps_the_data(machine: Machine) -> None:
    machine.run("echo kept > /data/kept && sync")
    machine.reboot()
    assert machine.run("cat /data/kept").stdout == "kept\n"
    assert changed(role(machine, nvme_raid_mode="0750")) == 0


def test_stop_and_start_gives_an_empty_volume_with_no_ones_help(machine: Machine) -> None:
    names = by_serial(machine)
    machine.stop()
    for drive in machine.drives[:4]:
        drive.blank()
        drive.bytes_per_s = THROTTLE
    machine.drives[4].bytes_per_s = THROTTLE
    machine.drives.reverse()
    machine.start()
    assert by_serial(machine) != names
    assert volume(machine).split() == ["xfs", "data"]
    assert machine.run("ls -A /data").stdout == ""
    assert machine.run("stat --format=%a /data").stdout.strip() == "750"
    assert machine.run("systemctl is-failed trainyard-instance-store", check=False).stdout.strip() == "active"
    assert changed(role(machine, nvme_raid_mode="0750")) == 0


@pytest.mark.parametrize("direction", ["read", "write"])
def test_stripes_add_up(machine: Machine, direction: str) -> None:
    def speed(target: str) -> float:
        options = f"--name=x --rw={direction} --bs=1M --iodepth=8 --ioengine=libaio --direct=1 --runtime=8 --time_based"
        output = machine.run(f"fio {options} --output-format=json --size=256M {target}").stdout
        return float(json.loads(output[output.index("{") :])["jobs"][0][direction]["bw_bytes"])

    one = speed(f"--filename={by_serial(machine)['OTHER0']}")
    four = speed("--directory=/data")
    assert four >= 3.5 * one, f"one disk {one / 1e6:.1f} MB/s, four {four / 1e6:.1f} MB/s"


def test_undo_leaves_the_data_on_the_disks(machine: Machine) -> None:
    machine.run("echo kept > /data/kept && sync")
    assert changed(role(machine, nvme_raid_state="absent")) > 0
    assert volume(machine) == ""
    assert "data" not in machine.run("cat /etc/fstab").stdout
    assert machine.run("ls /etc/systemd/system/trainyard-instance-store.service", check=False).returncode != 0
    assert changed(role(machine, nvme_raid_state="absent")) == 0
    role(machine, nvme_raid_mode="0750")
    assert machine.run("cat /data/kept").stdout == "kept\n"
