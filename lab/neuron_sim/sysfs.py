# SPDX-License-Identifier: Apache-2.0
"""The driver's sysfs tree: counters of each device and core.

Where ``/sys`` cannot be written (always, in a container) the tree is at ``/run/neuron-sim/sys/devices/virtual``.
Source: the neuron-sysfs guide at SDK 2.31 (driver 2.28 and later).
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from . import packages, sdk
from .config import HostConfig, logical_nc_config
from .hardware import InstanceType, instance_type

CLASS_PATH = "devices/virtual/neuron_device"

_STATUS = (
    *("exec_bad_input", "hw_error", "infer_failed_to_queue", "resource_nc_error", "unsupported_neff_version"),
    *("failure", "infer_completed_with_error", "invalid_error", "oob_error", "success", "generic_error"),
    *("infer_completed_with_num_error", "resource_error", "timeout"),
)
_DEVICE_MEMORY = (
    *("collectives", "constants", "dma_rings", "driver_memory", "model_code", "model_shared_scratchpad"),
    *("nonshared_scratchpad", "notifications", "runtime_memory", "tensors", "uncategorized"),
)
_OTHER = ("flop_count", "inference_count", "model_load_count", "reset_fail_count", "reset_req_count", "nc_time_in_use")
_HARDWARE = ("mem_ecc_uncorrected", "mem_ecc_repairable_uncorrected", "sram_ecc_uncorrected")
_ARCHITECTURE = {
    "trn2": ("NDv4", "Trainium2", "Trn2", "NCv3d"),
    "trn1": ("NDv3", "Trainium1", "Trn1", "NCv2"),
    "inf2": ("NDv3", "Inferentia2", "Inf2", "NCv2"),
}


def base(host: HostConfig) -> Path:
    """The directory that plays ``/sys``."""
    if str(host.root) != "/":
        return host.path("/sys")
    return host.run_dir / "sys"


def device_directory(host: HostConfig, device: int) -> Path:
    """One device's directory."""
    return base(host) / CLASS_PATH / f"neuron{device}"


def _write(path: Path, value: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_text(f"{value}\n", encoding="utf-8")


def _counter(directory: Path, *, peak: bool = False) -> None:
    for name in ("total", "present", *(["peak"] if peak else [])):
        _write(directory / name, "0")


def _create_core(directory: Path, architecture: str) -> None:
    _write(directory / "info/architecture/arch_type", architecture)
    stats = directory / "stats"
    for name in _STATUS:
        _counter(stats / "status" / name)
    for name in _DEVICE_MEMORY:
        _counter(stats / "memory_usage/device_mem" / name, peak=True)
    _counter(stats / "memory_usage/host_mem", peak=True)
    for name in _OTHER:
        _counter(stats / "other_info" / name)


def _create_device(host: HostConfig, kind: InstanceType, index: int, cores: int) -> None:
    directory = device_directory(host, index)
    arch, name, family, core_arch = _ARCHITECTURE[kind.family]
    _write(directory / "connected_devices", ", ".join(map(str, kind.devices[index].connected_to)))
    _write(directory / "core_count", str(cores))
    _write(directory / "reset", "")
    _write(directory / "info/serial_number", f"{0x5A000000 + index:016x}")
    _write(directory / "info/notify_delay", "-1")
    _write(directory / "info/architecture/arch_type", arch)
    _write(directory / "info/architecture/device_name", name)
    _write(directory / "info/architecture/instance_type", family)
    for counter in _HARDWARE:
        _write(directory / "stats/hardware" / counter, "0")
    _write(directory / "stats/power/utilization", "POWER_STATUS_NO_DATA,0,0.00,0.00,0.00")
    for core in range(cores):
        _create_core(directory / f"neuron_core{core}", core_arch)


def create(host: HostConfig) -> None:
    """Make the tree, every counter at zero; what exists stays."""
    kind = instance_type(host.instance_type)
    cores = kind.cores_per_device(logical_nc_config(host))
    for device in kind.devices:
        _create_device(host, kind, device.index, cores)
    packages.write_module_state(base(host) / "module/neuron", sdk.of_host(host.sdk_releases), 0)


def increase(host: HostConfig, device: int, counter: str, by: int = 1) -> None:
    """Add to a device's counter, a path below its directory such as ``stats/hardware/sram_ecc_uncorrected``.

    A process that may not write here (a hardened unit's engine) leaves the counter as it is.
    """
    path = device_directory(host, device) / counter
    with contextlib.suppress(OSError, ValueError), path.open("r+b", buffering=0) as file:
        value = int(file.read()) + by
        # In one write and never emptied before: whoever is killed here leaves a number, and whoever reads sees one.
        file.seek(0)
        file.write(b"%d\n" % value)


def repair(host: HostConfig, device: int) -> None:
    """Set a device's counters of errors back, as a reboot does."""
    for counter in _HARDWARE:
        (device_directory(host, device) / "stats/hardware" / counter).write_text("0\n", encoding="utf-8")


def replace_device(host: HostConfig, device: int) -> None:
    """Put another device in the place of one: its counters at zero, its serial number another."""
    directory = device_directory(host, device)
    repair(host, device)
    for counted in directory.glob("neuron_core*/stats/other_info/reset_fail_count/*"):
        counted.write_text("0\n", encoding="utf-8")
    serial = directory / "info/serial_number"
    serial.write_text(f"{int(serial.read_text(encoding='utf-8'), 16) + 0x100:016x}\n", encoding="utf-8")
