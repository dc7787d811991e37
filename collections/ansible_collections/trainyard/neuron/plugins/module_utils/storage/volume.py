# SPDX-License-Identifier: Apache-2.0
"""The data volume: RAID 0 over the instance-store disks, a filesystem with a label, and its mount.

`look` describes, `plan` decides without touching anything (a pure function), `carry_out` does it. Nothing that holds
data is ever written to, unless `wipe` names that very disk by its serial number.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

from . import disks

#: Longest label that xfs can hold.
LABEL_CHARS = 12


#: What Neuron's machine images make of the instance store at every boot: an LVM volume, mounted there.
IMAGE_UNIT, IMAGE_MOUNT = "dlami-nvme.service", "/opt/dlami/nvme"


#: What brings a command that makes the volume.
PACKAGES = {"mdadm": "mdadm", "mkfs.xfs": "xfsprogs", "mkfs.ext4": "e2fsprogs"}


class RefusedError(Exception):
    """The volume is not made, grown or shrunk: says what was found, and nothing was changed."""


@dataclass(frozen=True)
class Files:
    """The host's own files that know of the volume; tests point them elsewhere."""

    fstab: Path = Path("/etc/fstab")
    mdadm_conf: Path = Path("/etc/mdadm/mdadm.conf")


@dataclass(frozen=True)
class Wanted:
    """How the volume is to be."""

    mount: str
    name: str = "data"
    fstype: str = "xfs"
    options: str = "noatime,nofail,x-systemd.device-timeout=30s"
    chunk_kib: int = 512
    wipe: Tuple[str, ...] = ()
    #: Whether the initial ramdisk is to know the array. The volume needs it no more than the root does.
    initramfs: bool = False

    def fstab_line(self) -> str:
        """Return the line of /etc/fstab: by label, as kernel names and md numbers change."""
        return f"LABEL={self.name} {self.mount} {self.fstype} {self.options} 0 2"

    def array_line(self, uuid: str) -> str:
        """Return the line of mdadm.conf, which update-initramfs copies into the initial ramdisk."""
        return f"ARRAY /dev/md/{self.name} UUID={uuid}"


@dataclass(frozen=True)
class Found:
    """How the volume is."""

    disks: Tuple[disks.Disk, ...]
    #: Device of the assembled array of that name, and its filesystem's `(type, label)`.
    array: Optional[str] = None
    filesystem: Optional[Tuple[str, str]] = None
    #: What is mounted at the mount point, None where nothing is.
    mounted: Optional[str] = None
    fstab: Tuple[str, ...] = ()
    #: The lines of mdadm.conf for an array of that name.
    mdadm_conf: Tuple[str, ...] = ()
    #: Whether the machine image's own unit would take the disks at the next boot.
    rival: bool = False


@dataclass(frozen=True)
class Step:
    """One thing to do: its kind, what it is done to, and a line about it for people."""

    kind: str
    devices: Tuple[str, ...]
    says: str


def settle(run: disks.Run, wanted: Wanted, find: Callable[[], List[disks.Disk]], files: Files = Files()) -> List[Step]:
    """Bring the volume to the wanted state; return the steps that it took."""
    taken: List[Step] = []
    while True:
        steps = plan(look(run, wanted, find(), files), wanted)
        # What an array holds is only seen once it is assembled, so the rest is planned after that.
        now = steps[:1] if steps and steps[0].kind == "assemble" else steps
        carry_out(run, now, wanted, files)
        taken += now
        if now == steps:
            return taken


def look(run: disks.Run, wanted: Wanted, found_disks: List[disks.Disk], files: Files = Files()) -> Found:
    """Return how the volume is on this host."""
    array = None
    for disk in found_disks:
        if disk.member and disk.member.name == wanted.name and disk.holders:
            array = f"/dev/{disk.holders[0]}"
    device = array or (found_disks[0].path if len(found_disks) == 1 else None)
    rival = run(["systemctl", "is-enabled", "--quiet", IMAGE_UNIT])[0] == 0
    status, output, _errors = run(["findmnt", "--noheadings", "--output", "SOURCE", "--mountpoint", wanted.mount])
    return Found(
        disks=tuple(found_disks),
        array=array,
        filesystem=disks.filesystem(run, device) if device else None,
        mounted=output.strip().splitlines()[-1] if status == 0 and output.strip() else None,
        fstab=tuple(line for line in lines_of(files.fstab) if fstab_mount(line) == wanted.mount),
        mdadm_conf=tuple(line for line in lines_of(files.mdadm_conf) if is_array_line(line, wanted)),
        rival=rival,
    )


