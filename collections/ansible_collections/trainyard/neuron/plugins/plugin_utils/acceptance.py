# SPDX-License-Identifier: Apache-2.0
"""What the product relies on of a Neuron host, each as a check: its source, what is expected, what was seen.

Evidence comes from a host, which may say anything: a check that cannot read it has not passed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.topology import (
    FAMILIES,
    INSTANCE_TYPES,
    TopologyError,
    parse_topology,
    table_topology,
)
from ansible_collections.trainyard.neuron.plugins.module_utils.serving.slices import parse_cores
from ansible_collections.trainyard.neuron.plugins.module_utils.storage.volume import IMAGE_MOUNT, IMAGE_UNIT
from ansible_collections.trainyard.neuron.plugins.plugin_utils.acceptance_check import (
    DIFFERS,
    PASSED,
    SKIPPED,
    Check,
    DifferenceError,
    NotJudgedError,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.acceptance_trials import TRIED_CHECKS
from ansible_collections.trainyard.neuron.plugins.plugin_utils.collection import HOME, collection_version
from jinja2 import Environment, StrictUndefined


def _devices(evidence: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the list of `neuron-ls --json-output`; what it cannot be is told by the check of it alone."""
    try:
        found = json.loads(evidence["neuron_ls"]["out"])
    except (ValueError, RecursionError) as error:
        raise NotJudgedError("neuron-ls printed no JSON") from error
    if not isinstance(found, list) or not found or not all(isinstance(one, dict) for one in found):
        raise NotJudgedError("neuron-ls printed no list of devices")
    return found


