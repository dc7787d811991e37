# SPDX-License-Identifier: Apache-2.0
"""What disks a host has, which of them are instance store, and what each of them holds.

Kernel names (nvme1n1) change from boot to boot, so a disk is known by its model and serial number throughout.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

#: Model that EC2's instance-store disks report. EBS volumes say "Amazon Elastic Block Store".
INSTANCE_STORE_MODEL = "Amazon EC2 NVMe Instance Storage"

COLUMNS = "NAME,KNAME,PATH,TYPE,SIZE,MODEL,SERIAL,MOUNTPOINTS,PTTYPE,RO"

#: (argv) -> (status, output, errors)
Run = Callable[[List[str]], Tuple[int, str, str]]


class StorageError(Exception):
    """The disks cannot be described or changed; the message says which command said what."""


@dataclass(frozen=True)
class Member:
    """What the superblock of an array's member says."""

    name: str
    uuid: str
    level: str
    count: int


@dataclass(frozen=True)
class Disk:
    """One whole disk and everything that speaks against writing to it."""

    path: str
    serial: str
    model: str
    size_bytes: int
    #: Reasons why the disk is not blank, for people.
    claims: Tuple[str, ...] = ()
    #: The array whose superblock it carries.
    member: Optional[Member] = None
    #: Kernel name of an assembled array (or other device) that uses it.
    holders: Tuple[str, ...] = ()
    #: `(type, label)` of a filesystem on the disk itself.
    filesystem: Optional[Tuple[str, str]] = None
    mounts: Tuple[str, ...] = field(default=())
    #: The LVM volume group that it is part of, empty for none.
    group: str = ""

    @property
    def blank(self) -> bool:
        """Whether nothing was found on the disk and nothing uses it."""
        return not self.claims

    def __str__(self) -> str:
        found = "; ".join(self.claims) or "blank"
        return f"{self.path} (serial {self.serial or 'none'}, {self.model or 'no model'}): {found}"


def must(run: Run, argv: List[str]) -> str:
    """Run a command and return its output.

    Raises:
        StorageError: it failed.
    """
    status, output, errors = run(argv)
    if status != 0:
        raise StorageError(f"`{' '.join(argv)}` ended with status {status}: {(errors or output).strip()}")
    return output


def candidates(run: Run, model: str, serial: str = "", only: Tuple[str, ...] = ()) -> List[Disk]:
    """Return the instance-store disks in the order of their serial numbers.

    Args:
        run: Runs a command.
        model: Regular expression that the whole model must match.
        serial: Regular expression that the whole serial must match; empty matches all.
        only: Serial numbers; where any are given, no other disk counts.

    Raises:
        StorageError: lsblk failed, a listed serial is not there, or two disks share one.
    """
    try:
        found = _matching(run, model, serial, only)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        said = f"what lsblk or wipefs printed cannot be read ({type(error).__name__}: {error}); nothing was changed"
        raise StorageError(said) from error
    serials = [disk.serial for disk in found]
    missing = sorted(set(only) - set(serials))
    if missing:
        raise StorageError(
            f"no instance-store disk has the serial {', '.join(missing)}; found: {', '.join(sorted(serials)) or 'none'}"
        )
    twice = sorted({item for item in serials if serials.count(item) > 1})
    if twice:
        raise StorageError(
            f"several disks have the serial {', '.join(twice) or '(none)'}, so they cannot be told apart"
        )
    return sorted(found, key=lambda disk: disk.serial)


def _matching(run: Run, model: str, serial: str, only: Tuple[str, ...]) -> List[Disk]:
    listing = json.loads(must(run, ["lsblk", "--json", "--bytes", "--output", COLUMNS]))
    found = []
    for device in listing.get("blockdevices", []):
        disk_serial = (device.get("serial") or "").strip()
        if device["type"] != "disk" or not re.fullmatch(model, (device.get("model") or "").strip()):
            continue
        if (serial and not re.fullmatch(serial, disk_serial)) or (only and disk_serial not in only):
            continue
        found.append(inspect(run, device))
    return found


