# SPDX-License-Identifier: Apache-2.0
"""``neuron-ls``: devices and who uses them, as text or JSON, in the shape of the installed tools' version.

Source: the neuron-ls guide at the tags 2.23.0 and 2.27.0 of the SDK's documentation. Core ids, processor lists and
NUMA nodes appear from tools 2.25 on.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from . import faults, ownership, rules, sdk
from .config import HostConfig, logical_nc_config
from .hardware import Device, InstanceType, instance_type

_RUNTIME_VERSION = "2.0.0"
_NEW_FIELDS_SINCE = (2, 25)
_NARROW, _WIDE = 40, 80
_LINK = "\N{BLACK LEFT-POINTING POINTER}\N{EN DASH}\N{EN DASH}\N{BLACK RIGHT-POINTING POINTER}"
_WRAP_LEFT, _WRAP_RIGHT = f"*{_LINK[1:]}", f"{_LINK[:-1]}*"


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(prog="neuron-ls", description="List the Neuron devices of this instance.")
    parser.add_argument("-w", "--wide", action="store_true", help="Displays the table in a wider format.")
    parser.add_argument(
        "-a",
        "--show-all-procs",
        action="store_true",
        help="Show all processes using the Neuron Devices, including those that do not use the runtime.",
    )
    parser.add_argument("-t", "--topology", action="store_true", help="Display topology information.")
    parser.add_argument("-j", "--json-output", action="store_true", help="Output in JSON format.")
    return parser


def shorten(command: str, width: int) -> str:
    """The command as the table shows it: at most ``width`` characters, the cut marked by three dots."""
    return command if len(command) <= width else command[: width - 3] + "..."


def _processes(cores: range, table: dict[int, list[ownership.Holder]], width: int) -> list[dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for core in cores:
        held = table.get(core, [])
        for holder in [one for one in held if not one.leaked] or held:
            found[holder.pid] = {
                "pid": holder.pid,
                "command": shorten(holder.command, width),
                "neuron_runtime_version": _RUNTIME_VERSION,
            }
    return [found[pid] for pid in sorted(found)]


def describe(host: HostConfig, *, width: int = _NARROW, all_processes: bool = False) -> list[dict[str, Any]]:
    """The devices as ``neuron-ls --json-output`` prints them: one object for each, in order."""
    kind = instance_type(host.instance_type)
    lnc = logical_nc_config(host)
    table = ownership.owners(host, kind.core_count(lnc))
    per_device = kind.cores_per_device(lnc)
    newer = sdk.of_host(host.sdk_releases).tools_version >= _NEW_FIELDS_SINCE
    result = []
    for device in kind.devices:
        cores = range(device.index * per_device, (device.index + 1) * per_device)
        entry: dict[str, Any] = {"neuron_device": device.index, "bdf": device.bdf}
        if newer:
            entry |= {"cpu_affinity": device.cpu_affinity, "numa_node": str(device.numa_node)}
        entry |= {"connected_to": list(device.connected_to), "nc_count": per_device}
        if kind.family == "trn2":
            entry["logical_neuroncore_config"] = lnc
        entry["memory_size"] = kind.device_memory_bytes
        if newer:
            entry["neuroncore_ids"] = list(cores)
        entry["neuron_processes"] = _processes(cores, table, width)
        if all_processes:
            own = shorten(" ".join(["neuron-ls", *sys.argv[1:]]), width)
            entry["neuron_processes"].append({"pid": os.getpid(), "command": own, "neuron_runtime_version": "NA"})
        result.append(entry)
    _break(host, kind, result)
    return result


def _break(host: HostConfig, kind: InstanceType, entries: list[dict[str, Any]]) -> None:
    """Say otherwise what rules that are off no longer hold."""
    first, last = entries[0], entries[-1]
    if not rules.holds(host, "neuron-ls-fields"):
        first["memory_size"] = str(first["memory_size"])
    if not rules.holds(host, "device-memory"):
        last["memory_size"] = kind.device_memory_bytes // 2
    if not rules.holds(host, "devices-and-cores"):
        for entry in entries:
            entry["logical_neuroncore_config"] = 3 - logical_nc_config(host)
    if not rules.holds(host, "links"):
        first["connected_to"] = first["connected_to"][1:]
    if not rules.holds(host, "numa") and "cpu_affinity" in first:
        first["cpu_affinity"] = "0-1"
    if not rules.holds(host, "core-numbers") and "neuroncore_ids" in first:
        first["neuroncore_ids"] = first["neuroncore_ids"][::-1]
    somebody = {"pid": 4194303, "command": "gone", "neuron_runtime_version": _RUNTIME_VERSION}
    if not rules.holds(host, "holders-live"):
        last["neuron_processes"].append(somebody)
    listed = [process for entry in entries for process in entry["neuron_processes"] if process["pid"] != 4194303]
    if not rules.holds(host, "holders-cores") and listed and listed[0] not in last["neuron_processes"]:
        last["neuron_processes"].append(listed[0])
    if not rules.holds(host, "slice-is-held"):
        seen: set[int] = set()
        for entry in entries:
            entry["neuron_processes"] = [one for one in entry["neuron_processes"] if one["pid"] not in seen]
            seen |= {one["pid"] for one in entry["neuron_processes"]}


def _columns(devices: list[dict[str, Any]], with_processes: bool) -> list[tuple[str, str]]:
    newer = "neuroncore_ids" in devices[0]
    columns = [("NEURON", "DEVICE"), ("NEURON", "CORES")]
    if newer:
        columns.append(("NEURON", "CORE IDS"))
    columns += [("NEURON", "MEMORY"), ("CONNECTED", "DEVICES"), ("PCI", "BDF")]
    if newer:
        columns += [("CPU", "AFFINITY"), ("NUMA", "NODE")]
    if with_processes:
        columns += [("PID", ""), ("COMMAND", ""), ("RUNTIME", "VERSION")]
    return columns


def _device_cells(entry: dict[str, Any]) -> list[str]:
    newer = "neuroncore_ids" in entry
    cells = [str(entry["neuron_device"]), str(entry["nc_count"])]
    if newer:
        cells.append(ownership.format_cores(entry["neuroncore_ids"]))
    cells += [f"{entry['memory_size'] // 1024**3} GB", ", ".join(map(str, entry["connected_to"]))]
    cells.append(f"0000:{entry['bdf']}" if newer else entry["bdf"])
    if newer:
        cells += [entry["cpu_affinity"], entry["numa_node"]]
    return cells


def _rows(entry: dict[str, Any], with_processes: bool) -> list[list[str]]:
    cells = _device_cells(entry)
    if not with_processes:
        return [cells]
    processes = entry["neuron_processes"] or [{"pid": "NA", "command": "NA", "neuron_runtime_version": "NA"}]
    rows = []
    for index, process in enumerate(processes):
        lead = cells if index == 0 else [""] * len(cells)
        rows.append([*lead, str(process["pid"]), process["command"], process["neuron_runtime_version"]])
    return rows


def _center(text: str, width: int) -> str:
    """Centred, the odd space on the right, as the command does it (str.center decides by the width)."""
    left = (width - len(text)) // 2
    return " " * left + text + " " * (width - len(text) - left)


def table(devices: list[dict[str, Any]]) -> str:
    """The devices as a table; columns for processes only when some device has one."""
    with_processes = any(entry["neuron_processes"] for entry in devices)
    columns = _columns(devices, with_processes)
    groups = [_rows(entry, with_processes) for entry in devices]
    widths = [
        max(len(heading[0]), len(heading[1]), *(len(row[index]) for rows in groups for row in rows))
        for index, heading in enumerate(columns)
    ]
    rule = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
    lines = [rule]
    for part in (0, 1):
        lines += ["|" + "|".join(_center(heading[part], widths[i] + 2) for i, heading in enumerate(columns)) + "|"]
    lines.append(rule)
    for index, rows in enumerate(groups):
        lines += ["|" + "|".join(f" {cell.ljust(widths[i])} " for i, cell in enumerate(row)) + "|" for row in rows]
        if with_processes and index < len(groups) - 1:
            lines.append(rule)
    lines.append(rule)
    return "\n".join(lines)


def topology(kind: InstanceType) -> str:
    """The drawing of the links that ``--topology`` adds."""
    lines = ["", "", "  Neuron Device Topology"]
    if len(kind.devices) != 16:
        return "\n".join([*lines, *_ring(kind.devices)])
    arrows = {"edge": "        *        *        *        *      ", "bar": "        │        │        │        │      "}
    down = "        ▼        ▼        ▼        ▼      "
    up = "        ▲        ▲        ▲        ▲      "
    lines += [arrows["edge"], arrows["bar"], down]
    for row in range(4):
        names = _LINK.join(_box(row * 4 + column) for column in range(4))
        lines.append(f"  {_WRAP_LEFT}{names}{_WRAP_RIGHT}")
        lines += [up, arrows["bar"], down if row < 3 else arrows["edge"]]
    return "\n".join([*lines, "", "  Legend:", "", f"          {_WRAP_LEFT} = Wrap-around link"])


def _box(index: int) -> str:
    return f"[ {index} ]" if index < 10 else f"[{index} ]"


def _ring(devices: tuple[Device, ...]) -> list[str]:
    if len(devices) == 1:
        return ["", f"  {_box(0)}"]
    return ["", f"  {_WRAP_LEFT}" + _LINK.join(_box(device.index) for device in devices) + _WRAP_RIGHT]


def main(host: HostConfig, argv: list[str]) -> int:
    """Run the command; 0, or 1 where there is no device, or where a fault says that it met another call of it."""
    options = build_parser().parse_args(argv)
    kind = instance_type(host.instance_type)
    if not host.path("/dev/neuron0").exists():
        print("neuron-ls: no Neuron device found; is the driver (aws-neuronx-dkms) installed?", file=sys.stderr)
        return 1
    if faults.take(host, "neuron-ls-collision"):
        print("neuron-ls: failed to read the devices", file=sys.stderr)
        return 1
    width = _WIDE if options.wide else _NARROW
    devices = describe(host, width=width, all_processes=options.show_all_procs)
    if options.json_output:
        print(json.dumps(devices, indent=4))
        return 0 if rules.holds(host, "neuron-ls-json") else 1
    print(f"instance-type: {host.instance_type if rules.holds(host, 'neuron-ls-header') else 'unknown'}")
    print(f"instance-id: {host.instance_id}")
    if kind.family == "trn2":
        print(f"logical-neuroncore-config: {logical_nc_config(host)}")
    print(table(devices))
    if options.topology:
        print(topology(kind))
    return 0
