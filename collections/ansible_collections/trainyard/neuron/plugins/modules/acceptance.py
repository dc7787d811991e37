#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""What a host says of its Neuron devices, for an acceptance of it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: acceptance
author:
  - trainyard contributors (@trainyard)
version_added: 0.1.0
short_description: Collect what a Neuron host says, for its acceptance
description:
  - Runs C(neuron-ls) and C(neuron-monitor) and looks at the devices' files, and returns what was seen as it was said.
  - C(trainyard accept) judges it against what the product relies on.
options:
  stages:
    description: What to look at, C(look) for the host's description, C(device) for the devices and who uses them.
    type: list
    elements: str
    choices: [look, device]
    default: [look, device]
  tools:
    description: Directory of the Neuron tools.
    type: path
    default: /opt/aws/neuron/bin
  devices:
    description: Directory of the device files.
    type: path
    default: /dev
  sysfs:
    description: Where the kernel shows its devices.
    type: path
    default: /sys
  root:
    description: Directory of the host's files.
    type: path
    default: /
  instance_type:
    description: What the host is known to be; without it the header of C(neuron-ls) says it.
    type: str
attributes:
  check_mode:
    description: It only reads.
    support: full
"""

EXAMPLES = r"""
- name: Look at the host
  trainyard.neuron.acceptance:
    stages: [look]
"""

RETURN = r"""
evidence:
  description: What was seen, by what said it.
  returned: always
  type: dict
"""

import json
from pathlib import Path
from typing import Any, List

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trainyard.neuron.plugins.module_utils.acceptance import STAGES, evidence


def pids_of(listed: str) -> List[Any]:
    """Return the processes that `neuron-ls --json-output` names, none where it is no such list."""
    try:
        devices = json.loads(listed)
        return sorted({process["pid"] for device in devices for process in device["neuron_processes"]})
    except (ValueError, RecursionError, TypeError, KeyError):
        return []


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "stages": {"type": "list", "elements": "str", "choices": list(STAGES), "default": list(STAGES)},
            "tools": {"type": "path", "default": "/opt/aws/neuron/bin"},
            "devices": {"type": "path", "default": "/dev"},
            "sysfs": {"type": "path", "default": "/sys"},
            "root": {"type": "path", "default": "/"},
            "instance_type": {"type": "str"},
        },
        supports_check_mode=True,
    )
    given = module.params
    tools, devices, sysfs = Path(given["tools"]), Path(given["devices"]), Path(given["sysfs"])
    found = evidence(given["stages"], tools, devices, given["instance_type"], pids_of, sysfs, root=Path(given["root"]))
    module.exit_json(changed=False, evidence=found)


if __name__ == "__main__":
    main()
