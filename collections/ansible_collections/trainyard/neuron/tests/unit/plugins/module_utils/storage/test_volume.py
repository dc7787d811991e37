# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
from pathlib import Path

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.storage import disks, volume
from ansible_collections.trainyard.neuron.plugins.module_utils.storage import program as boot

WANTED = volume.Wanted(mount="/data")
LINE = WANTED.fstab_line()


def blank(number: int) -> disks.Disk:
    return disks.Disk(f"/dev/nvme{number}n1", f"AWS{number}", disks.INSTANCE_STORE_MODEL, 10**12)


def holding(number: int, claim: str = "signature xfs at byte 0x0", **more: object) -> disks.Disk:
    return dataclasses.replace(blank(number), claims=(claim,), **more)  # type: ignore[arg-type]


def member(
    number: int, count: int = 4, name: str = "data", uuid: str = "aa", holder: str | None = "md127"
) -> disks.Disk:
    return holding(
        number,
        "signature linux_raid_member at byte 0x1000",
        member=disks.Member(name, uuid, "raid0", count),
        holders=(holder,) if holder else (),
    )


def kinds(found: volume.Found, wanted: volume.Wanted = WANTED) -> list[str]:
    return [step.kind for step in volume.plan(found, wanted)]


def whole(count: int = 4, **more: object) -> volume.Found:
    found = volume.Found(
        disks=tuple(member(number, count) for number in range(count)),
        array="/dev/md127",
        filesystem=("xfs", "data"),
        mounted="/dev/md127",
        fstab=(LINE,),
    )
    return dataclasses.replace(found, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [2, 4, 8])
def test_blank_disks_become_an_array(count: int) -> None:
    steps = volume.plan(volume.Found(tuple(blank(number) for number in range(count))), WANTED)
    assert [step.kind for step in steps] == ["create", "mkfs", "fstab", "mount"]
    assert len(steps[0].devices) == count


def scratch(number: int, group: str = "vg.01", mount: str = volume.IMAGE_MOUNT) -> disks.Disk:
    """A disk as the machine image leaves it: part of an LVM volume that is mounted."""
    mounts = (mount,) if mount else ()
    return holding(number, "signature LVM2_member at byte 0x218", holders=("dm-0",), mounts=mounts, group=group)


def test_the_machine_image_s_own_volume_is_known_and_what_to_do_about_it_is_said() -> None:
    found = volume.Found(tuple(scratch(number) for number in range(4)), rival=True)
    with pytest.raises(volume.RefusedError) as caught:
        volume.plan(found, WANTED)
    for word in ("AWS0", "nvme_raid_wipe", "dlami-nvme.service", "umount /opt/dlami/nvme", "vgremove vg.01"):
        assert word in str(caught.value)


def test_the_machine_image_s_own_volume_is_given_up_once_every_disk_is_named() -> None:
    found = volume.Found(tuple(scratch(number) for number in range(4)), rival=True)
    named = dataclasses.replace(WANTED, wipe=tuple(f"AWS{number}" for number in range(4)))
    assert kinds(found, named) == ["disable", "umount", "ungroup", *["wipe"] * 4, "create", "mkfs", "fstab", "mount"]
    done: list[list[str]] = []
    steps = [step for step in volume.plan(found, named) if step.kind in ("disable", "umount", "ungroup")]
    volume.carry_out(lambda argv: (done.append(argv), (0, "", ""))[1], steps, named)
    assert done == [
        ["systemctl", "disable", "dlami-nvme.service"],
        ["umount", "/opt/dlami/nvme"],
        ["vgchange", "--activate", "n", "vg.01"],
        ["vgremove", "--force", "--yes", "vg.01"],
    ]


def test_a_volume_group_that_somebody_else_mounts_is_left_alone_whatever_is_named() -> None:
    found = volume.Found((scratch(1, "vg-x", "/srv"), scratch(2, "vg-x", "")))
    named = dataclasses.replace(WANTED, wipe=("AWS1", "AWS2"))
    with pytest.raises(volume.RefusedError) as caught:
        volume.plan(found, named)
    assert "AWS2" not in str(caught.value)
    assert "vgremove vg-x" in str(caught.value)
    assert "dlami" not in str(caught.value)


def test_the_machine_image_s_unit_is_kept_from_blank_disks_of_the_next_boot() -> None:
    assert kinds(whole(rival=True)) == ["disable"]
    answers = {"systemctl": (0, "", ""), "findmnt": (1, "", "")}
    assert volume.look(lambda argv: answers.get(argv[0], (1, "", "")), WANTED, [blank(1), blank(2)]).rival
    answers["systemctl"] = (1, "disabled", "")
    assert not volume.look(lambda argv: answers.get(argv[0], (1, "", "")), WANTED, [blank(1), blank(2)]).rival


