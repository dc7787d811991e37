# SPDX-License-Identifier: Apache-2.0
"""The life of a data volume on real (emulated) NVMe disks: made, kept, made anew, as fast as its disks, and undone.

One machine goes through its life in the order of the tests; each needs the one before it.
"""

from __future__ import annotations

import json

import pytest

from tests.vm.machine import Machine
from tests.vm.play import by_serial, changed, role, volume

pytestmark = [pytest.mark.vm, pytest.mark.xdist_group("vm")]

DISKS = 4

#: As fast as the throttled drives of the striping test may be, bytes per second.
THROTTLE = 10_000_000

#: Not the default, so that what makes the volume anew is seen to read the settings.
MODE = {"nvme_raid_mode": "0750"}


def test_volume_is_made_as_check_mode_says(machine: Machine) -> None:
    machine.start()
    foretold = role(machine, "--check", "--diff", **MODE)
    assert "make RAID 0 /dev/md/data over 4 disks" in foretold
    assert volume(machine) == []
    assert changed(role(machine, **MODE)) == changed(foretold) > 0
    assert volume(machine) == ["xfs", "data"]
    assert machine.run("stat --format=%a /data").stdout.strip() == "750"
    assert machine.run("mdadm --detail /dev/md/data | grep -c 'active sync'").stdout.strip() == "4"


def test_second_run_changes_nothing(machine: Machine) -> None:
    assert changed(role(machine, **MODE)) == 0
    assert changed(role(machine, "--check", **MODE)) == 0


def test_reboot_keeps_the_data(machine: Machine) -> None:
    machine.run("echo kept > /data/kept && sync")
    machine.reboot()
    assert machine.run("cat /data/kept").stdout == "kept\n"
    assert changed(role(machine, **MODE)) == 0


def test_stop_and_start_gives_an_empty_volume_with_no_ones_help(machine: Machine) -> None:
    names = by_serial(machine)
    machine.stop()
    for drive in machine.drives:
        drive.bytes_per_s = THROTTLE
        if drive.serial != "OTHER0":
            drive.blank()
    machine.drives.reverse()
    machine.start()
    assert by_serial(machine) != names, "kernel names are shuffled"
    assert volume(machine) == ["xfs", "data"]
    assert machine.run("ls -A /data").stdout == ""
    assert machine.run("stat --format=%a /data").stdout.strip() == "750"
    assert machine.run("systemctl is-active trainyard-instance-store", check=False).stdout.strip() == "active"
    assert changed(role(machine, **MODE)) == 0


@pytest.mark.parametrize("direction", ["read", "write"])
def test_stripes_add_up(machine: Machine, direction: str) -> None:
    def speed(target: str) -> float:
        options = f"--name=x --rw={direction} --bs=1M --iodepth=8 --ioengine=libaio --direct=1 --runtime=8 --time_based"
        output = machine.run(f"fio {options} --output-format=json --size=256M {target}").stdout
        return float(json.loads(output[output.index("{") :])["jobs"][0][direction]["bw_bytes"])

    one = speed(f"--filename={by_serial(machine)['OTHER0']}")
    four = speed("--directory=/data")
    print(f"{direction}: one disk {one / 1e6:.1f} MB/s, four {four / 1e6:.1f} MB/s: {four / one:.2f} times")  # noqa: T201
    assert four >= 3.5 * one, f"one disk {one / 1e6:.1f} MB/s, four {four / 1e6:.1f} MB/s"


def test_undo_leaves_the_data_on_the_disks(machine: Machine) -> None:
    machine.run("echo kept > /data/kept && sync")
    assert changed(role(machine, nvme_raid_state="absent")) > 0
    assert volume(machine) == []
    assert "data" not in machine.run("cat /etc/fstab").stdout
    assert machine.run("ls /etc/systemd/system/trainyard-instance-store.service", check=False).returncode != 0
    assert changed(role(machine, nvme_raid_state="absent")) == 0
    role(machine, **MODE)
    assert machine.run("cat /data/kept").stdout == "kept\n"
