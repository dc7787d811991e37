# SPDX-License-Identifier: Apache-2.0
"""What driver and kernel say of a host's Neuron devices: counters in sysfs, and the kernel's lines about hardware."""

from __future__ import annotations

import errno
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Tuple

from .page import Page

CLASS = "devices/virtual/neuron_device"
MOST_DEVICES = 256
VALUE_BYTES = 4096
"""A counter or a list of components; more is not read."""
MOST_RECORDS = 20000
"""Records of the kernel that one look reads; what is left is read by the next."""
RECORD_BYTES = 8192
FILE_BYTES = 1 << 20

#: Counters of a device below ``stats/hardware``, and the kind that they are told as.
ECC = (
    ("mem_ecc_uncorrected", "mem_uncorrected"),
    ("mem_ecc_repairable_uncorrected", "mem_repairable_uncorrected"),
    ("sram_ecc_uncorrected", "sram_uncorrected"),
    ("mem_ecc_corrected", "mem_corrected"),
    ("sram_ecc_corrected", "sram_corrected"),
)
#: What AWS's node problem detector looks for; anything else of the kind counts as OTHER.
HARDWARE_ERRORS = (
    "SRAM_UNCORRECTABLE_ERROR",
    "NC_UNCORRECTABLE_ERROR",
    "HBM_UNCORRECTABLE_ERROR",
    "DMA_ERROR",
    "HANG_ON_COLLECTIVES",
)
OTHER = "OTHER"
_ERROR = re.compile(r"\bneuron\b.{0,80}?NEURON_HW_ERR=([A-Z0-9_]{1,64})")
_DEVICE = re.compile(r"\bnd-id=(\d{1,3})\b")
_FOLDER = re.compile(r"neuron(\d{1,3})\Z")
_HEALTHY = frozenset(("", "0", "none", "healthy"))


def read_value(path: Path) -> Optional[str]:
    """The text of a small plain file; None where there is none, or where it is something else."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        return os.read(descriptor, VALUE_BYTES).decode("utf-8", "replace").strip()
    except OSError:
        return None
    finally:
        os.close(descriptor)


def count(path: Path) -> Optional[int]:
    """A counter of the driver; None where there is none."""
    text = read_value(path)
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 19 else None


def folders(sysfs: Path) -> List[Tuple[int, Path]]:
    """Number and directory of each device that the driver shows."""
    found = []
    try:
        names = [path.name for path in (sysfs / CLASS).iterdir()]
    except OSError:
        return []
    for name in names:
        matched = _FOLDER.match(name)
        if matched:
            found.append((int(matched.group(1)), sysfs / CLASS / name))
    return sorted(found)[:MOST_DEVICES]


def say_devices(page: Page, devices: Iterable[Tuple[int, Path]]) -> None:
    """Add what sysfs says of each device. A counter that the driver does not have is left out."""
    number = 0
    for index, folder in devices:
        number += 1
        device = str(index)
        for name, kind in ECC:
            counted = count(folder / "stats/hardware" / name)
            if counted is not None:
                page.say("trainyard_neuron_ecc_events_total", counted, device=device, kind=kind)
        broken = unhealthy(folder)
        if broken is not None:
            page.say("trainyard_neuron_device_unhealthy", float(bool(broken)), device=device, component="any")
            for component in sorted(set(broken) - {"any"}):
                page.say("trainyard_neuron_device_unhealthy", 1, device=device, component=component)
        failures = reset_failures(folder)
        if failures is not None:
            page.say("trainyard_neuron_reset_failures_total", failures, device=device)
    page.say("trainyard_neuron_devices", number)


def unhealthy(folder: Path) -> Optional[List[str]]:
    """Components of a device that the driver calls unhealthy; None where it does not say (before 2.30)."""
    health = read_value(folder / "health_status/unhealthy_components")
    if health is None:
        return None
    return [] if health.lower() in _HEALTHY else re.findall(r"[A-Za-z0-9_.-]+", health)[:16]


def reset_failures(folder: Path) -> Optional[int]:
    """Resets of a device's cores that failed; None where the driver does not count them."""
    found = [count(folder / core / "stats/other_info/reset_fail_count" / "total") for core in _cores(folder)]
    known = [failures for failures in found if failures is not None]
    return sum(known) if known else None