def lines_of(path: Path) -> List[str]:
    """Return the lines of a file, empty where there is none."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []


def is_array_line(line: str, wanted: Wanted) -> bool:
    """Return whether a line of mdadm.conf is that of the volume's array."""
    return line.split()[:2] == ["ARRAY", f"/dev/md/{wanted.name}"]


def fstab_mount(line: str) -> str:
    """Return the mount point of a line of /etc/fstab, empty for comments."""
    words = line.split("#", 1)[0].split()
    return words[1] if len(words) > 1 else ""


def plan(found: Found, wanted: Wanted) -> List[Step]:
    """Return what is to be done so that the volume is as wanted, in order; empty when it is.

    Raises:
        RefusedError: a disk holds something, disks do not fit the array, or the mount point is taken.
    """
    _check_wanted(found, wanted)
    steps: List[Step] = []
    if found.rival:
        steps.append(
            Step("disable", (), f"disable {IMAGE_UNIT}, which makes a volume of its own of blank disks at boot")
        )
    if len(found.disks) == 1:
        device = found.disks[0].path
        ours = found.filesystem == (wanted.fstype, wanted.name)
        if not ours:
            steps += _wipes(found, wanted)
    else:
        device, ours, more = _array_steps(found, wanted)
        steps += more
    if not ours:
        steps.append(Step("mkfs", (device,), f"make {wanted.fstype} labelled {wanted.name} on {device}"))
    if found.fstab != (wanted.fstab_line(),):
        steps.append(Step("fstab", (), f"/etc/fstab: {wanted.fstab_line()}"))
    if found.mounted is None:
        steps.append(Step("mount", (), f"mount {wanted.mount}"))
    elif not ours or os.path.realpath(found.mounted) != os.path.realpath(device):
        raise RefusedError(f"{wanted.mount} is taken: {found.mounted} is mounted there")
    if wanted.initramfs and len(found.disks) > 1:
        steps += _initramfs_steps(found, wanted, made=any(step.kind == "create" for step in steps))
    return steps


def _initramfs_steps(found: Found, wanted: Wanted, made: bool) -> List[Step]:
    """Return the step that tells the initial ramdisk of the array; `made`: it is made first, and its name is new."""
    known = found.disks[0].member
    if not made and known and found.mdadm_conf == (wanted.array_line(known.uuid),):
        return []
    return [Step("initramfs", (), f"mdadm.conf: ARRAY /dev/md/{wanted.name}, and update-initramfs -u")]


def _check_wanted(found: Found, wanted: Wanted) -> None:
    if not 0 < len(wanted.name) <= LABEL_CHARS:
        raise RefusedError(
            f"volume name {wanted.name!r} must have 1 to {LABEL_CHARS} characters, it is also the filesystem's label"
        )
    if not found.disks:
        raise RefusedError("no instance-store disk was found")
    foreign = [line for line in found.fstab if not line.startswith(f"LABEL={wanted.name} ")]
    if foreign:
        raise RefusedError(f"/etc/fstab mounts something else at {wanted.mount}: {foreign[0]}")


def _array_steps(found: Found, wanted: Wanted) -> Tuple[str, bool, List[Step]]:
    """Return the array's device, whether its filesystem is there, and the steps that make or assemble it."""
    device = f"/dev/md/{wanted.name}"
    ours = [disk for disk in found.disks if disk.member and disk.member.name == wanted.name]
    others = [disk for disk in found.disks if disk not in ours]
    arrays = {disk.member.uuid for disk in ours if disk.member}
    counts = {disk.member.count for disk in ours if disk.member}
    fits = not others and len(arrays) == 1 and counts == {len(ours)}
    foreign = found.filesystem not in (None, (wanted.fstype, wanted.name))
    # Permission to wipe is no order: a volume that is as wanted stays, whatever may be lost.
    if not ours or ((foreign or not fits) and all(disk.serial in wanted.wipe for disk in ours)):
        steps = _wipes(found, wanted)
        paths = tuple(disk.path for disk in found.disks)
        return (
            device,
            False,
            [*steps, Step("create", paths, f"make RAID 0 {device} over {len(paths)} disks: {' '.join(paths)}")],
        )
    if others:
        raise RefusedError(
            f"the array {wanted.name} cannot grow from {len(ours)} disks to {len(found.disks)}: RAID 0 would have to "
            f"be made anew, which loses its content. Not in it: {'; '.join(map(str, others))}. Either list the array's "
            "own disks in nvme_raid_disks, or "
            f"name every disk in nvme_raid_wipe"
        )
    if not fits:
        raise RefusedError(
            f"the disks do not make up one array: {len(ours)} are here, their superblocks speak of {len(arrays)} "
            f"array(s) of {', '.join(map(str, sorted(counts)))} disks. Found: {'; '.join(map(str, ours))}. "
            "To give up what they hold, name each in nvme_raid_wipe"
        )
    if found.array is None:
        paths = tuple(disk.path for disk in ours)
        # Its filesystem can only be seen once it is assembled: the caller looks again after this step.
        return device, True, [Step("assemble", paths, f"assemble {device} from {' '.join(paths)}")]
    if foreign and found.filesystem is not None:
        raise RefusedError(
            f"{found.array} holds {found.filesystem[0]} labelled {found.filesystem[1]!r}, wanted is {wanted.fstype} "
            f"labelled {wanted.name!r}. "
            "To give it up, name each of its disks in nvme_raid_wipe"
        )
    return found.array, found.filesystem is not None, []


