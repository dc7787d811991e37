#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Module side of ``trainyard.neuron.device_quarantine``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: device_quarantine
short_description: Take a broken device out of a host's plan, and look at all of them
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - Says of each Neuron device what driver and kernel count against it, and whether it is out of the plan.
  - With O(state=out) a device is written down on the host, by its serial number, as one that plans leave out where
    there is room elsewhere. Nothing is stopped by that. With O(state=lifted) it is not any more.
  - An entry ends by itself where another device answers in its place.
options:
  state:
    description: What the device is to be; V(asked) only looks.
    type: str
    choices: [asked, out, lifted]
    default: asked
  device:
    description: Its index.
    type: int
  finding:
    description: Why, for people.
    type: str
    default: ""
  sysfs:
    description: Directory of the kernel's objects; by default where the host's exporter reads them.
    type: path
  path:
    description: Where the host keeps it.
    type: path
    default: /var/lib/trainyard/quarantine/devices.json
extends_documentation_fragment: [trainyard.neuron.fence]
attributes:
  check_mode:
    description: Says what would be written.
    support: full
  diff_mode:
    description: Devices that are out.
    support: full
"""

EXAMPLES = r"""
- name: Leave a device out of plans
  trainyard.neuron.device_quarantine:
    state: out
    device: 5
    finding: UncorrectableECC
"""

RETURN = r"""
devices:
  description: What is known of each device, by its index.
  returned: success
  type: dict
  contains:
    serial:
      description: Its serial number.
      type: str
    sick:
      description: What is wrong with it, each with its count.
      type: list
      elements: str
    repairable:
      description: Whether a reboot repairs all of it.
      type: bool
    out:
      description: Whether it is out of the plan.
      type: bool
    replaced:
      description: Whether it was out, and is another device now.
      type: bool
"""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trainyard.neuron.plugins.module_utils.roll import fence
from ansible_collections.trainyard.neuron.plugins.module_utils.watch import quarantine

ARGUMENT_SPEC: Dict[str, Dict[str, Any]] = {
    "state": {"type": "str", "choices": ["asked", "out", "lifted"], "default": "asked"},
    "device": {"type": "int"},
    "finding": {"type": "str", "default": ""},
    "sysfs": {"type": "path"},
    "path": {"type": "path", "default": str(quarantine.PATH)},
    "fence": fence.FENCE_OPTION,
}


def wanted(params: Dict[str, Any], entries: List[quarantine.Entry], serials: Dict[int, str]) -> List[quarantine.Entry]:
    """The entries as they are to be: those of devices that were replaced are over."""
    standing = quarantine.standing(entries, serials)
    others = [entry for entry in standing if entry.device != params["device"]]
    if params["state"] == "lifted":
        return others
    mine = [entry for entry in standing if entry.device == params["device"]]
    run = str((params["fence"] or {}).get("run", ""))
    device = params["device"]
    new = quarantine.Entry(device, serials.get(device, ""), time.time(), params["finding"][:200], run)
    return others + (mine or [new])


def told(entries: List[quarantine.Entry]) -> str:
    """Entries for a diff."""
    return "".join("device %d out: %s\n" % (entry.device, entry.finding) for entry in entries)


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC,
        required_if=[("state", "out", ["device"]), ("state", "lifted", ["device"])],
        supports_check_mode=True,
    )
    fence.prove(module)
    params, path = module.params, Path(module.params["path"])
    sysfs = Path(params["sysfs"]) if params["sysfs"] else quarantine.sysfs_of()
    try:
        before = quarantine.read(path)
        after = before
        if params["state"] != "asked":
            serials = quarantine.serials(sysfs)
            if params["state"] == "out" and params["device"] not in serials:
                names = ", ".join(str(index) for index in serials) or "none"
                module.fail_json(msg="This host has no device %d; it has %s" % (params["device"], names))
            after = wanted(params, before, serials)
            if after != before and not module.check_mode:
                quarantine.write(after, path)
        looks = quarantine.look(path, sysfs)
    except (OSError, quarantine.QuarantineError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=after != before,
        devices={str(index): asdict(look) for index, look in looks.items()},
        diff={"before": told(before), "after": told(after)},
    )


if __name__ == "__main__":
    main()
