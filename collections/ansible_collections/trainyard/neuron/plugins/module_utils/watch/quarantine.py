# SPDX-License-Identifier: Apache-2.0
"""Devices that healing took out of a host's plan: kept on the host itself, and over with the device.

An entry names the device by its serial number. Once another device answers in its place, or the whole host is another,
the entry holds no more, whoever plans and from wherever. Standard library only.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from ..serving import trusted
from . import devices

PATH = Path("/var/lib/trainyard/quarantine/devices.json")
VERSION = 1
EXPORTER = Path("/etc/trainyard/exporter.json")
"""Where the host's exporter reads devices from: a stand-in has its own place for them."""
SEEN = Path("/run/trainyard-exporter/state.json")
MOST_ENTRIES = devices.MOST_DEVICES
REPAIRABLE = "mem_repairable_uncorrected"
BROKEN = ("mem_uncorrected", "sram_uncorrected")
TEXT_CHARACTERS = 200


class QuarantineError(ValueError):
    """The file of a host is not what was written there; says what is lost with it, and what to do."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            "{0} {1}. It says which devices healing took out of the plan. Look at it; if it is beyond repair, remove "
            "it, and give the devices by trainyard_quarantined_devices of this host.".format(path, why)
        )


@dataclass(frozen=True)
class Entry:
    """A device that is out.

    Attributes:
        device: its index.
        serial: its serial number, empty where the driver tells none: then only a person or another host ends it.
        since_s: when it was taken out, seconds since 1970.
        finding: why, in the words of an alert.
        run: the run that did it.
    """

    device: int
    serial: str
    since_s: float
    finding: str
    run: str


@dataclass(frozen=True)
class Look:
    """What is known of one device.

    Attributes:
        serial: its serial number, empty where the driver tells none.
        sick: what is wrong with it, each with its count, such as ``sram_uncorrected 2``.
        repairable: nothing is wrong but what a reboot repairs.
        out: whether it is out of the plan.
        replaced: an entry names it, and it is another device.
    """

    serial: str
    sick: Tuple[str, ...]
    repairable: bool
    out: bool
    replaced: bool


def read(path: Path = PATH) -> List[Entry]:
    """The entries of a host; none where healing never took a device out.

    Raises:
        QuarantineError: the file is not what was written.
    """
    try:
        raw = json.loads(trusted.read_text(path))
        if raw["version"] != VERSION or not isinstance(raw["devices"], list) or len(raw["devices"]) > MOST_ENTRIES:
            raise ValueError("is of version {0!r}".format(raw["version"]))
        return [_entry(row) for row in raw["devices"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise QuarantineError(path, "cannot be used ({0})".format(error)) from error


def _entry(row: Mapping[str, Any]) -> Entry:
    device, since_s = row["device"], row["since_s"]
    if isinstance(device, bool) or not isinstance(device, int) or not 0 <= device < devices.MOST_DEVICES:
        raise ValueError("{0!r:.40} is no device".format(device))
    if isinstance(since_s, bool) or not isinstance(since_s, (int, float)):
        raise ValueError("{0!r:.40} is no time".format(since_s))
    words = [row[name] for name in ("serial", "finding", "run")]
    if not all(isinstance(word, str) for word in words):
        raise ValueError("an entry has no words")
    return Entry(device, words[0], float(since_s), words[1], words[2])


def write(entries: Sequence[Entry], path: Path = PATH) -> None:
    """Keep entries in the place of those before, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    rows = [asdict(entry) for entry in sorted(entries, key=lambda entry: entry.device)]
    trusted.write_text(path, json.dumps({"version": VERSION, "devices": rows}, indent=1) + "\n", 0o644)


def serials(sysfs: Path) -> Dict[int, str]:
    """The serial number of each device that the driver shows, empty where it tells none."""
    return {index: devices.read_value(folder / "info/serial_number") or "" for index, folder in devices.folders(sysfs)}


def standing(entries: Sequence[Entry], found: Mapping[int, str]) -> List[Entry]:
    """Entries that hold: whose device is the one that they name, or cannot be told from it.

    Args:
        entries: of the host.
        found: serial numbers of its devices.
    """
    return [entry for entry in entries if not _replaced(entry, found)]


def _replaced(entry: Entry, found: Mapping[int, str]) -> bool:
    serial = found.get(entry.device, "")
    return bool(entry.serial and serial and serial != entry.serial)


def sysfs_of(configuration: Path = EXPORTER) -> Path:
    """Where the kernel's objects of this host are, as its exporter was told."""
    try:
        found = json.loads(trusted.read_text(configuration, trusted.CONFIGURATION_LIMIT))["sysfs"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return Path("/sys")
    return Path(found) if isinstance(found, str) and Path(found).is_absolute() else Path("/sys")


def out_of_plan(path: Path = PATH, sysfs: Path = Path("/sys")) -> List[int]:
    """Devices that a plan of this host leaves out, ascending.

    Raises:
        QuarantineError: as of `read`.
    """
    entries = read(path)
    return sorted({entry.device for entry in standing(entries, serials(sysfs))}) if entries else []


def look(path: Path = PATH, sysfs: Path = Path("/sys"), seen: Path = SEEN) -> Dict[int, Look]:
    """What driver and kernel say of each device, beside what is out.

    Raises:
        QuarantineError: as of `read`.
    """
    entries = {entry.device: entry for entry in read(path)}
    found = serials(sysfs)
    kernel = _kernel_errors(seen)
    looks = {}
    for index, folder in devices.folders(sysfs):
        entry = entries.get(index)
        replaced = entry is not None and _replaced(entry, found)
        sick = _counted(folder) + (() if replaced else kernel.get(index, ()))
        repairable = bool(sick) and all(word.startswith(REPAIRABLE) for word in sick)
        looks[index] = Look(found[index], sick, repairable, entry is not None and not replaced, replaced)
    return looks


def _counted(folder: Path) -> Tuple[str, ...]:
    """What the driver counts of a device that no working one has."""
    found = []
    for name, kind in devices.ECC:
        count = devices.count(folder / "stats/hardware" / name) or 0
        if count and kind in (*BROKEN, REPAIRABLE):
            found.append("{0} {1}".format(kind, count))
    broken = devices.unhealthy(folder)
    if broken:
        found.append("unhealthy {0}".format(" ".join(broken)))
    failures = devices.reset_failures(folder) or 0
    if failures:
        found.append("reset_failures {0}".format(failures))
    return tuple(found)


def _kernel_errors(seen: Path) -> Dict[int, Tuple[str, ...]]:
    """What the exporter counted of the kernel's lines, by device; nothing where it keeps nothing."""
    try:
        rows = json.loads(trusted.read_text(seen, trusted.CONFIGURATION_LIMIT))["kernel"]["counts"]
        found: Dict[int, Tuple[str, ...]] = {}
        for device, kind, count in rows:
            if str(device).isdigit() and int(count) > 0:
                word = "{0} {1}".format(str(kind)[:TEXT_CHARACTERS], int(count))
                found[int(device)] = (*found.get(int(device), ()), word)
        return found
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
