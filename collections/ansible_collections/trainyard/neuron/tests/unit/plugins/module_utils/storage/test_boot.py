# SPDX-License-Identifier: Apache-2.0
"""What the boot unit does with the disks that it finds."""

from __future__ import annotations

import contextlib
import os
import pwd
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.storage import disks, volume
from ansible_collections.trainyard.neuron.plugins.module_utils.storage import program as boot


def blank(number: int) -> disks.Disk:
    return disks.Disk(f"/dev/nvme{number}n1", f"AWS{number}", disks.INSTANCE_STORE_MODEL, 10**12)


def member(number: int) -> disks.Disk:
    superblock = disks.Member("data", "aa", "raid0", 2)
    return disks.Disk(
        f"/dev/nvme{number}n1", f"AWS{number}", "", 10**12, claims=("signature linux_raid_member",), member=superblock
    )


class Host:
    """A host whose disks are given and whose commands all work; notes what was run."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.disks: list[disks.Disk] = []
        self.state = volume.Found(())
        self.ran: list[str] = []
        self.mounted = False
        monkeypatch.setattr(boot, "await_disks", lambda _config: self.disks)
        monkeypatch.setattr(boot, "run", self)
        monkeypatch.setattr(boot, "MOUNT_S", 0.0)
        monkeypatch.setattr(volume, "look", lambda *_: self.state)
        monkeypatch.setattr(disks, "held", lambda *_: contextlib.nullcontext())
        monkeypatch.setattr(os.path, "ismount", lambda _path: self.mounted)

    def __call__(self, argv: list[str]) -> tuple[int, str, str]:
        self.ran.append(" ".join(argv[:2]))
        self.mounted = self.mounted or argv[0] == "mount"
        return 0, "", ""

    def has(self, *found: disks.Disk, **state: Any) -> None:
        wanted = volume.Wanted(str(self.root / "data"))
        self.disks = list(found)
        self.state = volume.Found(tuple(found), fstab=(wanted.fstab_line(),), **state)

    def boot(self) -> str:
        names = {"owner": pwd.getpwuid(os.getuid()).pw_name, "group": os.getgid(), "mode": "0750"}
        return boot.bring_up({"volume": {"mount": str(self.root / "data")}, "count": 2, **names})


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


def test_blank_disks_are_made_into_the_volume(host: Host) -> None:
    host.has(blank(0), blank(1))
    assert "make RAID 0" in host.boot()
    assert {"mdadm --create", "mkfs.xfs -L", f"mount {host.root / 'data'}"} <= set(host.ran)
    assert (host.root / "data").stat().st_mode & 0o777 == 0o750


def test_volume_that_is_there_is_mounted_and_not_made(host: Host) -> None:
    host.has(member(0), member(1), array="/dev/md127", filesystem=("xfs", "data"))
    assert "mount" in host.boot()
    assert host.ran == [f"mount {host.root / 'data'}"]


def test_array_that_was_not_assembled_is_assembled_first(host: Host) -> None:
    host.has(member(0), member(1))
    host.boot()
    assert [line for line in host.ran if not line.startswith("udevadm")] == [
        "mdadm --assemble",
        f"mount {host.root / 'data'}",
    ]


@pytest.mark.parametrize("found", [(blank(0),), (), (blank(0), member(1))])
def test_volume_is_not_made_of_fewer_or_other_disks(host: Host, found: tuple[disks.Disk, ...]) -> None:
    host.has(*found)
    with pytest.raises(volume.RefusedError, match="not made anew"):
        host.boot()
    assert host.ran == []


def test_array_without_its_filesystem_is_left_alone(host: Host) -> None:
    host.has(member(0), member(1), array="/dev/md127")
    with pytest.raises(volume.RefusedError, match="left alone"):
        host.boot()
    assert host.ran == []