def test_one_blank_disk_needs_no_array() -> None:
    steps = volume.plan(volume.Found((blank(1),)), WANTED)
    assert [(step.kind, step.devices) for step in steps] == [("mkfs", ("/dev/nvme1n1",)), ("fstab", ()), ("mount", ())]


@pytest.mark.parametrize("count", [2, 4, 8])
def test_volume_that_is_there_needs_nothing(count: int) -> None:
    assert kinds(whole(count)) == []


def test_one_disk_that_carries_the_volume_needs_nothing() -> None:
    found = volume.Found((holding(1),), filesystem=("xfs", "data"), mounted="/dev/nvme1n1", fstab=(LINE,))
    assert kinds(found) == []


def test_unmounted_volume_is_mounted_and_nothing_else() -> None:
    assert kinds(whole(mounted=None)) == ["mount"]


def test_array_that_is_not_assembled_is_assembled_first() -> None:
    parts = tuple(member(number, holder=None) for number in range(4))
    assert kinds(volume.Found(parts, fstab=(LINE,))) == ["assemble", "mount"]


def test_interrupted_creation_goes_on_with_the_filesystem() -> None:
    assert kinds(whole(filesystem=None, mounted=None)) == ["mkfs", "mount"]


@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize(
    "claim", ["signature ext4 at byte 0x438", "partition table gpt with 1 partition(s)", "used by dm-0", "mounted at /"]
)
def test_one_disk_that_holds_something_stops_all(position: int, claim: str) -> None:
    found = tuple(holding(number, claim) if number == position else blank(number) for number in range(4))
    with pytest.raises(volume.RefusedError) as caught:
        volume.plan(volume.Found(found), WANTED)
    assert f"serial AWS{position}" in str(caught.value)
    assert claim in str(caught.value)


def test_permission_to_wipe_is_for_the_named_disk_alone() -> None:
    found = volume.Found((holding(1), holding(2), blank(3)))
    with pytest.raises(volume.RefusedError) as caught:
        volume.plan(found, dataclasses.replace(WANTED, wipe=("AWS1",)))
    assert "AWS2" in str(caught.value)
    assert "AWS1" not in str(caught.value)
    steps = volume.plan(found, dataclasses.replace(WANTED, wipe=("AWS1", "AWS2")))
    assert [step.kind for step in steps] == ["wipe", "wipe", "create", "mkfs", "fstab", "mount"]
    assert [step.devices for step in steps[:2]] == [("/dev/nvme1n1",), ("/dev/nvme2n1",)]


def test_mounted_disk_is_not_wiped_even_when_named() -> None:
    found = volume.Found((holding(1, "mounted at /", mounts=("/",)), blank(2)))
    with pytest.raises(volume.RefusedError, match="mounted at /"):
        volume.plan(found, dataclasses.replace(WANTED, wipe=("AWS1",)))


def test_array_of_another_name_is_a_claim_and_is_stopped_before_its_disks_are_wiped() -> None:
    found = volume.Found(tuple(member(number, 2, name="scratch", holder="md5") for number in (1, 2)))
    with pytest.raises(volume.RefusedError):
        volume.plan(found, WANTED)
    steps = volume.plan(found, dataclasses.replace(WANTED, wipe=("AWS1", "AWS2")))
    assert [(step.kind, step.devices) for step in steps[:2]] == [("stop", ("/dev/md5",)), ("wipe", ("/dev/nvme1n1",))]


def test_permission_to_wipe_is_no_order() -> None:
    all_named = dataclasses.replace(WANTED, wipe=tuple(f"AWS{number}" for number in range(4)))
    assert kinds(whole(), all_named) == []
    assert kinds(whole(mounted=None), all_named) == ["mount"]
    foreign = whole(filesystem=("ext4", "other"), mounted=None)
    assert kinds(foreign, all_named) == ["stop", *["wipe"] * 4, "create", "mkfs", "mount"]


def test_growing_is_refused_with_the_reason() -> None:
    found = whole(4)
    grown = dataclasses.replace(found, disks=(*found.disks, blank(7)))
    with pytest.raises(volume.RefusedError, match=r"cannot grow from 4 disks to 5.*AWS7"):
        volume.plan(grown, WANTED)