def _typed(evidence: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the devices where their fields are as they should be; else that is told by the check of them alone."""
    devices = _devices(evidence)
    if _field_faults(devices):
        raise NotJudgedError("the fields of neuron-ls are not as expected")
    return devices


def _json_list(evidence: Mapping[str, Any]) -> str:
    said = evidence["neuron_ls"]
    if said["status"] != 0:
        raise DifferenceError(f"exit status {said['status']}: {said['err'].strip()[:200]}")
    try:
        devices = _devices(evidence)
    except NotJudgedError as error:
        raise DifferenceError(str(error)) from error
    numbers = [device.get("neuron_device") for device in devices]
    if numbers != list(range(len(devices))):
        raise DifferenceError(f"devices {numbers}")
    return f"{len(devices)} devices"


_FIELDS: dict[str, type] = {
    "neuron_device": int,
    "bdf": str,
    "connected_to": list,
    "nc_count": int,
    "memory_size": int,
    "neuron_processes": list,
}
#: Of tools from 2.25 on, all or none of them.
_NEWER: dict[str, type] = {"cpu_affinity": str, "numa_node": str, "neuroncore_ids": list}


def _field_faults(devices: list[dict[str, Any]]) -> list[str]:
    newer = any(name in device for device in devices for name in _NEWER)
    wanted = {**_FIELDS, **(_NEWER if newer else {})}
    wrong = []
    for name, kind in wanted.items():
        kinds = {type(device.get(name)).__name__ for device in devices if type(device.get(name)) is not kind}
        if kinds:
            wrong.append(f"{name} is {' and '.join(sorted(kinds))} where {kind.__name__} is expected")
    return wrong


def _fields(evidence: Mapping[str, Any]) -> str:
    devices = _devices(evidence)
    if wrong := _field_faults(devices):
        raise DifferenceError("; ".join(wrong))
    return "fields of tools from 2.25 on" if "neuroncore_ids" in devices[0] else "fields of tools before 2.25"


def _header(evidence: Mapping[str, Any]) -> dict[str, str]:
    text = evidence["neuron_ls_table"]["out"]
    return dict(re.findall(r"^(instance-type|logical-neuroncore-config):[ \t]*(\S+)", text, re.MULTILINE))


def _type_in_header(evidence: Mapping[str, Any]) -> str:
    found = _header(evidence).get("instance-type")
    known = evidence.get("instance_type")
    if found not in INSTANCE_TYPES:
        raise DifferenceError(f"instance-type: {found}")
    if known and found != known:
        raise DifferenceError(f"{found}, and the inventory says {known}")
    return str(found)


def _kind(evidence: Mapping[str, Any]) -> str:
    known = evidence.get("instance_type") or (_header(evidence) if "neuron_ls_table" in evidence else {}).get(
        "instance-type"
    )
    if known not in INSTANCE_TYPES:
        raise NotJudgedError("the instance type is not known")
    return str(known)


def _memory(evidence: Mapping[str, Any]) -> str:
    wanted = FAMILIES[table_topology(_kind(evidence)).family].device_bytes
    sizes = {device["memory_size"] for device in _typed(evidence)}
    if sizes != {wanted}:
        raise DifferenceError(f"{', '.join(map(str, sorted(sizes)))} bytes where {wanted} are expected")
    return f"{wanted >> 30} GiB each"


def _core_numbers(evidence: Mapping[str, Any]) -> str:
    devices = _typed(evidence)
    if "neuroncore_ids" not in devices[0]:
        raise NotJudgedError("tools before 2.25 do not say it")
    ids = [core for device in devices for core in device["neuroncore_ids"]]
    if ids != list(range(sum(device["nc_count"] for device in devices))):
        raise DifferenceError(f"core numbers {ids[:40]}")
    return f"0 to {len(ids) - 1}, device by device"


def _known_shape(evidence: Mapping[str, Any]) -> str:
    # The parser refuses a host whose devices differ; what they differ in is told by the check of it.
    for check in (_memory, _core_numbers):
        try:
            check(evidence)
        except DifferenceError as error:
            raise NotJudgedError("the devices are not alike") from error
        except NotJudgedError:
            continue
    try:
        here = parse_topology(_typed(evidence), _kind(evidence))
    except TopologyError as error:
        raise DifferenceError(str(error)) from error
    table = table_topology(_kind(evidence), here.logical_nc_config)
    ours, theirs = (len(table.devices), table.core_count), (len(here.devices), here.core_count)
    if ours != theirs:
        raise DifferenceError(f"{theirs[0]} devices with {theirs[1]} logical cores in all")
    return f"{theirs[0]} devices, {theirs[1]} logical cores at LNC {here.logical_nc_config}"


def _links(evidence: Mapping[str, Any]) -> str:
    links = {device["neuron_device"]: set(device["connected_to"]) for device in _typed(evidence)}
    odd = sorted(f"{one}->{two}" for one, ends in links.items() for two in ends if one not in links.get(two, set()))
    if odd:
        raise DifferenceError(f"only one way: {', '.join(odd[:20])}")
    return f"{sum(map(len, links.values())) // 2} links, each both ways"


def _numa(evidence: Mapping[str, Any]) -> str:
    devices = _typed(evidence)
    if "numa_node" not in devices[0]:
        raise NotJudgedError("tools before 2.25 do not say it")
    nodes: dict[str, set[str]] = {}
    for device in devices:
        nodes.setdefault(device["numa_node"], set()).add(device["cpu_affinity"])
    several = sorted(node for node, lists in nodes.items() if len(lists) > 1)
    if several:
        raise DifferenceError(f"nodes {', '.join(several)} have several CPU lists")
    lists = [parse_cores(next(iter(found))) for found in nodes.values() if next(iter(found))]
    if sum(map(len, lists)) != len(frozenset().union(*lists)):
        raise DifferenceError("a CPU belongs to two nodes")
    return f"{len(nodes)} NUMA nodes, no CPU in two"


def _nodes(evidence: Mapping[str, Any]) -> str:
    wanted = [device["neuron_device"] for device in _typed(evidence)]
    missing = sorted(set(wanted) - set(evidence["device_nodes"]))
    if missing:
        raise DifferenceError("no /dev/neuron" + ", /dev/neuron".join(map(str, missing)))
    return f"/dev/neuron0 to /dev/neuron{wanted[-1]}"


def _rights(evidence: Mapping[str, Any]) -> str:
    known = evidence["rights"]
    if not known:
        raise NotJudgedError("there is no device's file")
    closed = sorted((int(number), mode) for number, mode in known.items() if int(mode, 8) & 0o6 != 0o6)
    if closed:
        raise DifferenceError(", ".join(f"/dev/neuron{number} is {mode}" for number, mode in closed[:20]))
    return f"{', '.join(sorted(set(known.values())))} at each of {len(known)} devices"


def _image_volume(evidence: Mapping[str, Any]) -> str:
    found = evidence["image_volume"]
    if not found["unit"]:
        if found["mounted"]:
            raise DifferenceError(f"{IMAGE_MOUNT} is mounted, and there is no {IMAGE_UNIT}")
        raise NotJudgedError(f"the image has no {IMAGE_UNIT}")
    if found["state"] not in ("enabled", "disabled", "masked"):
        raise DifferenceError(f"{IMAGE_UNIT} is {found['state'] or 'not known to systemctl'}")
    return f"{IMAGE_UNIT} is {found['state']}, {'and' if found['mounted'] else 'nothing is'} mounted at {IMAGE_MOUNT}"


def _users(evidence: Mapping[str, Any]) -> str:
    _devices(evidence)
    processes = evidence["processes"]
    dead = sorted(pid for pid, found in processes.items() if not found["alive"])
    # A process may end between the two looks; a core that stays held by nobody is named by a second acceptance, too.
    if dead:
        raise DifferenceError(f"{len(dead)} of {len(processes)} processes that hold devices are gone")
    return f"{len(processes)} processes hold devices, each alive"


def _users_cores(evidence: Mapping[str, Any]) -> str:
    judged = 0
    for device in _typed(evidence):
        first, count = device["neuron_device"] * device["nc_count"], device["nc_count"]
        own = set(range(first, first + count))
        for process in device["neuron_processes"]:
            cores = (evidence["processes"].get(str(process["pid"])) or {}).get("cores")
            if cores is None:
                continue
            judged += 1
            if not own & parse_cores(cores):
                raise DifferenceError(f"a process with cores {cores} is listed at device {device['neuron_device']}")
    if not judged:
        raise NotJudgedError("no process that says its cores holds a device")
    return f"{judged} entries, each at a device of the process's own cores"


def _monitor(evidence: Mapping[str, Any]) -> str:
    said = evidence["monitor"]
    if said["status"] != 0:
        raise DifferenceError(said["err"] or "it printed nothing")
    report = json.loads(said["out"])
    hardware = report["neuron_hardware_info"]
    missing = [name for name in ("neuron_runtime_data", "system_data", "instance_info") if name not in report]
    if missing:
        raise DifferenceError(f"no {', '.join(missing)}")
    devices = _typed(evidence)
    if hardware["neuron_device_count"] != len(devices):
        raise DifferenceError(f"{hardware['neuron_device_count']} devices, and neuron-ls has {len(devices)}")
    return f"{len(devices)} devices, as neuron-ls"


def _counters(evidence: Mapping[str, Any]) -> str:
    wanted = {str(device["neuron_device"]) for device in _typed(evidence)}
    seen = evidence["sysfs"]
    lacking = sorted(number for number in wanted if seen.get(number) is not True)
    if not seen:
        raise DifferenceError("no device in sysfs")
    if lacking:
        raise DifferenceError(f"not at device {', '.join(lacking[:20])}")
    return f"at each of {len(wanted)} devices"


_LS, _MONITOR = "neuron-ls guide", "neuron-monitor guide"
_TOPOLOGY = "plugins/module_utils/plan/topology.py"
_SLICES = "plugins/module_utils/serving/slices.py"

LOOKS: tuple[Check, ...] = (
    Check("neuron-ls-json", "look", _LS, "exit status 0, and a JSON array with an object for each device, in order",
          (_SLICES, "def read_devices("), _json_list),
    Check("neuron-ls-fields", "look", _LS, "the fields of the tools' version, numa_node as text",
          (_TOPOLOGY, "def _neuron_ls_entry("), _fields),
    Check("neuron-ls-header", "look", _LS, "the instance type in the header of the table, as the inventory has it",
          ("plugins/modules/topology_info.py", "^instance-type:"), _type_in_header),
    Check("devices-and-cores", "look", "hardware pages", "as many devices and logical cores as the type has",
          (_TOPOLOGY, "def parse_topology("), _known_shape),
    Check("device-memory", "look", "hardware pages", "the family's HBM at each device",
          (_TOPOLOGY, "def hbm_bytes_per_core("), _memory),
    Check("links", "look", _LS, "each link named at both its ends",
          (_TOPOLOGY, "connected_to:"), _links),
    Check("numa", "look", "runtime's performance guide", "one CPU list for each NUMA node, and no CPU in two",
          (_TOPOLOGY, "NO_NUMA_NODE = "), _numa),
    Check("core-numbers", "look", _LS, "logical cores counted through, device by device",
          (_TOPOLOGY, "cores: Tuple[int, ...]"), _core_numbers),
    Check("device-nodes", "device", "driver", "/dev/neuronN for each device",
          ("plugins/module_utils/sdk.py", "/dev/neuron"), _nodes),
    Check("device-rights", "device", "driver's udev rule", "any user may read and write /dev/neuronN",
          ("plugins/module_utils/serving/container.py", "CAPABILITIES = "), _rights),
    Check("image-volume", "device", "Neuron's machine image",
          "what takes the instance store at boot is dlami-nvme.service, which can be disabled",
          ("plugins/module_utils/storage/volume.py", "IMAGE_UNIT, IMAGE_MOUNT = "), _image_volume),
    Check("holders-live", "device", "runtime guide", "a process that holds a device lives",
          (_SLICES, "def holders("), _users),
    Check("holders-cores", "device", _LS, "a process is listed at the devices of the cores that it was given",
          (_SLICES, "def holders("), _users_cores),
    Check("sysfs-counters", "device", "neuron-sysfs guide", "counters of memory errors and resets at each device",
          ("plugins/module_utils/watch/devices.py", "ECC = ("), _counters),
    Check("neuron-monitor", "device", _MONITOR, "a JSON report a line, of as many devices as neuron-ls names",
          ("plugins/module_utils/acceptance.py", "neuron-monitor"), _monitor),
)  # fmt: skip


CHECKS = (*LOOKS, *TRIED_CHECKS)

#: Checks that need somebody who serves: where nobody else did, the trial's own server is seen by them.
_WHILE_SERVING = ("holders-live", "holders-cores")


def report_of(
    answers: Mapping[str, Mapping[str, Any]],
    hosts: Sequence[str],
    stages: Sequence[str],
    types: Mapping[str, str],
    salt: str,
) -> dict[str, Any]:
    """Return the report, JSON-ready.

    Args:
        answers: result of the module by host, of those that answered.
        hosts: all that were asked.
        stages: what was looked at.
        types: instance types of the inventory, by host.
        salt: with one, hosts are named by a digest of it and their name.
    """
    found: dict[str, Any] = {}
    for name in hosts:
        shown = f"host-{hashlib.sha256((salt + name).encode()).hexdigest()[:10]}" if salt else name
        evidence = (answers.get(name) or {}).get("evidence")
        if not isinstance(evidence, dict):
            found[shown] = {"refused": "the host did not answer", "checks": [], "times": {}}
            continue
        known = {**evidence, "instance_type": types.get(name) or evidence.get("instance_type")}
        found[shown] = {"refused": "", "checks": judged(known, stages), "times": times_of(known)}
    outcomes = [check["outcome"] for host in found.values() for check in host["checks"]]
    return {
        "version": 1,
        "called": "acceptance",
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "trainyard_version": collection_version(),
        "stages": list(stages),
        "passed": outcomes.count(PASSED),
        "differs": outcomes.count(DIFFERS),
        "not_judged": outcomes.count(SKIPPED),
        "hosts": found,
    }


def times_of(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a start and a compile took, for a calibration; nothing where neither was tried, or a host lies."""
    trials = evidence.get("trials")
    if not isinstance(trials, Mapping):
        return {}
    found: dict[str, Any] = {"generation": str(trials.get("generation"))[:20]}
    sound, compiled = trials.get("sound"), trials.get("compile")
    if isinstance(sound, Mapping) and _positive(sound.get("start_s")):
        found["start_s"] = sound["start_s"]
        found["load_bytes"] = sound["load_bytes"] if _positive(sound.get("load_bytes")) else 0
        found["presharded"] = sound.get("presharded") is True
    if isinstance(compiled, Mapping) and compiled.get("status") == 0 and _positive(compiled.get("seconds")):
        found["compile_s"] = compiled["seconds"]
        found["presharded_at_compile"] = _positive(compiled.get("ranks"))
    return found if len(found) > 1 else {}


def _positive(value: Any) -> bool:
    """Whether something that a host said is a number that a time or a size can be."""
    return type(value) in (int, float) and 0 < value < 1e15


def page(report: Mapping[str, Any]) -> str:
    """Return the report as a page that needs nothing else."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    text = (HOME / "plugins/plugin_utils/acceptance_page.html.j2").read_text(encoding="utf-8")
    return environment.from_string(text).render(report=report) + "\n"


def write(report: Mapping[str, Any], folder: Path) -> None:
    """Write accept.json and accept.html.

    Raises:
        OSError: they cannot be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "accept.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (folder / "accept.html").write_text(page(report), encoding="utf-8")


def said(report: Mapping[str, Any], folder: Path) -> list[str]:
    """Return what differs, and where the report is, in lines."""
    lines = []
    for name, host in report["hosts"].items():
        if host["refused"]:
            lines.append(f"{name}: {host['refused']}")
        lines += [
            f"{name}: {check['name']}: expected {check['expected']}; seen {check['seen']} ({check['depends']})"
            for check in host["checks"]
            if check["outcome"] == DIFFERS
        ]
    counts = f"{report['passed']} checks passed, {report['differs']} differ, {report['not_judged']} were not judged"
    return [*lines, f"{counts}: {folder / 'accept.html'}"]


def sound(report: Mapping[str, Any]) -> bool:
    """Whether nothing differs and every host answered."""
    return not report["differs"] and not any(one["refused"] for one in report["hosts"].values())


def judged(evidence: Mapping[str, Any], stages: Sequence[str]) -> list[dict[str, str]]:
    """Return the verdict of every check of some stages."""
    found = []
    for check in (check for check in CHECKS if check.stage in stages):
        result = check.result(evidence)
        sound = ((evidence.get("trials") or {}).get("sound") or {}).get("evidence")
        if sound and check.name in _WHILE_SERVING and result["outcome"] != DIFFERS:
            result = check.result({**evidence, **sound})
        found.append(result)
    return found
