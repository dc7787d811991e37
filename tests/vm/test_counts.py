# SPDX-License-Identifier: Apache-2.0
"""The data volume over no disk, one and eight, and what the initial ramdisk learns of it.

One machine goes through its life in the order of the tests; each needs the one before it.
"""

from __future__ import annotations

import pytest

from tests.vm.machine import Machine
from tests.vm.play import by_serial, changed, role, volume

pytestmark = [pytest.mark.vm, pytest.mark.xdist_group("vm")]

DISKS = 8

#: To pack every module takes an emulated machine over ten minutes, and it boots from a copy of the image's ramdisk.
NO_MODULES = "sed -i 's/^MODULES=.*/MODULES=list/' /etc/initramfs-tools/initramfs.conf"


def ramdisk(machine: Machine) -> str:
    """Return which initial ramdisk there is: another one has another time."""
    return machine.run("stat --format='%n %y %i' /boot/initrd.img-*").stdout


def test_without_disks_the_role_stops_or_makes_a_directory(machine: Machine) -> None:
    machine.start()
    machine.run(NO_MODULES)
    none = {"nvme_raid_serial": "nothing of this kind"}
    refused = role(machine, fails=True, **none)
    assert "this host has no disk of model" in refused
    assert "nvme_raid_when_no_disks=directory" in refused
    assert changed(role(machine, nvme_raid_when_no_disks="directory", **none)) == 1
    assert changed(role(machine, nvme_raid_when_no_disks="directory", **none)) == 0
    assert machine.run("stat --format=%F /data").stdout.strip() == "directory"
    assert volume(machine) == []


def test_one_disk_is_taken_as_it_is(machine: Machine) -> None:
    one = {"nvme_raid_disks": [machine.drives[3].serial], "nvme_raid_mount": "/one", "nvme_raid_name": "one"}
    assert changed(role(machine, nvme_raid_filesystem="ext4", **one)) > 0
    assert volume(machine, "/one") == ["ext4", "one"]
    source = machine.run("findmnt --noheadings --output SOURCE /one").stdout.strip()
    assert source == by_serial(machine)[machine.drives[3].serial]
    assert changed(role(machine, nvme_raid_filesystem="ext4", **one)) == 0
    assert changed(role(machine, nvme_raid_state="absent", nvme_raid_filesystem="ext4", **one)) > 0
    assert volume(machine, "/one") == []


def test_eight_disks_become_one_array(machine: Machine) -> None:
    given_up = {"nvme_raid_wipe": [drive.serial for drive in machine.drives[:DISKS]]}
    assert changed(role(machine, **given_up)) > 0
    assert volume(machine) == ["xfs", "data"]
    assert machine.run("mdadm --detail /dev/md/data | grep -c 'active sync'").stdout.strip() == "8"
    assert changed(role(machine, **given_up)) == 0, "permission to wipe is no order"


def test_initial_ramdisk_is_made_anew_only_when_asked_and_once(machine: Machine) -> None:
    of_the_image = ramdisk(machine)
    foretold = role(machine, "--check", "--diff", nvme_raid_update_initramfs=True)
    assert "update-initramfs -u" in foretold
    assert changed(role(machine)) == 0
    assert ramdisk(machine) == of_the_image
    assert changed(role(machine, nvme_raid_update_initramfs=True)) == 1
    made = ramdisk(machine)
    assert made != of_the_image
    assert changed(role(machine, nvme_raid_update_initramfs=True)) == 0
    assert ramdisk(machine) == made
    uuid = machine.run("mdadm --detail --export /dev/md/data | sed -n 's/^MD_UUID=//p'").stdout.strip()
    assert f"ARRAY /dev/md/data UUID={uuid}\n" in machine.run("cat /etc/mdadm/mdadm.conf").stdout
    unpack = "rm -rf /tmp/in && unmkinitramfs /boot/initrd.img-* /tmp/in"
    inside = machine.run(f"{unpack} && find /tmp/in -name mdadm.conf -exec cat {{}} +").stdout
    assert f"ARRAY /dev/md/data UUID={uuid}\n" in inside
