# SPDX-License-Identifier: Apache-2.0
"""The plan of this run, by parts."""

from __future__ import annotations

DOCUMENTATION = r"""
name: plan
author:
  - trainyard contributors (@trainyard)
version_added: 0.1.0
short_description: Read a part of the plan of this run
description:
  - Reads what M(trainyard.neuron.fleet_plan) planned in this run, and of that only what is asked for, so that what a
    host has to do with the plan does not grow with the fleet.
options:
  _terms:
    description:
      - C(host) is the part of a host that serves - its replicas, artifacts, weights, SDK releases and paths.
      - C(router) is what a router is to be - its port, and models with their servers.
      - C(benchmarks) is the list of loads in which a client has a part.
      - C(fleet) is what is the whole fleet's - its hosts, where requests come in, its routers' names.
      - C(hook_replicas) is the list of all replicas of all hosts, as hooks read them. It grows with the fleet, so
        ask for it on one host.
      - C(targets) is the list of what the Prometheus of a host has to ask, as its file_sd has it. It grows with the
        fleet.
    type: list
    elements: str
    required: true
  name:
    description: The host whose part it is; this host where it is not given.
    type: str
"""

EXAMPLES = r"""
- name: Show the cores of this host's first replica
  ansible.builtin.debug:
    msg: "{{ lookup('trainyard.neuron.plan', 'host').replicas[0].cores }}"
"""

RETURN = r"""
_raw:
  description: The parts, of the shapes that docs/schemas/plan.schema.json describes.
  type: list
  elements: raw
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import did_you_mean
from ansible_collections.trainyard.neuron.plugins.plugin_utils.run_plan import RunPlan, RunPlanError, current

PARTS: Mapping[str, Callable[[RunPlan, str], Any]] = {
    "host": RunPlan.host,
    "router": RunPlan.router,
    "benchmarks": RunPlan.benchmarks,
    "fleet": lambda plan, _name: plan.fleet(),
    "targets": RunPlan.targets,
    "hook_replicas": lambda plan, _name: plan.hook_replicas(),
}


class LookupModule(LookupBase):  # type: ignore[misc]  # ansible-core ships no types
    """Reads files of the controller."""

    def run(self, terms: list[str], variables: Mapping[str, Any] | None = None, **options: Any) -> list[Any]:
        """Return a part for each term.

        Raises:
            AnsibleLookupError: an unknown part, no plan, or a host that the plan does not have.
        """
        self.set_options(var_options=variables, direct=options)
        name = str(self.get_option("name") or (variables or {}).get("inventory_hostname", ""))
        unknown = [term for term in terms if term not in PARTS]
        if unknown:
            fix = did_you_mean(unknown[0], PARTS) or f"there are {', '.join(PARTS)}"
            raise AnsibleLookupError(f"a plan has no part {unknown[0]!r}: {fix}")
        try:
            return [PARTS[term](current(), name) for term in terms]
        except RunPlanError as error:
            raise AnsibleLookupError(str(error)) from error
