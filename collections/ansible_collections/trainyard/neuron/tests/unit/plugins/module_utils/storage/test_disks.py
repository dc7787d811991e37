# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.storage import disks

MODEL = disks.INSTANCE_STORE_MODEL


def device(name: str, serial: str, model: str = MODEL, **more: Any) -> dict[str, Any]:
    base = {"name": name, "kname": name, "path": f"/dev/{name}", "type": "disk", "size": 10**12, "model": model}
    return {**base, "serial": serial, "mountpoints": [None], "pttype": None, "ro": False, **more}


class Host:
    """Answers lsblk, wipefs, blkid and mdadm from tables."""

    def __init__(self, *devices: dict[str, Any]) -> None:
        self.devices = devices
        self.signatures: dict[str, list[tuple[str, str]]] = {}
        self.members: dict[str, str] = {}

    def __call__(self, argv: list[str]) -> tuple[int, str, str]:
        if argv[0] == "lsblk":
            return 0, json.dumps({"blockdevices": self.devices}), ""
        if argv[0] == "wipefs":
            found = [{"type": kind, "offset": offset} for kind, offset in self.signatures.get(argv[-1], [])]
            return 0, json.dumps({"signatures": found}) if found else "", ""
        if argv[0] == "mdadm" and argv[-1] in self.members:
            return 0, self.members[argv[-1]], ""
        return 2, "", f"{argv[0]}: nothing"


@pytest.fixture(autouse=True)
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disks, "busy", lambda _path: False)


def test_disks_are_found_by_model_and_ordered_by_serial_whatever_the_kernel_calls_them() -> None:
    host = Host(
        device("nvme0n1", "AWS3"), device("nvme1n1", "vol0", "Amazon Elastic Block Store"), device("nvme2n1", "AWS1")
    )
    assert [(disk.serial, disk.path, disk.blank) for disk in disks.candidates(host, MODEL)] == [
        ("AWS1", "/dev/nvme2n1", True),
        ("AWS3", "/dev/nvme0n1", True),
    ]


def test_model_must_match_as_a_whole() -> None:
    assert disks.candidates(Host(device("sda", "1", f"Not {MODEL}")), MODEL) == []


def test_listed_serials_are_the_only_ones_and_must_all_be_there() -> None:
    host = Host(device("nvme0n1", "AWS1"), device("nvme1n1", "AWS2"))
    assert [disk.serial for disk in disks.candidates(host, MODEL, only=("AWS2",))] == ["AWS2"]
    with pytest.raises(disks.StorageError, match="no instance-store disk has the serial AWS9"):
        disks.candidates(host, MODEL, only=("AWS2", "AWS9"))


def test_disks_that_cannot_be_told_apart_are_refused() -> None:
    with pytest.raises(disks.StorageError, match="cannot be told apart"):
        disks.candidates(Host(device("nvme0n1", "AWS1"), device("nvme1n1", "AWS1")), MODEL)


def partition(name: str, mount: str | None = None) -> dict[str, Any]:
    return {"name": name, "kname": name, "path": f"/dev/{name}", "type": "part", "mountpoints": [mount]}


def test_everything_on_a_disk_speaks_against_it() -> None:
    root = device("nvme0n1", "AWS1", pttype="gpt", children=[partition("nvme0n1p1", "/"), partition("nvme0n1p14")])
    lvm = {"name": "vg-lv", "kname": "dm-0", "path": "/dev/mapper/vg-lv", "type": "lvm", "mountpoints": [None]}
    held = device("nvme1n1", "AWS2", children=[lvm])
    host = Host(root, held, device("nvme2n1", "AWS3"), device("nvme3n1", "AWS4", ro=True))
    host.signatures = {
        "/dev/nvme0n1": [("gpt", "0x200"), ("PMBR", "0x1fe")],
        "/dev/nvme1n1": [("LVM2_member", "0x218")],
        "/dev/nvme2n1": [("xfs", "0x0")],
    }
    claims = {disk.serial: disk.claims for disk in disks.candidates(host, MODEL)}
    assert claims == {
        "AWS1": (
            "mounted at /",
            "partition table gpt with 2 partition(s)",
            "signature gpt at byte 0x200",
            "signature PMBR at byte 0x1fe",
        ),
        "AWS2": ("used by dm-0", "signature LVM2_member at byte 0x218"),
        "AWS3": ("signature xfs at byte 0x0",),
        "AWS4": ("read-only",),
    }


def test_disk_that_the_kernel_holds_without_another_trace_is_not_blank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disks, "busy", lambda _path: True)
    assert [disk.claims for disk in disks.candidates(Host(device("nvme0n1", "AWS1")), MODEL)] == [
        ("in use by the kernel",)
    ]


def test_member_is_known_by_its_array_and_not_by_who_made_it() -> None:
    host = Host(device("nvme0n1", "AWS1"))
    host.signatures = {"/dev/nvme0n1": [("linux_raid_member", "0x1000")]}
    host.members = {"/dev/nvme0n1": "MD_LEVEL=raid0\nMD_DEVICES=4\nMD_NAME=ip-10-0-0-1:data\nMD_UUID=aa:bb\n"}
    (disk,) = disks.candidates(host, MODEL)
    assert disk.member == disks.Member("data", "aa:bb", "raid0", 4)


def test_failing_command_is_quoted() -> None:
    with pytest.raises(disks.StorageError, match=r"`lsblk .*` ended with status 1: no /sys"):
        disks.candidates(lambda _argv: (1, "", "no /sys"), MODEL)


@pytest.mark.parametrize("size", [float("inf"), float("-inf"), float("nan"), "much", None, [1]])
def test_a_size_that_is_none_is_told_and_nothing_is_changed(size: Any) -> None:
    with pytest.raises(disks.StorageError, match=r"what lsblk or wipefs printed cannot be read .*nothing was changed"):
        disks.candidates(Host(device("nvme0n1", "AWS1", size=size)), MODEL)
