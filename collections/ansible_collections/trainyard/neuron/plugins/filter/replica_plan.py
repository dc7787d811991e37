# SPDX-License-Identifier: Apache-2.0
"""The planner as a filter."""

from __future__ import annotations

DOCUMENTATION = r"""
name: replica_plan
author:
  - trainyard contributors (@trainyard)
version_added: 0.1.0
short_description: Plan the replicas of a fleet
description:
  - Turns the variables of Neuron hosts into their plan, which is replicas with cores, CPUs, ports, paths and commands.
  - Pure, no host is reached. The same input gives the same plan whatever its order.
options:
  _input:
    description:
      - C(hosts) maps each serving host to its variables.
      - C(routers) names the hosts that balance.
      - C(topologies) maps hosts to what M(trainyard.neuron.topology_info) found on them, where it ran.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show which cores a deployment would get
  ansible.builtin.debug:
    msg: "{{ (fleet | trainyard.neuron.replica_plan).hosts['trn2-1'].replicas | map(attribute='cores') }}"
  vars:
    fleet:
      hosts:
        trn2-1:
          trainyard_instance_type: trn2.48xlarge
          trainyard_deployment_qwen3_32b: "{{ qwen3 }}"
"""

RETURN = r"""
_value:
  description: The plan, of the shape that docs/schemas/plan.schema.json describes.
  type: dict
"""

from typing import Any, Callable, Dict

from ansible.errors import AnsibleFilterError
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import PlanError
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.inventory import plain
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.plan import plan_fleet


def replica_plan(fleet: Any) -> Dict[str, Any]:
    """Return the plan of a fleet's input.

    Raises:
        AnsibleFilterError: with every problem of the input.
    """
    values = plain(fleet)
    if not isinstance(values, dict) or not isinstance(values.get("hosts"), dict):
        raise AnsibleFilterError("replica_plan needs a mapping with hosts, routers and topologies")
    try:
        return plan_fleet(values).to_dict()
    except PlanError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"replica_plan": replica_plan}
