# SPDX-License-Identifier: Apache-2.0
"""``neuron-monitor``: a JSON report a line, every period, of the runtimes, the host and the devices.

Source: the neuron-monitor guide at SDK 2.23.0. A runtime is a process that owns cores; its counters come from the
engine itself, so an engine that hangs is reported with an error, and the real vLLM with counters of zero.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import ownership, rules, runtime_stats, sysfs
from .config import HostConfig, logical_nc_config
from .hardware import InstanceType, instance_type

RUNTIME_GROUPS = ("neuroncore_counters", "memory_used", "neuron_runtime_vcpu_usage", "execution_stats")
SYSTEM_GROUPS = ("vcpu_usage", "memory_info", "neuron_hw_counters")
_DEFAULT_PERIOD = "5s"
_TYPES = {"trn2": ("trainium2", "v4", "v3d"), "trn1": ("trainium", "v3", "v2"), "inf2": ("inferentia2", "v3", "v2")}
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class MonitorError(Exception):
    """The configuration file cannot be used."""


@dataclass
class Plan:
    """What to report: group -> period in seconds, and which runtimes."""

    runtimes: list[tuple[re.Pattern[str], dict[str, float]]]
    system: dict[str, float]

    @property
    def shortest(self) -> float:
        """How often something is due."""
        periods = [period for _, groups in self.runtimes for period in groups.values()]
        return min([*periods, *self.system.values()], default=5.0)


def seconds(text: str) -> float:
    """``1s``, ``500ms``, ``2m`` in seconds.

    Raises:
        MonitorError: not a duration.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    if not match:
        raise MonitorError(f"invalid period {text!r}")
    return float(match[1]) * _UNITS[match[2]]


def _groups(entries: list[dict[str, Any]], known: tuple[str, ...], period: str) -> dict[str, float]:
    found = {}
    for entry in entries:
        if entry.get("type") not in known:
            raise MonitorError(f"unknown metric group {entry.get('type')!r}")
        found[entry["type"]] = seconds(entry.get("period", period))
    return found


def plan(config: dict[str, Any] | None) -> Plan:
    """The plan of a configuration file, or of none: every group, every five seconds.

    Raises:
        MonitorError: unknown groups, bad periods or filters.
    """
    if config is None:
        everything = [{"type": name} for name in RUNTIME_GROUPS]
        system = [{"type": name} for name in SYSTEM_GROUPS]
        config = {"neuron_runtimes": [{"tag_filter": ".*", "metrics": everything}], "system_metrics": system}
    period = config.get("period", _DEFAULT_PERIOD)
    seconds(period)
    runtimes = []
    for entry in config.get("neuron_runtimes", []):
        try:
            pattern = re.compile(entry.get("tag_filter", ".*"))
        except re.error as error:
            raise MonitorError(f"invalid tag_filter: {error}") from error
        groups = _groups(entry.get("metrics", []), RUNTIME_GROUPS, entry.get("period", period))
        runtimes.append((pattern, groups))
    return Plan(runtimes, _groups(config.get("system_metrics", []), SYSTEM_GROUPS, period))


def _cpu_times() -> dict[str, list[int]]:
    lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
    return {line.split()[0][3:]: [int(x) for x in line.split()[1:8]] for line in lines if line.startswith("cpu")}


def _percentages(before: list[int], after: list[int]) -> dict[str, float]:
    names = ("user", "nice", "system", "idle", "io_wait", "irq", "soft_irq")
    spent = [new - old for old, new in zip(before, after, strict=True)]
    total = sum(spent) or 1
    return {name: round(100 * value / total, 2) for name, value in zip(names, spent, strict=True)}


def _context_switches() -> int:
    for line in Path("/proc/stat").read_text(encoding="ascii").splitlines():
        if line.startswith("ctxt "):
            return int(line.split()[1])
    return 0