def _wipes(found: Found, wanted: Wanted) -> List[Step]:
    """Return the steps that clear what may be cleared.

    Raises:
        RefusedError: with every disk that holds something and is not named, and nothing done.
    """
    held = [disk for disk in found.disks if not disk.blank]
    refused = [disk for disk in held if disk.serial not in wanted.wipe or set(disk.mounts) - _given_up(disk)]
    if refused:
        raise RefusedError(
            "these disks hold something and are left alone:\n"
            + "\n".join(f"  {disk}" for disk in refused)
            + "\nTo lose what a disk holds, unmount it and name its serial number in nvme_raid_wipe"
            + _about_groups(refused)
        )
    steps = []
    if any(IMAGE_MOUNT in disk.mounts for disk in held):
        steps.append(Step("umount", (IMAGE_MOUNT,), f"unmount {IMAGE_MOUNT}"))
    groups = sorted({disk.group for disk in held if disk.group})
    if groups:
        steps.append(Step("ungroup", tuple(groups), f"give up the LVM volume group {' '.join(groups)}"))
    arrays = sorted({holder for disk in held if not disk.group for holder in disk.holders})
    if arrays:
        steps.append(Step("stop", tuple(f"/dev/{name}" for name in arrays), f"stop {' '.join(arrays)}"))
    steps.extend(Step("wipe", (disk.path,), f"wipe {disk}") for disk in held)
    return steps


def _given_up(disk: disks.Disk) -> Set[str]:
    """Return the mounts that go with a disk that may be wiped: the machine image's own, which is scratch space."""
    return {IMAGE_MOUNT} if disk.group else set()


def _about_groups(refused: List[disks.Disk]) -> str:
    """Return what else to do about disks of an LVM volume group, empty where there are none."""
    groups = " ".join(sorted({disk.group for disk in refused if disk.group}))
    if not groups:
        return ""
    if any(IMAGE_MOUNT in disk.mounts for disk in refused):
        return (
            f". The machine image's {IMAGE_UNIT} made {groups} of them, scratch space: with every serial number in "
            f"nvme_raid_wipe it is disabled and given up here. By hand: systemctl disable --now {IMAGE_UNIT}; "
            f"umount {IMAGE_MOUNT}; vgchange --activate n {groups}; vgremove {groups}"
        )
    return f". They are the LVM volume group {groups}: vgchange --activate n {groups}; vgremove {groups}"


def carry_out(run: disks.Run, steps: List[Step], wanted: Wanted, files: Files = Files()) -> None:
    """Do the steps, in order.

    Raises:
        disks.StorageError: a command failed; the steps before it are done, and the next run goes on from there.
    """
    actions: Dict[str, Callable[[Step], None]] = {
        "disable": lambda _: _disable(run),
        "umount": lambda step: _each(run, ["umount"], step),
        "ungroup": lambda step: _ungroup(run, step),
        "stop": lambda step: _each(run, ["mdadm", "--stop"], step),
        "wipe": lambda step: _each(run, ["wipefs", "--all", "--force"], step),
        "create": lambda step: _create(run, step, wanted),
        "assemble": lambda step: _assemble(run, step, wanted),
        "mkfs": lambda step: _mkfs(run, step, wanted),
        "fstab": lambda _: write_fstab(files.fstab, wanted.mount, wanted.fstab_line()),
        "mount": lambda _: _mount(run, wanted),
        "initramfs": lambda _: _initramfs(run, wanted, files.mdadm_conf),
    }
    for step in steps:
        actions[step.kind](step)


def _each(run: disks.Run, argv: List[str], step: Step) -> None:
    for device in step.devices:
        disks.must(run, [*argv, device])


def _disable(run: disks.Run) -> None:
    """Keep the machine image's unit from the next boot; what it has made now is given up by steps of its own."""
    disks.must(run, ["systemctl", "disable", IMAGE_UNIT])


