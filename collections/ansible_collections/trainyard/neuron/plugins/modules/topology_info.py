#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""What a Neuron host says of itself, in the planner's shape."""

from __future__ import annotations

DOCUMENTATION = r"""
module: topology_info
author:
  - trainyard contributors (@trainyard)
version_added: 0.1.0
short_description: Tell what a Neuron host is made of
description:
  - Runs C(neuron-ls --json-output) and reads what the kernel says, and returns devices, logical cores, memory, NUMA
    nodes, CPUs and links in one shape for all releases of the tools.
  - A host whose Neuron tools are not installed yet is no failure, see RV(available).
  - It is the first that goes to a host in a run, so it takes the host's lock where the run is going to change it.
options:
  neuron_ls:
    description: Path of C(neuron-ls).
    type: path
    default: /opt/aws/neuron/bin/neuron-ls
  instance_type:
    description: What the host is known to be; without it the host is asked.
    type: str
  logical_nc_config:
    description: The logical NeuronCore size to count at; without it the host's own.
    type: int
    choices: [1, 2]
  images:
    description: Container images by tag, C(registry/name:tag), whose registries are asked which digests they have now.
    type: list
    elements: str
    default: []
  lock_for:
    description:
      - What the run does, a playbook's name; with it the lock of the host is taken in the same module run
        (M(trainyard.neuron.roll_lock)).
      - A host that is held by another run is an answer and no failure, see RV(lock). In check mode nothing is taken.
      - By default the value of the variable C(trainyard_verb), if there is one.
    type: str
  serving:
    description:
      - Name of a group. Of other hosts nothing is asked, and the task counts as skipped there, but with O(for_plan).
      - Said here and not as a condition of the task, which the controller would compile anew for each host.
    type: str
  locked:
    description: With O(serving), name of a group of which the lock is wanted too, where O(lock_for) says so.
    type: str
  sending:
    description: With O(for_plan), name of the group of the hosts that send load, and so have to reach the routers.
    type: str
  watching:
    description:
      - With O(for_plan), name of the group of the hosts that run Prometheus. Of those that do nothing else nothing is
        asked, and the task counts as skipped there, where a run does not come to them.
    type: str
  for_plan:
    description:
      - Ask for O(images) what M(trainyard.neuron.fleet_plan) of this run found unpinned, and keep RV(topology) and
        RV(images) for it, instead of returning them.
      - Ask besides all that the plan, as it was made before any host was asked, will need of the host, and keep for it
        what is wrong there, each with its variable and fix. That a host does not answer is then an answer too.
        With the variable C(trainyard_asks) at C(reach) nothing besides is asked, at C(load) what sending load needs.
    type: bool
    default: false
  questions:
    description: What is asked besides, as JSON; the action plugin gives it.
    type: json
  claim:
    description: Who asks for the lock; the action plugin gives it.
    type: dict
    suboptions:
      run:
        description: Id of the run.
        type: str
        required: true
      owner:
        description: Who runs it, C(user@controller).
        type: str
        required: true
      pid:
        description: Process of the run on its controller.
        type: int
        required: true
      verb:
        description: What it does.
        type: str
        required: true
      process:
        description: What tells that process from others with its id.
        type: str
        required: true
      lease_s:
        description: How long the lock is to hold, in seconds.
        type: float
        required: true
      take_over:
        description: Runs that are known to be dead.
        type: list
        elements: str
        default: []
attributes:
  check_mode:
    description: It only reads, and takes no lock.
    support: full
"""

EXAMPLES = r"""
- name: Ask the host for its devices
  trainyard.neuron.topology_info:
    instance_type: "{{ trainyard_instance_type | default(omit) }}"
  register: trainyard_topology
"""

RETURN = r"""
available:
  description: Whether C(neuron-ls) named devices.
  returned: always
  type: bool
answers:
  description: What the host found, in the form of C(module_utils/preflight/look.py).
  returned: with O(questions)
  type: dict
reason:
  description: Why it did not, empty where it did.
  returned: always
  type: str
driver_version:
  description: Version of the loaded Neuron driver, empty where none is loaded.
  returned: always
  type: str
kernel:
  description: Release of the running kernel.
  returned: always
  type: str
images:
  description: For each of O(images) its C(digest), or the C(error) why the registry did not tell it.
  returned: with O(images)
  type: dict
lock:
  description: Who holds the lock of the host now (C(holder)), and why it was not given (C(refused)), empty if it was.
  returned: with O(lock_for)
  type: dict
topology:
  description:
    - Devices of the host, its CPUs, memory, operating system and own addresses; no devices where none could be told.
    - C(shunned_devices) are those that healing took out of the plan, as long as they are the same ones.
    - Registered as C(trainyard_topology), the result is what M(trainyard.neuron.fleet_plan) looks for on a host.
  returned: without O(for_plan)
  type: dict
"""

import ipaddress
import json
import os
import platform
import re
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trainyard.neuron.plugins.module_utils import registry
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.ranges import format_ranges
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.topology import (
    INSTANCE_TYPES,
    TopologyError,
    parse_topology,
)
from ansible_collections.trainyard.neuron.plugins.module_utils.preflight.look import look
from ansible_collections.trainyard.neuron.plugins.module_utils.roll.claim import CLAIM_OPTION, taken
from ansible_collections.trainyard.neuron.plugins.module_utils.roll.journal import Book
from ansible_collections.trainyard.neuron.plugins.module_utils.serving.settings import ServingError
from ansible_collections.trainyard.neuron.plugins.module_utils.serving.slices import read_devices
from ansible_collections.trainyard.neuron.plugins.module_utils.watch import quarantine