@dataclass
class Monitor:
    """Collects reports; remembers what was when each group was last collected."""

    host: HostConfig
    plan: Plan
    _last: dict[str, float] = field(default_factory=dict)
    _cpu: dict[str, list[int]] = field(default_factory=_cpu_times)
    _switches: int = field(default_factory=_context_switches)
    _statistics: dict[int, dict[str, Any]] = field(default_factory=dict)
    _process_cpu: dict[int, tuple[int, int]] = field(default_factory=dict)

    @property
    def _kind(self) -> InstanceType:
        return instance_type(self.host.instance_type)

    def _period(self, key: str, now: float) -> float:
        period = now - self._last.get(key, now)
        self._last[key] = now
        return round(period, 9)

    def report(self) -> dict[str, Any]:
        """One report with every group."""
        now = time.monotonic()
        return {
            "neuron_runtime_data": [entry for holder in self._runtimes() for entry in self._runtime(holder, now)],
            "system_data": {name: getattr(self, f"_{name}")(now) for name in self.plan.system},
            "instance_info": {
                "instance_name": "lab",
                "instance_id": self.host.instance_id,
                "instance_type": self.host.instance_type,
                "instance_availability_zone": "",
                "instance_availability_zone_id": "",
                "instance_region": "",
                "ami_id": "",
                "subnet_id": "",
                "error": "",
            },
            "neuron_hardware_info": self._hardware(),
        }

    def _hardware(self) -> dict[str, Any]:
        kind = self._kind
        lnc = logical_nc_config(self.host)
        device_type, device_version, core_version = _TYPES[kind.family]
        if kind.family == "trn2" and lnc == 1:
            core_version = "v3"
        info: dict[str, Any] = {
            "neuron_device_type": device_type,
            "neuron_device_version": device_version,
            "neuroncore_version": core_version,
            "neuron_device_count": len(kind.devices) + (not rules.holds(self.host, "neuron-monitor")),
            "neuron_device_memory_size": kind.device_memory_bytes,
            "neuroncore_per_device_count": kind.cores_per_device(lnc),
        }
        if kind.family == "trn2":
            info["logical_neuroncore_config"] = lnc
        return {**info, "error": ""}

    def _runtimes(self) -> list[ownership.Holder]:
        """One process for each claim: the engine where it can be told."""
        by_claim: dict[str, ownership.Holder] = {}
        for holder in ownership.holders(self.host):
            if not holder.leaked and (holder.claim not in by_claim or "EngineCore" in holder.command):
                by_claim[holder.claim] = holder
        return list(by_claim.values())

    def _runtime(self, holder: ownership.Holder, now: float) -> list[dict[str, Any]]:
        tag = holder.environment.get("NEURON_PROCESS_TAG", "")[:255] or str(holder.pid)
        if not rules.holds(self.host, "monitor-tag"):
            tag = str(holder.pid)
        groups: dict[str, float] = {}
        for pattern, wanted in self.plan.runtimes:
            if pattern.search(tag):
                groups |= wanted
        if not groups:
            return []
        counters = runtime_stats.ask(self.host, holder.pid)
        silent = (
            counters is None and "VLLM::" in holder.command and not holder.environment.get("VLLM_CPU_KVCACHE_SPACE")
        )
        report = {name: getattr(self, f"_{name}")(holder, counters or {}, now) for name in groups}
        if counters is not None:
            self._statistics[holder.pid] = counters
        error = "runtime did not answer" if silent else ""
        entry = {"pid": holder.pid, "address": "", "neuron_runtime_tag": tag, "error": error, "report": report}
        return [entry]

    def _since(self, pid: int, counters: dict[str, Any], name: str) -> float:
        before = self._statistics.get(pid, {}).get(name, 0)
        return max(0.0, float(counters.get(name, 0)) - float(before))

    def _neuroncore_counters(self, holder: ownership.Holder, counters: dict[str, Any], now: float) -> dict[str, Any]:
        period = self._period(f"{holder.pid}nc", now)
        busy = self._since(holder.pid, counters, "busy_seconds")
        share = round(min(100.0, 100 * busy / period), 2) if period else 0.0
        cores: dict[str, Any] = {}
        lnc = logical_nc_config(self.host)
        for core in holder.cores:
            entry: dict[str, Any] = {"neuroncore_utilization": share, "flops": 0}
            if self._kind.family == "trn2" and lnc == 2:
                physical = (2 * core, 2 * core + 1)
                entry["v3d"] = {f"nc_v3.{number}": {"neuroncore_utilization": share} for number in physical}
            cores[str(core)] = entry
        return {"period": period, "neuroncores_in_use": cores, "error": ""}

    def _execution_stats(self, holder: ownership.Holder, counters: dict[str, Any], now: float) -> dict[str, Any]:
        steps = int(self._since(holder.pid, counters, "steps"))
        busy = self._since(holder.pid, counters, "busy_seconds")
        latency: dict[str, float] | None = None
        if steps:
            latency = dict.fromkeys(("p0", "p1", "p25", "p50", "p75", "p99", "p100"), round(busy / steps, 9))
        errors = dict.fromkeys(("generic", "numerical", "transient", "model", "runtime", "hardware"), 0)
        outcomes = ("completed_with_err", "completed_with_num_err", "timed_out", "incorrect_input", "failed_to_queue")
        return {
            "period": self._period(f"{holder.pid}ex", now),
            "error_summary": errors,
            "execution_summary": {"completed": steps, **dict.fromkeys(outcomes, 0)},
            "latency_stats": {"total_latency": latency, "device_latency": latency},
            "error": "",
        }

    def _memory_used(self, holder: ownership.Holder, counters: dict[str, Any], now: float) -> dict[str, Any]:
        host_bytes = _resident_bytes(holder.pid)
        weights, cache = int(counters.get("weights_bytes", 0)), int(counters.get("cache_bytes", 0))
        if not rules.holds(self.host, "monitor-memory"):
            weights = cache = 0
        number = len(holder.cores)
        core = {
            "constants": weights // number,
            "model_code": 0,
            "model_shared_scratchpad": 0,
            "runtime_memory": 0,
            "tensors": cache // number,
        }
        breakdown = {
            "host": {"application_memory": host_bytes, "constants": 0, "dma_buffers": 0, "tensors": 0},
            "neuroncore_memory_usage": {str(index): dict(core) for index in holder.cores},
        }
        used = {"host": host_bytes, "neuron_device": weights + cache, "usage_breakdown": breakdown}
        return {
            "period": self._period(f"{holder.pid}mem", now),
            "neuron_runtime_used_bytes": used,
            "loaded_models": [],
            "error": "",
        }

    def _neuron_runtime_vcpu_usage(
        self, holder: ownership.Holder, counters: dict[str, Any], now: float
    ) -> dict[str, Any]:
        del counters
        period = self._period(f"{holder.pid}cpu", now)
        user, system = _cpu_ticks(holder.pid)
        before = self._process_cpu.get(holder.pid, (user, system))
        self._process_cpu[holder.pid] = (user, system)
        ticks = (period or 1.0) * os.sysconf("SC_CLK_TCK")
        usage = {
            "user": round(100 * (user - before[0]) / ticks, 2),
            "system": round(100 * (system - before[1]) / ticks, 2),
        }
        return {"period": period, "vcpu_usage": usage, "error": ""}

    def _vcpu_usage(self, now: float) -> dict[str, Any]:
        before, self._cpu = self._cpu, _cpu_times()
        switches, self._switches = self._switches, _context_switches()
        usage = {name: _percentages(before.get(name, times), times) for name, times in self._cpu.items()}
        return {
            "period": self._period("vcpu", now),
            "average_usage": usage.pop(""),
            "usage_data": usage,
            "context_switch_count": self._switches - switches,
            "error": "",
        }

    def _memory_info(self, now: float) -> dict[str, Any]:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        info = {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        return {
            "period": self._period("memory", now),
            "memory_total_bytes": info["MemTotal"],
            "memory_used_bytes": info["MemTotal"] - info["MemAvailable"],
            "swap_total_bytes": info["SwapTotal"],
            "swap_used_bytes": info["SwapTotal"] - info["SwapFree"],
            "error": "",
        }

    def _neuron_hw_counters(self, now: float) -> dict[str, Any]:
        devices = []
        for device in self._kind.devices:
            hardware = sysfs.device_directory(self.host, device.index) / "stats/hardware"
            uncorrected = _number(hardware / "mem_ecc_uncorrected") + _number(
                hardware / "mem_ecc_repairable_uncorrected"
            )
            devices.append(
                {
                    "neuron_device_index": device.index,
                    "mem_ecc_corrected": 0,
                    "mem_ecc_uncorrected": uncorrected,
                    "sram_ecc_uncorrected": _number(hardware / "sram_ecc_uncorrected"),
                    "sram_ecc_corrected": 0,
                }
            )
        return {"period": self._period("hw", now), "neuron_devices": devices, "error": ""}


def _number(path: Path) -> int:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _cpu_ticks(pid: int) -> tuple[int, int]:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return int(fields[11]), int(fields[12])
    except (OSError, IndexError):
        return 0, 0


def main(host: HostConfig, argv: list[str]) -> int:
    """Stream reports until nobody reads them."""
    parser = argparse.ArgumentParser(prog="neuron-monitor")
    parser.add_argument("-c", "--config-file", default=None, help="path of a configuration file")
    parser.add_argument("--verbose", type=int, default=0, choices=range(5), help="0: no output, 4: maximum verbosity")
    options = parser.parse_args(argv)
    try:
        text = Path(options.config_file).read_text(encoding="utf-8") if options.config_file else None
        chosen = plan(json.loads(text) if text is not None else None)
    except (OSError, ValueError, MonitorError) as error:
        print(f"neuron-monitor: {error}", file=sys.stderr)
        return 1
    monitor = Monitor(host, chosen)
    due = time.monotonic()
    while True:
        due += chosen.shortest
        print(json.dumps(monitor.report(), separators=(",", ":")), flush=True)
        time.sleep(max(0.0, due - time.monotonic()))