def _ungroup(run: disks.Run, step: Step) -> None:
    for group in step.devices:
        disks.must(run, ["vgchange", "--activate", "n", group])
        disks.must(run, ["vgremove", "--force", "--yes", group])


def _create(run: disks.Run, step: Step, wanted: Wanted) -> None:
    argv = ["mdadm", "--create", f"/dev/md/{wanted.name}", "--run", "--level=0", f"--raid-devices={len(step.devices)}"]
    argv += [f"--name={wanted.name}", "--homehost=any", "--metadata=1.2", f"--chunk={wanted.chunk_kib}K", *step.devices]
    with disks.held(*step.devices):
        for device in step.devices:
            disks.require_empty(run, device)
        disks.must(run, argv)
    run(["udevadm", "settle"])  # mdadm does not always wait for the link /dev/md/<name>
    # The array may show what its disks held at these places before: they were blank or given up, so it is of no worth.
    disks.must(run, ["wipefs", "--all", "--force", f"/dev/md/{wanted.name}"])


def _assemble(run: disks.Run, step: Step, wanted: Wanted) -> None:
    disks.must(run, ["mdadm", "--assemble", f"/dev/md/{wanted.name}", *step.devices])
    run(["udevadm", "settle"])


def _mkfs(run: disks.Run, step: Step, wanted: Wanted) -> None:
    label = {"xfs": ["-L", wanted.name], "ext4": ["-q", "-L", wanted.name, "-m", "0"]}[wanted.fstype]
    # Without -f: xfs refuses where something is against all expectation. ext4 asks, and without a terminal overwrites.
    with disks.held(*step.devices):
        for device in step.devices:
            disks.require_empty(run, device)
        disks.must(run, [f"mkfs.{wanted.fstype}", *label, *step.devices])
    run(["udevadm", "settle"])


def _mount(run: disks.Run, wanted: Wanted) -> None:
    Path(wanted.mount).mkdir(parents=True, exist_ok=True)
    run(["systemctl", "daemon-reload"])  # systemd makes a unit of each line of fstab
    disks.must(run, ["mount", wanted.mount])


def _initramfs(run: disks.Run, wanted: Wanted, mdadm_conf: Path) -> None:
    """Put the array's line into mdadm.conf and make the initial ramdisk anew, or leave both as they were."""
    uuid = disks.export(disks.must(run, ["mdadm", "--detail", "--export", f"/dev/md/{wanted.name}"]))["MD_UUID"]
    before = lines_of(mdadm_conf)
    write_array_line(mdadm_conf, wanted, wanted.array_line(uuid))
    try:
        disks.must(run, ["update-initramfs", "-u"])
    except disks.StorageError:
        # Else the next run would find the line and take the ramdisk for made.
        write_lines(mdadm_conf, before)
        raise


def write_array_line(mdadm_conf: Path, wanted: Wanted, line: Optional[str]) -> None:
    """Replace the line of the volume's array in mdadm.conf, or remove it; all other lines stay as they are."""
    kept = [entry for entry in lines_of(mdadm_conf) if not is_array_line(entry, wanted)]
    write_lines(mdadm_conf, [*kept, *([line] if line else [])])


def write_fstab(fstab: Path, mount: str, line: Optional[str]) -> None:
    """Replace the line of a mount point in /etc/fstab, or remove it; all other lines stay as they are."""
    kept = [entry for entry in lines_of(fstab) if fstab_mount(entry) != mount]
    write_lines(fstab, [*kept, *([line] if line else [])])


def write_lines(path: Path, lines: List[str]) -> None:
    """Replace a file of the host in one step; it keeps its mode."""
    temporary = path.with_name(f".{path.name}.trainyard")
    temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    temporary.chmod(stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o644)
    temporary.replace(path)


def describe(found: Found, wanted: Wanted) -> Dict[str, Any]:
    """Return how the volume is, for a module's result."""
    return {
        "mount": wanted.mount,
        "device": found.array or (found.disks[0].path if len(found.disks) == 1 else None),
        "filesystem": found.filesystem[0] if found.filesystem else None,
        "mounted": found.mounted,
        "disks": [
            {
                "path": disk.path,
                "serial": disk.serial,
                "model": disk.model,
                "size_bytes": disk.size_bytes,
                "found": list(disk.claims),
            }
            for disk in found.disks
        ],
    }


def lacking(count: int, fstype: str, which: Callable[[str], Optional[str]]) -> List[str]:
    """Return the packages whose commands are needed for a volume and are missing.

    Args:
        count: of its disks; several become an array.
        fstype: xfs or ext4.
        which: finds a command.
    """
    needed = ["mkfs." + fstype] + (["mdadm"] if count > 1 else [])
    return sorted(PACKAGES[name] for name in needed if which(name) is None)
