# SPDX-License-Identifier: Apache-2.0
"""The data volume is never made over somebody's data, on real (emulated) NVMe disks.

One machine goes through its life in the order of the tests; each needs the one before it.
"""

from __future__ import annotations

import pytest

from tests.vm.machine import Machine
from tests.vm.play import by_serial, changed, role, volume

pytestmark = [pytest.mark.vm, pytest.mark.xdist_group("vm")]

DISKS = 4

#: Nothing writes to a root disk that is mounted read-only, so its bytes can be compared. The kernel does it by force:
#: some service always has a file open to write.
QUIET_ROOT = """
mount -t tmpfs tmpfs /tmp && sync && echo u > /proc/sysrq-trigger
for i in $(seq 60); do findmnt --noheadings --output OPTIONS / | grep -q ^ro, && break; sleep 1; done
"""


def test_disks_that_hold_something_are_refused_and_unchanged(machine: Machine) -> None:
    machine.start()
    name = by_serial(machine)
    first, second, third, _fourth = (name[drive.serial] for drive in machine.drives[:DISKS])
    machine.run(
        f"mkfs.ext4 -q -L precious {first} && echo 'label: gpt\n,' | sfdisk -q {second} && pvcreate -q {third} && sync"
    )
    machine.run("udevadm settle")
    before = {drive.serial: drive.sha256() for drive in machine.drives}
    expected = {
        machine.drives[0].serial: "signature ext4",
        machine.drives[1].serial: "partition table gpt with 1 partition",
        machine.drives[2].serial: "signature LVM2_member",
        machine.root.serial: "mounted at /",
    }
    everything = role(machine, fails=True, nvme_raid_serial="(AWS|vol).*")
    for serial, claim in expected.items():
        assert serial in everything
        assert claim in everything
    assert "Nothing was changed" in everything
    for serial in list(expected)[:3]:
        alone = role(machine, fails=True, nvme_raid_disks=[serial])
        assert serial in alone
        assert expected[serial] in alone
    machine.run("sync")
    assert {drive.serial: drive.sha256() for drive in machine.drives} == before
    assert machine.run("blkid -o value -s LABEL /dev/disk/by-label/precious").stdout.strip() == "precious"


def test_permission_for_one_disk_is_none_for_another(machine: Machine) -> None:
    serials = [drive.serial for drive in machine.drives[:DISKS]]
    before = {drive.serial: drive.sha256() for drive in machine.drives}
    refused = role(machine, fails=True, nvme_raid_wipe=serials[:2])
    assert serials[2] in refused
    assert "signature ext4" not in refused
    checked = role(machine, "--check", "--diff", nvme_raid_wipe=serials[:3])
    assert "make RAID 0 /dev/md/data over 4 disks" in checked
    assert volume(machine) == []
    machine.run("sync")
    assert {drive.serial: drive.sha256() for drive in machine.drives} == before


def test_root_disk_is_refused_even_when_named_and_not_a_byte_of_it_changes(machine: Machine) -> None:
    machine.run(QUIET_ROOT)
    before = machine.root.sha256()
    refused = role(machine, fails=True, nvme_raid_serial="vol.*", nvme_raid_wipe=[machine.root.serial])
    assert "mounted at /" in refused
    assert machine.run("findmnt --noheadings --output OPTIONS /").stdout.startswith("ro,")
    assert machine.root.sha256() == before


def test_named_disks_are_given_up_and_no_other(machine: Machine) -> None:
    machine.reboot()
    other = machine.drives[DISKS].sha256()
    serials = [drive.serial for drive in machine.drives[:DISKS]]
    assert changed(role(machine, nvme_raid_wipe=serials[:3])) > 0
    assert volume(machine) == ["xfs", "data"]
    assert machine.run("mdadm --detail /dev/md/data | grep -c 'active sync'").stdout.strip() == "4"
    assert machine.drives[DISKS].sha256() == other


def test_growing_and_shrinking_are_refused_and_nothing_changes(machine: Machine) -> None:
    serials = [drive.serial for drive in machine.drives]
    machine.run("echo kept > /data/kept && sync")
    grown = role(machine, fails=True, nvme_raid_serial="(AWS|OTHER).*")
    assert "cannot grow from 4 disks to 5" in grown
    assert "Nothing was changed" in grown
    shrunk = role(machine, fails=True, nvme_raid_disks=serials[:3])
    assert "3 are here, their superblocks speak of 1 array(s) of 4 disks" in shrunk
    assert "Nothing was changed" in shrunk
    assert machine.run("cat /data/kept").stdout == "kept\n"
