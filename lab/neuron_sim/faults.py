# SPDX-License-Identifier: Apache-2.0
"""Faults on demand, switched while everything runs.

Some happen at once (a process is killed, a file is cut). The others last until they are cleared: each is a JSON file
below ``/run/neuron-sim/faults``, which the simulator's processes look at; broken hardware, which a reboot does not
repair, is noted below ``/var/lib/neuron-sim/faults`` instead.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import ownership, rules, sysfs
from .config import HostConfig, logical_nc_config
from .hardware import instance_type

INSTANT = ("engine-crash", "server-sigkill", "truncate-artifact", "truncate-weights")
LASTING = (
    "hang",
    "slow-tokens",
    "wrong-tokens",
    "device-reset-failure",
    "hbm-error",
    "repairable-hbm-error",
    "sram-error",
    "cores-not-released",
    "disk-full",
    "compile-failure",
    "compile-oom",
    "neuron-ls-collision",
    "rule-off",
)
_BROKEN_HARDWARE = ("device-reset-failure", "hbm-error", "sram-error")
_HARDWARE_COUNTERS = {
    "hbm-error": "mem_ecc_uncorrected",
    "repairable-hbm-error": "mem_ecc_repairable_uncorrected",
    "sram-error": "sram_ecc_uncorrected",
}


class FaultError(Exception):
    """The fault cannot be made; says why."""


@dataclass(frozen=True)
class Fault:
    """A fault that lasts.

    Attributes:
        kind: one of ``LASTING``.
        replica: value of ``NEURON_PROCESS_TAG`` whose engine it hits; empty for every engine.
        device: the device it hits; -1 for faults of no device.
        factor: how much slower tokens come.
        pid: a process that the fault itself keeps alive, or stopped.
        rule: what the host does not keep to, one of ``rules.RULES``.
    """

    kind: str
    replica: str = ""
    device: int = -1
    factor: float = 1.0
    pid: int = 0
    rule: str = ""


def directories(host: HostConfig) -> tuple[Path, Path]:
    """Where faults that last are written: until the next boot, and until the hardware is another."""
    return host.run_dir / "faults", host.path("/var/lib/neuron-sim/faults")


def _files(host: HostConfig) -> list[Path]:
    return [path for folder in directories(host) for path in sorted(folder.glob("*.json"))]


def active(host: HostConfig) -> list[Fault]:
    """The faults that last, in no order."""
    found = []
    for path in _files(host):
        try:
            found.append(Fault(**json.loads(path.read_text(encoding="utf-8"))))
        except (ValueError, TypeError, OSError):
            continue
    return found


def find(host: HostConfig, kind: str, replica: str = "", devices: set[int] | None = None) -> Fault | None:
    """The fault of that kind that hits this replica, or one of these devices."""
    for fault in active(host):
        if fault.kind != kind or (fault.replica and fault.replica != replica):
            continue
        if fault.device < 0 or devices is None or fault.device in devices:
            return fault
    return None


def take(host: HostConfig, kind: str) -> bool:
    """Whether a fault of that kind was on; it is over with this call, and only one of several callers gets it."""
    for path in (folder / f"{kind}.json" for folder in directories(host)):
        if path.exists():
            with contextlib.suppress(FileNotFoundError):  # another caller was faster
                path.unlink()
                return True
    return False


def _store(host: HostConfig, fault: Fault) -> None:
    folder = directories(host)[fault.kind in _BROKEN_HARDWARE]
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    device = str(fault.device) if fault.device >= 0 else ""
    name = "-".join(filter(None, [fault.kind, fault.replica, fault.rule, device]))
    fresh = folder / f".{name}"
    fresh.write_text(json.dumps(asdict(fault)), encoding="utf-8")
    fresh.replace(folder / f"{name}.json")


def engines(host: HostConfig, replica: str = "") -> list[ownership.Holder]:
    """The engine processes that own cores, those of one replica or all.

    Of the real vLLM every process carries the claim; its engine is the one that calls itself so.
    """
    mine = [
        holder
        for holder in ownership.holders(host)
        if not holder.leaked and (not replica or holder.environment.get("NEURON_PROCESS_TAG") == replica)
    ]
    named = [holder for holder in mine if "EngineCore" in holder.command]
    return named or mine


def _one_or_all(host: HostConfig, replica: str) -> list[ownership.Holder]:
    found = engines(host, replica)
    if not found:
        tags = {holder.environment.get("NEURON_PROCESS_TAG", "-") for holder in engines(host)}
        raise FaultError(
            f"no engine of replica {replica or '(any)'} holds cores here; running: {sorted(tags) or 'none'}"
        )
    return found


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _cut(path: Path) -> None:
    size = path.stat().st_size
    if size == 0:
        raise FaultError(f"{path} is empty already")
    with path.open("r+b") as file:
        file.truncate(size // 2)


def _truncate(path: str, patterns: tuple[str, ...]) -> str:
    given = Path(path)
    files = [given] if given.is_file() else [file for pattern in patterns for file in sorted(given.rglob(pattern))]
    if not files:
        raise FaultError(f"{path}: nothing to truncate ({', '.join(patterns)})")
    largest = max(files, key=lambda file: file.stat().st_size)
    _cut(largest)
    return f"truncated {largest}"


_HOLD = """
import fcntl, os, signal, sys
for path in sys.argv[1:]:
    fcntl.flock(os.open(path, os.O_RDONLY), fcntl.LOCK_EX)