def test_shrinking_is_refused_with_the_reason() -> None:
    found = whole(4)
    with pytest.raises(volume.RefusedError, match=r"3 are here, their superblocks speak of 1 array.* of 4 disks"):
        volume.plan(dataclasses.replace(found, disks=found.disks[:3]), WANTED)


def test_members_of_two_arrays_of_one_name_are_refused() -> None:
    parts = (member(0, 2, uuid="aa"), member(1, 2, uuid="bb"))
    with pytest.raises(volume.RefusedError, match="speak of 2 array"):
        volume.plan(volume.Found(parts, array="/dev/md127"), WANTED)


def test_foreign_filesystem_in_our_array_is_refused() -> None:
    with pytest.raises(volume.RefusedError, match="holds ext4 labelled 'other'"):
        volume.plan(whole(filesystem=("ext4", "other"), mounted=None), WANTED)


def test_taken_mount_point_is_refused() -> None:
    with pytest.raises(volume.RefusedError, match="/dev/sdf is mounted there"):
        volume.plan(volume.Found((blank(1), blank(2)), mounted="/dev/sdf"), WANTED)
    with pytest.raises(volume.RefusedError, match="fstab mounts something else"):
        volume.plan(volume.Found((blank(1), blank(2)), fstab=("/dev/sdf /data ext4 defaults 0 2",)), WANTED)


def test_another_device_at_the_mount_point_is_refused_when_the_volume_is_there_too() -> None:
    with pytest.raises(volume.RefusedError, match="/dev/sdf is mounted there"):
        volume.plan(whole(mounted="/dev/sdf"), WANTED)


@pytest.mark.parametrize("name", ["", "thirteen-char"])
def test_name_must_fit_the_label(name: str) -> None:
    with pytest.raises(volume.RefusedError, match="1 to 12 characters"):
        volume.plan(volume.Found((blank(1),)), dataclasses.replace(WANTED, name=name))