def _cores(folder: Path) -> List[str]:
    try:
        return sorted(path.name for path in folder.iterdir() if path.name.startswith("neuron_core"))
    except OSError:
        return []


@dataclass
class KernelLog:
    """Counts the kernel's lines about broken hardware, each once, however often this program starts.

    Args:
        path: ``/dev/kmsg``, or a file that the kernel's lines are kept in.

    Attributes:
        counts: by device and kind.
        place: how far it was read: the number of the last record, or the file's inode and the bytes read of it.
    """

    path: Path
    counts: Dict[Tuple[str, str], int] = field(default_factory=dict)
    place: List[int] = field(default_factory=list)

    def look(self) -> None:
        """Count what came since the last look.

        Raises:
            OSError: the log cannot be read.
        """
        descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISREG(mode):
                lines = self._of_file(descriptor)
            elif stat.S_ISCHR(mode):
                lines = self._of_device(descriptor)
            else:
                raise OSError(errno.EINVAL, "is neither the kernel's device nor a plain file", str(self.path))
            for line in lines:
                self._take(line)
        finally:
            os.close(descriptor)

    def _take(self, line: str) -> None:
        error = _ERROR.search(line[:RECORD_BYTES])
        if not error:
            return
        kind = error.group(1) if error.group(1) in HARDWARE_ERRORS else OTHER
        device = _DEVICE.search(line, error.end())
        key = (device.group(1) if device else "", kind)
        self.counts[key] = self.counts.get(key, 0) + 1

    def _of_device(self, descriptor: int) -> Iterator[str]:
        last = self.place[0] if len(self.place) == 1 else -1
        for _ in range(MOST_RECORDS):
            try:
                record = os.read(descriptor, RECORD_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.EPIPE:  # what was to be read next has just been overwritten
                    continue
                raise
            head, _, line = record.decode("utf-8", "replace").partition(";")
            fields = head.split(",")
            if len(fields) < 2 or not fields[1].isdigit():
                continue
            number = int(fields[1])
            # Facility 0 is the kernel's own; anybody with the right to write there is told apart by it.
            if number > last and fields[0].isdigit() and int(fields[0]) >> 3 == 0:
                yield line
            last = max(last, number)
            self.place = [last]

    def _of_file(self, descriptor: int) -> Iterator[str]:
        status = os.fstat(descriptor)
        same = len(self.place) == 2 and self.place[0] == status.st_ino and self.place[1] <= status.st_size
        start = self.place[1] if same else 0
        os.lseek(descriptor, start, os.SEEK_SET)
        data = os.read(descriptor, FILE_BYTES)
        # A line that is not whole yet is read by the next look; one that never ends is given up.
        whole = data.rfind(b"\n") + 1 or (len(data) if len(data) == FILE_BYTES else 0)
        self.place = [status.st_ino, start + whole]
        return iter(data[:whole].decode("utf-8", "replace").splitlines())

    def say(self, page: Page, devices: Iterable[int]) -> None:
        """Add the counts: zeros too, since what appears with its first error is no increase."""
        seen = dict.fromkeys(((str(index), kind) for index in devices for kind in HARDWARE_ERRORS), 0)
        seen.update(self.counts)
        for (device, kind), errors in sorted(seen.items())[: MOST_DEVICES * len(HARDWARE_ERRORS)]:
            page.say("trainyard_neuron_hw_errors_total", errors, device=device, kind=kind)

    def to_dict(self) -> Dict[str, Any]:
        """What the next process goes on from."""
        return {"place": self.place, "counts": [[device, kind, count] for (device, kind), count in self.counts.items()]}

    def go_on(self, row: Mapping[str, Any]) -> None:
        """Go on from what an earlier process kept; from the beginning where that is not whole.

        Args:
            row: the form of `to_dict`.
        """
        try:
            place = [int(number) for number in row["place"]]
            counts = {(str(device), str(kind)): int(count) for device, kind, count in row["counts"]}
        except (KeyError, TypeError, ValueError):
            return
        self.place, self.counts = place, counts