while True:
    signal.pause()
"""


def _leak(host: HostConfig, holder: ownership.Holder) -> int:
    """A process that goes on holding the engine's cores, as a driver does that lost track of a context.

    It waits for the locks of the cores, so it has them the moment the engine ends: whoever comes next finds them taken,
    whatever user it is of.
    """
    key, _, cores = holder.claim.split("/")
    marker = f"{key}/leak{holder.pid}/{cores}"
    locks = [str(host.run_dir / "cores" / str(core)) for core in holder.cores]
    process = subprocess.Popen(
        [holder.command or "engine", "-ISc", _HOLD, *locks],
        executable=sys.executable,
        env={ownership.CLAIM_VARIABLE: marker},
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return process.pid


def _devices_of(host: HostConfig, replica: str, device: int) -> list[int]:
    if device >= 0:
        return [device]
    per_device = instance_type(host.instance_type).cores_per_device(logical_nc_config(host))
    return sorted({_one_or_all(host, replica)[0].cores[0] // per_device})


def _device_fault(host: HostConfig, kind: str, replica: str, device: int) -> str:
    (hit,) = _devices_of(host, replica, device)
    _store(host, Fault(kind, device=hit))
    if kind in _HARDWARE_COUNTERS:
        sysfs.increase(host, hit, f"stats/hardware/{_HARDWARE_COUNTERS[kind]}")
        if kind == "sram-error":
            _kernel_line(host, hit)
    else:
        # The driver counts it; whoever starts there later may not write where it does.
        sysfs.increase(host, hit, "neuron_core0/stats/other_info/reset_fail_count/total")
    return f"{kind} on device {hit}"


def _kernel_line(host: HostConfig, device: int) -> None:
    """What the driver says in the kernel's log; a container has none of its own, so it stands beside the faults."""
    line = (
        f"neuron: NEURON_HW_ERR=SRAM_UNCORRECTABLE_ERROR instance-id={host.instance_id} hostname=lab "
        f"nd-id={device} nc-id=0 serial-num={0x5A000000 + device:016x} action=TERMINATE_INSTANCE"
    )
    with (host.run_dir / "kernel.log").open("a", encoding="utf-8") as log:
        log.write(f"{time.time():.3f} {line}\n")


def _rule_off(host: HostConfig, rule: str) -> str:
    """Switch a rule off; what it has made already is taken back."""
    from . import starts  # it needs this module

    if rule not in rules.RULES:
        raise FaultError(f"unknown rule {rule!r}: expected one of {', '.join(rules.RULES)}")
    last = len(instance_type(host.instance_type).devices) - 1
    if rule == "device-nodes":
        host.path(f"/dev/neuron{last}").unlink(missing_ok=True)
    if rule == "device-rights":
        host.path(f"/dev/neuron{last}").chmod(0o600)
    if rule == "container-devices":
        path = host.path(f"/dev/neuron{last}")
        path.unlink(missing_ok=True)
        os.mknod(path, stat.S_IFSOCK | 0o666)  # a file that nobody can open
        path.chmod(0o666)
    if rule == "reset-failures":
        # Each start counts one then, whoever starts.
        for counter in sysfs.base(host).glob(
            f"{sysfs.CLASS_PATH}/*/neuron_core*/stats/other_info/reset_fail_count/total"
        ):
            counter.chmod(0o666)
    if rule == "image-volume":
        starts.image_volume(host, lasting=False)
    if rule == "sysfs-counters":
        (sysfs.device_directory(host, last) / "stats/hardware/mem_ecc_uncorrected").unlink(missing_ok=True)
    _store(host, Fault("rule-off", rule=rule))
    return f"off: {rules.RULES[rule]}"