_SYSFS_TYPE = "/sys/devices/virtual/neuron_device/neuron0/info/architecture/instance_type"
_DMI_TYPE = "/sys/class/dmi/id/product_name"
_DRIVER = "/sys/module/neuron/version"


def read_text(path: str) -> str:
    """Return a file's text without the space around it, empty where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def operating_system(os_release: str) -> str:
    """Return `ubuntu-24.04`, `amazon-linux-2023`, `rocky-9` from os-release, empty where it says neither."""
    values = dict(re.findall(r"^(\w+)=\"?([^\"\n]*)\"?$", os_release, re.MULTILINE))
    name, version = values.get("ID", ""), values.get("VERSION_ID", "")
    if not name or not version:
        return ""
    if name == "amzn":
        name = "amazon-linux"
    elif name not in ("ubuntu", "debian"):
        version = version.split(".")[0]
    return "%s-%s" % (name, version)


def memory_bytes(meminfo: str) -> Optional[int]:
    """Return the host's memory in bytes from the text of /proc/meminfo."""
    match = re.search(r"^MemTotal:\s+(\d+) kB", meminfo, re.MULTILINE)
    return int(match.group(1)) * 1024 if match else None


def own_addresses(routes: str, interfaces: str) -> List[str]:
    """Return the addresses that a host has and others could reach, without the loopback and the link's own.

    Args:
        routes: text of /proc/net/fib_trie, where each IPv4 address of the host is a local /32.
        interfaces: text of /proc/net/if_inet6.
    """
    found = re.findall(r"\|-- (\S+)\n\s*/32 host LOCAL", routes)
    found += [str(ipaddress.IPv6Address(int(line.split()[0], 16))) for line in interfaces.splitlines() if line.split()]
    parsed = {ipaddress.ip_address(text) for text in found}
    usable = [item for item in parsed if not item.is_loopback and not item.is_link_local]
    return [str(item) for item in sorted(usable, key=lambda item: (item.version, int(item)))]


def neuron_ls(path: str) -> Tuple[List[Any], str]:
    """Return the devices that `neuron-ls` names, and why there are none."""
    if not os.access(path, os.X_OK):
        return [], "%s is not installed" % path
    try:
        devices = read_devices(path)
    except ServingError as error:
        return [], str(error)
    return devices, "" if devices else "neuron-ls names no device"


def instance_type(module: AnsibleModule, path: str, given: Optional[str]) -> Optional[str]:
    """Return the instance type: as given, else from the driver, the firmware, or the header of `neuron-ls`."""
    for found in (given, read_text(_SYSFS_TYPE), read_text(_DMI_TYPE)):
        if found in INSTANCE_TYPES:
            return found
    if not os.access(path, os.X_OK):
        return None
    _code, out, _err = module.run_command([path])
    match = re.search(r"^instance-type:\s*(\S+)", out, re.MULTILINE)
    return match.group(1) if match and match.group(1) in INSTANCE_TYPES else None


def host_facts() -> Dict[str, Any]:
    """Return what the kernel says, in the keys of the planner's shape."""
    cpus = sorted(os.sched_getaffinity(0))
    return {
        "cpu_count": len(cpus),
        "online_cpus": format_ranges(cpus),
        "memory_bytes": memory_bytes(read_text("/proc/meminfo")),
        "operating_system": operating_system(read_text("/etc/os-release")),
        "addresses": own_addresses(read_text("/proc/net/fib_trie"), read_text("/proc/net/if_inet6")),
    }


def describe(module: AnsibleModule) -> Dict[str, Any]:
    """Return the module's result."""
    path = module.params["neuron_ls"]
    devices, reason = neuron_ls(path)
    facts = host_facts()
    topology: Dict[str, Any] = {"devices": [], **facts}
    if devices:
        kind = instance_type(module, path, module.params["instance_type"])
        topology = {**parse_topology(devices, kind, module.params["logical_nc_config"]).to_dict(), **facts}
        topology["shunned_devices"] = quarantine.out_of_plan(sysfs=quarantine.sysfs_of())
    return {
        "changed": False,
        "available": bool(devices),
        "reason": reason,
        "driver_version": read_text(_DRIVER),
        "kernel": platform.release(),
        "topology": topology,
        **({"images": registry.asked(module.params["images"])} if module.params["images"] else {}),
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "neuron_ls": {"type": "path", "default": "/opt/aws/neuron/bin/neuron-ls"},
            "instance_type": {"type": "str"},
            "logical_nc_config": {"type": "int", "choices": [1, 2]},
            "lock_for": {"type": "str"},
            "images": {"type": "list", "elements": "str", "default": []},
            "serving": {"type": "str"},
            "locked": {"type": "str"},
            "sending": {"type": "str"},
            "watching": {"type": "str"},
            "for_plan": {"type": "bool", "default": False},
            # As one text: with a token in it, it goes into no log, and its words may stand in the answer.
            "questions": {"type": "json", "no_log": True},
            "claim": CLAIM_OPTION,
        },
        supports_check_mode=True,
    )
    claim = None if module.check_mode else module.params["claim"]
    locked = {"lock": taken(Book(), claim, check_mode=False)} if claim else {}
    try:
        result = describe(module)
    except TopologyError as error:
        module.fail_json(msg="neuron-ls of this host cannot be understood: %s" % error, **locked, invocation={})
    except quarantine.QuarantineError as error:
        module.fail_json(msg=str(error), **locked, invocation={})
    questions = module.params["questions"]
    answers = {"answers": look(json.loads(questions))} if questions else {}
    module.exit_json(**result, **answers, **locked, invocation={})


if __name__ == "__main__":
    main()