def inspect(run: Run, device: Dict[str, Any]) -> Disk:
    """Return one disk of lsblk's listing with all that is on it and all that uses it."""
    path = device["path"]
    claims = []
    mounts = tuple(sorted({mount for node in walk(device) for mount in node.get("mountpoints") or [] if mount}))
    if mounts:
        claims.append(f"mounted at {', '.join(mounts)}")
    partitions = [node["name"] for node in walk(device) if node["type"] == "part"]
    if device.get("pttype") or partitions:
        claims.append(
            f"partition table {device.get('pttype') or 'of unknown kind'} with {len(partitions)} partition(s)"
        )
    holders = tuple(node["kname"] for node in device.get("children") or [] if node["type"] != "part")
    if holders:
        claims.append(f"used by {', '.join(holders)}")
    claims.extend(f"signature {kind} at byte {offset}" for kind, offset in signatures(run, path))
    if device.get("ro") in (True, "1", 1):
        claims.append("read-only")
    if not claims and busy(path):
        claims.append("in use by the kernel")
    return Disk(
        path=path,
        serial=(device.get("serial") or "").strip(),
        model=(device.get("model") or "").strip(),
        size_bytes=int(device["size"]),
        claims=tuple(claims),
        member=member_of(run, path) if any("linux_raid_member" in claim for claim in claims) else None,
        holders=holders,
        filesystem=filesystem(run, path) if claims else None,
        mounts=mounts,
        group=group_of(run, path) if any("LVM2_member" in claim for claim in claims) else "",
    )


def group_of(run: Run, path: str) -> str:
    """Return the volume group of a disk, empty where LVM knows none."""
    status, output, _errors = run(["pvs", "--noheadings", "--options", "vg_name", path])
    return output.strip() if status == 0 and re.fullmatch(r"[A-Za-z0-9+_.][A-Za-z0-9+_.-]*", output.strip()) else ""


def walk(device: Dict[str, Any]) -> Iterator[Dict[str, Any]]:
    """Yield a device of lsblk's listing and everything stacked on it."""
    yield device
    for child in device.get("children") or []:
        yield from walk(child)


def signatures(run: Run, path: str) -> List[Tuple[str, str]]:
    """Return `(type, offset)` of every signature on a device, read from it and not from udev's memory."""
    output = must(run, ["wipefs", "--no-act", "--json", path]).strip()
    if not output:
        return []
    try:
        return [(entry["type"], entry["offset"]) for entry in json.loads(output)["signatures"]]
    except (ValueError, KeyError, TypeError) as error:
        # What guards data is not guessed: an answer that is not understood is no answer of "blank".
        raise StorageError(f"`wipefs` says of {path} what is not understood: {output[:200]!r}") from error


def busy(path: str) -> bool:
    """Return whether the kernel refuses exclusive use of a device: something holds it that left no other trace."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_EXCL)
    except OSError as error:
        if error.errno == errno.EBUSY:
            return True
        raise
    os.close(descriptor)
    return False


@contextlib.contextmanager
def held(*paths: str) -> Iterator[None]:
    """Keep other tools that respect the lock of a block device away from some: systemd's own, and this one elsewhere.

    Source: systemd's "Locking Block Device Access".

    Raises:
        StorageError: one of them is not there, or another program works on it.
    """
    with contextlib.ExitStack() as stack:
        for path in sorted(paths):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                stack.callback(os.close, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise StorageError(f"{path} was left as it is: {error.strerror}, so it cannot be locked") from error
        yield


def require_empty(run: Run, path: str) -> None:
    """Look at a device once more, right before something is written to it that would ask at a terminal.

    Raises:
        StorageError: it holds something. Without a terminal `mkfs.ext4` and `mdadm --create --run` overwrite it.
    """
    found = signatures(run, path)
    if found:
        told = ", ".join(f"{kind} at byte {offset}" for kind, offset in found)
        raise StorageError(
            f"{path} was blank when it was looked at, and holds {told} now: it was left as it is. Find out who writes "
            "to it; to lose what it holds, name its disks in nvme_raid_wipe"
        )


def export(text: str) -> Dict[str, str]:
    """Return the `KEY=value` lines that blkid and mdadm print."""
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def member_of(run: Run, path: str) -> Optional[Member]:
    """Return which array a disk is a member of, by its own superblock; None where mdadm cannot read it."""
    status, output, _errors = run(["mdadm", "--examine", "--export", path])
    if status != 0:
        return None
    values = export(output)
    # `any:data` or `<host>:data`: who made the array does not matter, what it is called does.
    name = values.get("MD_NAME", "").rsplit(":", 1)[-1]
    return Member(name, values.get("MD_UUID", ""), values.get("MD_LEVEL", ""), _number(values.get("MD_DEVICES", "0")))


def _number(text: str) -> int:
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else 0


def filesystem(run: Run, path: str) -> Optional[Tuple[str, str]]:
    """Return `(type, label)` of the filesystem on a device, None where there is none."""
    status, output, _errors = run(["blkid", "--probe", "--output", "export", path])
    if status != 0:
        return None
    values = export(output)
    if values.get("USAGE") not in (None, "filesystem") or "TYPE" not in values:
        return None
    return values["TYPE"], values.get("LABEL", "")
