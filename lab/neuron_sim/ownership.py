# SPDX-License-Identifier: Apache-2.0
"""Who owns which core.

As on a real host a core belongs to live processes and to nobody else. Two things mark a claim, both ended by the
kernel when the process ends, so no record can go stale:

* an exclusive ``flock`` on the core's file below ``/run/neuron-sim/cores``, held through the claimant's descriptors
  and by every child that inherits them (like the driver, which frees a core at the last close of its device);
* ``NEURON_SIM_CLAIM=<root>/<id>/<cores>`` in the environment, so that children which close every descriptor (as
  Python's own ``spawn`` does) still hold the claim, and so that pids and commands can be shown.

The files are only ever opened for reading: claiming works in a hardened unit that may write nowhere.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from . import rules
from .config import HostConfig

CLAIM_VARIABLE = "NEURON_SIM_CLAIM"
_LOCK_NAME = "driver.lock"


class CoresBusyError(Exception):
    """Some of the wanted cores belong to somebody else; the message is the runtime's own text."""


class CoreSelectionError(Exception):
    """The variables that choose cores ask for what the runtime refuses."""


@dataclass(frozen=True)
class Holder:
    """A live process that holds cores. ``cores`` are logical ids, ascending."""

    pid: int
    command: str
    cores: tuple[int, ...]
    claim: str
    environment: dict[str, str]

    @property
    def leaked(self) -> bool:
        """Whether this only stands for cores that the driver failed to take back."""
        return self.claim.partition("/")[2].startswith("leak")


@dataclass(frozen=True)
class Claim:
    """Cores that this process now holds, until ``release`` or the end of the last holder.

    Attributes:
        marker: the value of ``NEURON_SIM_CLAIM`` that children need.
        descriptors: open locks; pass them to the children that own the device.
    """

    marker: str
    cores: tuple[int, ...]
    descriptors: tuple[int, ...]

    def environment(self) -> dict[str, str]:
        """What a child's environment needs beside its own."""
        return {CLAIM_VARIABLE: self.marker}

    def release(self) -> None:
        """Close this process's locks. Children that inherited them keep the cores."""
        for descriptor in self.descriptors:
            with contextlib.suppress(OSError):
                os.close(descriptor)


def prepare(host: HostConfig, physical_cores: int) -> None:
    """Create the lock files, one for each core the host could ever have."""
    cores = host.run_dir / "cores"
    cores.mkdir(parents=True, exist_ok=True)
    for path in [host.run_dir / _LOCK_NAME, *(cores / str(core) for core in range(physical_cores))]:
        path.touch(mode=0o644, exist_ok=True)


def format_cores(cores: Iterable[int]) -> str:
    """``0-3,6`` for 0, 1, 2, 3, 6."""
    parts: list[str] = []
    ordered = sorted(cores)
    start = 0
    for index in range(1, len(ordered) + 1):
        if index == len(ordered) or ordered[index] != ordered[index - 1] + 1:
            first, last = ordered[start], ordered[index - 1]
            parts.append(str(first) if first == last else f"{first}-{last}")
            start = index
    return ",".join(parts)


def parse_cores(text: str) -> tuple[int, ...]:
    """The cores of ``0``, ``0-31`` or ``3-5,6``; they must ascend without a gap, as the runtime wants.

    Raises:
        CoreSelectionError: not such a list.
    """
    cores: list[int] = []
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            cores.extend(range(int(first), int(last or first) + 1))
    except ValueError:
        raise CoreSelectionError(f"NRT:nrt_init Invalid NEURON_RT_VISIBLE_CORES: {text!r}") from None
    if not cores or cores != list(range(cores[0], cores[0] + len(cores))):
        raise CoreSelectionError(f"NRT:nrt_init Neuron cores are not contiguous: {text}")
    return tuple(cores)


def _root_key(host: HostConfig) -> str:
    return hashlib.sha256(str(host.root.resolve()).encode()).hexdigest()[:12]


