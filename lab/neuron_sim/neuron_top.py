# SPDX-License-Identifier: Apache-2.0
"""``neuron-top``, once: cores, processors, memory and applications. The real one is a screen that refreshes itself.

The neuron-top guide says to use neuron-monitor in automation, so this is for people who look at a lab.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from . import neuron_monitor, sdk
from .config import HostConfig

_BAR = 20


def _bar(percent: float) -> str:
    full = round(_BAR * percent / 100)
    return f"[{'|' * full}{' ' * (_BAR - full)}] {percent:6.2f}%"


def _size(number: int) -> str:
    return f"{number / 1024**3:.2f}GB"


def render(host: HostConfig, report: dict[str, Any]) -> str:
    """One screen."""
    hardware, info = report["neuron_hardware_info"], report["instance_info"]
    tools = sdk.of_host(host.sdk_releases).tools
    lines = [f"neuron-top (version {tools})  {info['instance_id']}  {info['instance_type']}", ""]
    lines.append(f"NeuronCore {hardware['neuroncore_version']} Utilization")
    for entry in report["neuron_runtime_data"]:
        for core, data in entry["report"]["neuroncore_counters"]["neuroncores_in_use"].items():
            lines.append(f"  NC{core:<4} {_bar(data['neuroncore_utilization'])}")
    cpu = report["system_data"]["vcpu_usage"]["average_usage"]
    lines += ["", "VCPU Utilization", f"  System vCPU usage  {cpu['user']:.2f}% {cpu['system']:.2f}%", ""]
    lines.append("Memory Usage Summary")
    used = [entry["report"]["memory_used"]["neuron_runtime_used_bytes"] for entry in report["neuron_runtime_data"]]
    lines.append(f"  Host Used Memory    {_size(sum(entry['host'] for entry in used))}")
    lines.append(f"  Device Used Memory  {_size(sum(entry['neuron_device'] for entry in used))}")
    lines += ["", "Neuron Apps"]
    lines += [f"  [{entry['pid']}] {entry['neuron_runtime_tag']}" for entry in report["neuron_runtime_data"]]
    return "\n".join(lines)


def main(host: HostConfig, argv: list[str]) -> int:
    """Print one screen."""
    argparse.ArgumentParser(prog="neuron-top").parse_args(argv)
    monitor = neuron_monitor.Monitor(host, neuron_monitor.plan(None))
    monitor.report()
    time.sleep(0.2)
    print(render(host, monitor.report()))
    return 0