def inject(
    host: HostConfig,
    kind: str,
    *,
    replica: str = "",
    device: int = -1,
    factor: float = 4.0,
    path: str = "",
    rule: str = "",
) -> str:
    """Make a fault; returns what was done, in one line.

    Raises:
        FaultError: unknown kind, or nothing there to hit.
    """
    if kind in ("truncate-artifact", "truncate-weights"):
        return _truncate(path, ("model.pt",) if kind == "truncate-artifact" else ("*.safetensors",))
    if kind == "rule-off":
        return _rule_off(host, rule)
    if kind in ("device-reset-failure", *_HARDWARE_COUNTERS):
        return _device_fault(host, kind, replica, device)
    if kind in ("slow-tokens", "wrong-tokens", "disk-full", "compile-failure", "compile-oom", "neuron-ls-collision"):
        _store(host, Fault(kind, replica=replica, factor=factor))
        return f"{kind} is on"
    hit = {
        "engine-crash": _crash,
        "server-sigkill": _kill_server,
        "hang": _hang,
        "cores-not-released": _hold_on,
    }.get(kind)
    if hit is None:
        raise FaultError(f"unknown fault {kind!r}: expected one of {', '.join((*INSTANT, *LASTING))}")
    return "; ".join(hit(host, holder, replica) for holder in _one_or_all(host, replica))


def _crash(host: HostConfig, holder: ownership.Holder, replica: str) -> str:
    del host, replica
    os.kill(holder.pid, signal.SIGKILL)
    return f"killed engine {holder.pid}"


def _kill_server(host: HostConfig, holder: ownership.Holder, replica: str) -> str:
    del host, replica
    server = _parent(holder.pid)
    if server <= 1:
        raise FaultError(f"engine {holder.pid} has no server any more")
    os.kill(server, signal.SIGKILL)
    return f"killed server {server}; its engine is {holder.pid}"


def _hang(host: HostConfig, holder: ownership.Holder, replica: str) -> str:
    os.kill(holder.pid, signal.SIGSTOP)
    _store(host, Fault("hang", replica=replica or f"pid{holder.pid}", pid=holder.pid))
    return f"stopped engine {holder.pid}; /health still answers"


def _hold_on(host: HostConfig, holder: ownership.Holder, replica: str) -> str:
    pid = _leak(host, holder)
    _store(host, Fault("cores-not-released", replica=replica or f"pid{holder.pid}", pid=pid))
    return f"cores {ownership.format_cores(holder.cores)} stay held after engine {holder.pid} ends"


def clear(host: HostConfig, kind: str = "", replica: str = "") -> list[str]:
    """End faults that last: all, those of a kind, those of a replica. Broken hardware is replaced.

    Returns the kinds that ended.
    """
    from . import install, starts  # they need this module

    ended = []
    for fault in active(host):
        if (kind and fault.kind != kind) or (replica and fault.replica != replica):
            continue
        if fault.kind == "hang":
            _signal(fault.pid, signal.SIGCONT)
        if fault.kind == "cores-not-released":
            _signal(fault.pid, signal.SIGKILL)
        if fault.rule == "container-devices":
            for path in host.path("/dev").glob("neuron[0-9]*"):
                path.unlink()
        if fault.rule:
            install.install_devices(host)
            sysfs.create(host)
        if fault.rule == "image-volume":
            starts.image_volume(host)
        if fault.device >= 0:
            (sysfs.replace_device if fault.kind in _BROKEN_HARDWARE else sysfs.repair)(host, fault.device)
        for path in _files(host):
            if json.loads(path.read_text(encoding="utf-8")) == asdict(fault):
                path.unlink()
        ended.append(fault.kind)
    return ended


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def describe(host: HostConfig) -> list[dict[str, Any]]:
    """The faults that last, as JSON values."""
    return [asdict(fault) for fault in active(host)]