@contextlib.contextmanager
def _driver_lock(host: HostConfig) -> Iterator[None]:
    """Only one process at a time looks at the locks or takes them."""
    descriptor = os.open(host.run_dir / _LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _environment(pid: str) -> dict[str, str]:
    with contextlib.suppress(OSError):
        raw = Path(f"/proc/{pid}/environ").read_bytes()
        pairs = (item.partition("=") for item in raw.decode(errors="replace").split("\0") if "=" in item)
        return {name: value for name, _, value in pairs}
    return {}


def _alive(pid: str) -> bool:
    """Whether the process can still hold anything: a zombie has already given everything back."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def _command(pid: str) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
    return ""


def holders(host: HostConfig) -> list[Holder]:
    """Every live process whose environment carries a claim on this host, by pid."""
    found = []
    key = _root_key(host)
    for entry in sorted((path.name for path in Path("/proc").iterdir() if path.name.isdigit()), key=int):
        environment = _environment(entry)
        marker = environment.get(CLAIM_VARIABLE, "")
        if marker.count("/") != 2 or not marker.startswith(f"{key}/") or not _alive(entry):
            continue
        with contextlib.suppress(CoreSelectionError):
            cores = parse_cores(marker.rpartition("/")[2])
            found.append(Holder(int(entry), _command(entry), cores, marker, environment))
    return found


def _lock_pids(host: HostConfig) -> dict[int, int]:
    """Core -> pid for locks whose owner's environment we may not read (another user's process)."""
    by_inode: dict[int, int] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if "FLOCK" in fields:
                kind = fields.index("FLOCK")
                by_inode[int(fields[kind + 4].rpartition(":")[2])] = int(fields[kind + 3])
    found = {}
    for path in (host.run_dir / "cores").iterdir():
        pid = by_inode.get(path.stat().st_ino)
        if pid:
            found[int(path.name)] = pid
    return found


def _locked(host: HostConfig, core: int) -> bool:
    """Whether somebody holds the core's lock. The caller holds the driver lock."""
    try:
        descriptor = os.open(host.run_dir / "cores" / str(core), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def owners(host: HostConfig, core_count: int) -> dict[int, list[Holder]]:
    """Core -> the processes that hold it (empty list = free) for logical cores 0 .. core_count - 1."""
    with _driver_lock(host):
        return _owners(host, core_count)


def _owners(host: HostConfig, core_count: int) -> dict[int, list[Holder]]:
    table: dict[int, list[Holder]] = {core: [] for core in range(core_count)}
    for holder in holders(host):
        for core in holder.cores:
            table.setdefault(core, []).append(holder)
    lock_pids: dict[int, int] | None = None
    for core in range(core_count):
        if not table[core] and _locked(host, core):
            lock_pids = _lock_pids(host) if lock_pids is None else lock_pids
            pid = lock_pids.get(core, 0)
            table[core].append(Holder(pid, _command(str(pid)), (core,), "", {}))
    return table


def wanted_cores(
    host: HostConfig, environment: dict[str, str], variable: str, core_count: int, free: list[int], default_count: int
) -> tuple[int, ...]:
    """The cores that a process asks for.

    An explicit list wins; ``NEURON_RT_NUM_CORES`` takes the first free run of that length; else the runtime takes as
    many free cores as the process needs (``default_count``), from the lowest on.

    Raises:
        CoreSelectionError: the list names cores that the instance does not have, or has gaps.
        CoresBusyError: no run of free cores is long enough.
    """
    text = environment.get(variable, "").strip()
    if text:
        if not rules.holds(host, "cores-gap") and "," in text:
            first = parse_cores(text.split(",")[0])[0]
            return tuple(range(first, first + default_count))
        cores = parse_cores(text)
        if cores[-1] >= core_count and not rules.holds(host, "cores-outside"):
            return tuple(range(core_count - len(cores), core_count))
        if cores[-1] >= core_count:
            raise CoreSelectionError(
                f"TDRV:db_vtpb_get_mla_and_tpb Could not find VNC id {cores[-1]}\n"
                "ERROR NRT:nrt_init cannot determine the number of available NeuronCores"
            )
        return cores
    number = environment.get("NEURON_RT_NUM_CORES", "").strip()
    count = int(number) if number.isdigit() and int(number) > 0 else default_count
    run: list[int] = []
    for core in free:
        run = [*run, core] if run and core == run[-1] + 1 else [core]
        if len(run) == count:
            return tuple(run)
    raise CoresBusyError(busy_text(f"{count}", len(free)))


def busy_text(requested: str, available: int) -> str:
    """The runtime's own words for cores that somebody else holds (Neuron runtime troubleshooting guide)."""
    return (
        f"ERROR NRT:nrt_allocate_neuron_cores NeuronCore(s) not available - Requested:{requested} Available:{available}"
    )


def claim(host: HostConfig, core_count: int, *, default_count: int, variable: str = "NEURON_RT_VISIBLE_CORES") -> Claim:
    """Take the cores that this process's environment asks for.

    Args:
        host: the stand-in host.
        core_count: logical cores of the host.
        default_count: how many to take when the environment says nothing.
        variable: the variable that lists cores in this generation.

    Raises:
        CoreSelectionError: the environment asks for what does not exist.
        CoresBusyError: somebody else holds one of them.
    """
    with _driver_lock(host):
        table = _owners(host, core_count)
        free = [core for core, held in table.items() if not held]
        cores = wanted_cores(host, dict(os.environ), variable, core_count, free, default_count)
        exclusive = rules.holds(host, "cores-busy")
        busy = any(core not in free for core in cores)
        beside = len(free) < core_count and not rules.holds(host, "side-by-side")
        if exclusive and (busy or (beside and not _quiet(table))):
            available = len(set(cores) & set(free))
            raise CoresBusyError(busy_text(f"nc{cores[0]}-nc{cores[-1]}", available))
        descriptors = []
        for core in cores:
            descriptor = os.open(host.run_dir / "cores" / str(core), os.O_RDONLY)
            with contextlib.suppress(*(() if exclusive else (BlockingIOError,))):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.set_inheritable(descriptor, True)
            descriptors.append(descriptor)
    return Claim(marker(host, uuid.uuid4().hex[:12], cores), cores, tuple(descriptors))


def _quiet(table: dict[int, list[Holder]]) -> bool:
    """Whether nobody has begun to hold cores within the last ten seconds."""
    now = time.time()
    with contextlib.suppress(OSError):
        return all(
            now - Path(f"/proc/{holder.pid}").stat().st_mtime > 10.0 for held in table.values() for holder in held
        )
    return True


def marker(host: HostConfig, name: str, cores: Iterable[int]) -> str:
    """What the environment of a process that holds these cores says; the name tells one claim from the next."""
    return f"{_root_key(host)}/{name}/{format_cores(cores)}"