@pytest.fixture
def unlocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disks of these tests have no device; those that the lock is about are files, further below."""
    monkeypatch.setattr(disks, "held", lambda *_: contextlib.nullcontext())


@pytest.mark.usefixtures("unlocked")
def test_commands_of_a_creation() -> None:
    ran: list[list[str]] = []

    def run(argv: list[str]) -> tuple[int, str, str]:
        ran.append(argv)
        return 0, "", ""

    steps = [
        step for step in volume.plan(volume.Found((blank(1), blank(2))), WANTED) if step.kind in ("create", "mkfs")
    ]
    volume.carry_out(run, steps, WANTED)
    create = next(argv for argv in ran if argv[:2] == ["mdadm", "--create"])
    assert create[2] == "/dev/md/data"
    assert {"--level=0", "--raid-devices=2", "--name=data", "--homehost=any"} <= set(create)
    assert create[-2:] == ["/dev/nvme1n1", "/dev/nvme2n1"]
    make = next(argv for argv in ran if argv[0] == "mkfs.xfs")
    assert "-f" not in make
    assert make[-1] == "/dev/md/data"


@pytest.mark.usefixtures("unlocked")
def test_failing_step_ends_the_work(tmp_path: Path) -> None:
    ran: list[str] = []

    def run(argv: list[str]) -> tuple[int, str, str]:
        ran.append(argv[0])
        return (1, "", "device busy") if argv[0] == "mdadm" else (0, "", "")

    steps = volume.plan(volume.Found((blank(1), blank(2))), WANTED)
    with pytest.raises(disks.StorageError, match="device busy"):
        volume.carry_out(run, steps, WANTED, volume.Files(tmp_path / "fstab"))
    assert ran == ["wipefs", "wipefs", "mdadm"]
    assert not (tmp_path / "fstab").exists()


def test_fstab_keeps_all_other_lines(tmp_path: Path) -> None:
    fstab = tmp_path / "fstab"
    fstab.write_text("# root\nLABEL=root / ext4 defaults 0 1\nLABEL=data /data xfs defaults 0 2\n")
    fstab.chmod(0o640)
    volume.write_fstab(fstab, "/data", LINE)
    assert fstab.read_text() == f"# root\nLABEL=root / ext4 defaults 0 1\n{LINE}\n"
    assert fstab.stat().st_mode & 0o777 == 0o640
    volume.write_fstab(fstab, "/data", None)
    assert fstab.read_text() == "# root\nLABEL=root / ext4 defaults 0 1\n"


def test_host_boots_without_its_volume() -> None:
    assert "nofail" in LINE.split()[3].split(",")


ASKED = dataclasses.replace(WANTED, initramfs=True)


def test_initial_ramdisk_is_left_alone_unless_asked() -> None:
    blanks = volume.Found((blank(1), blank(2)))
    assert "initramfs" not in kinds(blanks)
    assert kinds(blanks, ASKED)[-1] == "initramfs"
    assert kinds(whole(), ASKED) == ["initramfs"]
    assert kinds(whole(mdadm_conf=("ARRAY /dev/md/data UUID=aa",)), ASKED) == []
    assert kinds(whole(mdadm_conf=("ARRAY /dev/md/data UUID=old",)), ASKED) == ["initramfs"]
    assert "initramfs" not in kinds(volume.Found((blank(1),)), ASKED), "one disk is no array"


def test_initial_ramdisk_learns_the_array_and_a_failure_is_tried_again(tmp_path: Path) -> None:
    conf = tmp_path / "mdadm.conf"
    conf.write_text("HOMEHOST <system>\nARRAY /dev/md/data UUID=old\nARRAY /dev/md/other UUID=bb\n")
    status = 1

    def run(argv: list[str]) -> tuple[int, str, str]:
        return (0, "MD_UUID=aa\n", "") if argv[0] == "mdadm" else (status, "", "no space")

    def learn() -> str:
        volume.carry_out(run, [volume.Step("initramfs", (), "")], ASKED, volume.Files(mdadm_conf=conf))
        return conf.read_text()

    before = conf.read_text()
    with pytest.raises(disks.StorageError, match="no space"):
        learn()
    assert conf.read_text() == before
    status = 0
    assert learn() == "HOMEHOST <system>\nARRAY /dev/md/other UUID=bb\nARRAY /dev/md/data UUID=aa\n"


NEEDS = [program for program in ("mkfs.ext4", "wipefs", "blkid") if shutil.which(program) is None]


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "device"
    path.touch()
    os.truncate(path, 32 << 20)
    return path


def make(device: Path, fstype: str = "ext4") -> None:
    wanted = dataclasses.replace(WANTED, fstype=fstype)
    volume.carry_out(boot.run, [volume.Step("mkfs", (str(device),), "make it")], wanted)


@pytest.mark.skipif(NEEDS, reason=f"not installed: {NEEDS}")
def test_a_file_system_that_came_after_the_look_is_not_overwritten(device: Path) -> None:
    assert boot.run(["mkfs.ext4", "-q", "-L", "precious", str(device)])[0] == 0
    before = device.read_bytes()
    with pytest.raises(disks.StorageError, match=r"holds ext4 at byte 0x438 now: it was left as it is"):
        make(device)
    assert device.read_bytes() == before


@pytest.mark.skipif(NEEDS, reason=f"not installed: {NEEDS}")
def test_a_device_that_is_empty_gets_its_file_system(device: Path) -> None:
    make(device)
    assert disks.filesystem(boot.run, str(device)) == ("ext4", "data")


def test_a_device_that_another_program_works_on_is_left_alone(device: Path) -> None:
    with device.open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(disks.StorageError, match="so it cannot be locked"), disks.held(str(device)):
            raise AssertionError("it was not locked")
    with disks.held(str(device)):
        pass


@pytest.mark.usefixtures("unlocked")
@pytest.mark.parametrize("said", ["nonsense", "[]", '{"devices": []}', '{"signatures": 7}', '{"signatures": [{}]}'])
@pytest.mark.parametrize("kind", ["create", "mkfs"])
def test_an_answer_that_is_not_understood_is_not_taken_for_blank(kind: str, said: str) -> None:
    ran: list[str] = []

    def run(argv: list[str]) -> tuple[int, str, str]:
        ran.append(argv[0])
        return 0, said if argv[0] == "wipefs" else "", ""

    with pytest.raises(disks.StorageError, match="what is not understood"):
        volume.carry_out(run, [volume.Step(kind, ("/dev/nvme1n1",), "make it")], WANTED)
    assert ran == ["wipefs"]


@pytest.mark.usefixtures("unlocked")
def test_a_disk_that_got_a_superblock_after_the_look_is_in_no_new_array() -> None:
    ran: list[str] = []

    def run(argv: list[str]) -> tuple[int, str, str]:
        ran.append(argv[0])
        late = {"signatures": [{"type": "linux_raid_member", "offset": "0x1000"}]}
        return 0, json.dumps(late) if argv[-1] == "/dev/nvme2n1" else "", ""

    with pytest.raises(disks.StorageError, match="/dev/nvme2n1 was blank when it was looked at"):
        volume.carry_out(run, [volume.Step("create", ("/dev/nvme1n1", "/dev/nvme2n1"), "make it")], WANTED)
    assert "mdadm" not in ran
