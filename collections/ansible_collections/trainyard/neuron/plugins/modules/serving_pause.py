#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Module side of ``trainyard.neuron.serving_pause``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: serving_pause
short_description: Take a host out of service for a change of its SDK, and bring it back
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - V(paused) has the host leave the routers' rotation, waits for the last request, and stops the replicas and the
    monitor of the devices, which all hold the driver.
  - V(resumed) lets replicas answer routers again and starts the monitor. Replicas are started by the next roll.
options:
  state:
    description: What the host is to be.
    type: str
    choices: [paused, resumed]
    required: true
  replicas:
    description: Units of the replicas that are to be stopped.
    type: list
    elements: str
    default: []
  monitor:
    description: Whether the monitor of the devices is to be stopped as well.
    type: bool
    default: false
  drain_deadline_s:
    description: How long requests may take to end, seconds. After that nothing is stopped and the module fails.
    type: float
    default: 900
  stop_timeout_s:
    description: How long a replica may take to stop, seconds.
    type: float
    default: 300
extends_documentation_fragment: [trainyard.neuron.fence]
attributes:
  check_mode:
    description: Says who would be stopped, or whether the host would be back.
    support: full
  diff_mode:
    description: Who is stopped or started.
    support: full
"""

EXAMPLES = r"""
- name: Take the replicas out of service
  trainyard.neuron.serving_pause:
    state: paused
    replicas: [vllm@a-0.service]
    monitor: true
"""

RETURN = r"""
stopped:
  description: What was stopped.
  returned: with O(state=paused)
  type: list
  elements: str
"""

from typing import Any, Dict, List, Tuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trainyard.neuron.plugins.module_utils import making_way, units, vacate
from ansible_collections.trainyard.neuron.plugins.module_utils.roll import fence
from ansible_collections.trainyard.neuron.plugins.module_utils.roll.host import Host

ARGUMENT_SPEC: Dict[str, Dict[str, Any]] = {
    "state": {"type": "str", "choices": ["paused", "resumed"], "required": True},
    "replicas": {"type": "list", "elements": "str", "default": []},
    "monitor": {"type": "bool", "default": False},
    "drain_deadline_s": {"type": "float", "default": 900},
    "stop_timeout_s": {"type": "float", "default": 300},
    "fence": fence.FENCE_OPTION,
}
WHY = "the SDK of this host is being changed"


def pause(module: AnsibleModule) -> None:
    """Stop what the host serves with, after its last request."""
    wanted = module.params

    def run(argv: List[str]) -> Tuple[int, str, str]:
        status, output, errors = module.run_command(argv)
        return int(status), str(output), str(errors)

    stopped = list(wanted["replicas"])
    if stopped and not module.check_mode:
        vacate.vacate(Host(), stopped, WHY, wanted["drain_deadline_s"], wanted["stop_timeout_s"])
    if wanted["monitor"]:
        runs = run(["systemctl", "is-active", "--quiet", making_way.MONITOR])[0] == 0
        if runs and not module.check_mode:
            making_way.stop_monitor(run)
        stopped += [making_way.MONITOR] if runs else []
    after = "".join(f"stop {unit}\n" for unit in stopped)
    module.exit_json(changed=bool(stopped), stopped=stopped, diff={"before": "", "after": after})


def resume(module: AnsibleModule) -> None:
    """Bring the host back."""
    paused = making_way.is_paused() if module.check_mode else making_way.resume(module.run_command)
    after = "in service\n" if paused else ""
    module.exit_json(changed=paused, diff={"before": "", "after": after})


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    fence.prove(module)
    try:
        {"paused": pause, "resumed": resume}[module.params["state"]](module)
    except (OSError, vacate.VacateError, units.UnitError) as error:
        module.fail_json(msg=f"{error}. Nothing was installed or removed")


if __name__ == "__main__":
    main()
