# SPDX-License-Identifier: Apache-2.0
"""Documentation of the action plugin of this name, which runs on the controller alone."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_plan
author:
  - trainyard contributors (@trainyard)
version_added: 0.1.0
short_description: Plan the replicas of the fleet
description:
  - Reads the C(trainyard_*) variables of the hosts, C(trainyard_deployment_<name>) above all, and decides the cores,
    CPUs, ports, paths, digests and commands of every replica.
  - Reaches no host. All problems of all hosts are told at once.
  - Runs once for the fleet, so give it C(run_once). The plan is kept on the controller until the run ends, where
    P(trainyard.neuron.plan#lookup) reads the part of each host, router and client.
options:
  hosts:
    description: Names of the hosts that serve.
    type: list
    elements: str
    required: true
  routers:
    description: Names of the hosts that balance.
    type: list
    elements: str
    default: []
  clients:
    description: Names of the hosts that send load. A replica listens beyond its host where one of them is another host.
    type: list
    elements: str
    default: []
  monitors:
    description: Names of the hosts that read metrics. A replica listens beyond its host where one is another host.
    type: list
    elements: str
    default: []
  model_configs:
    description:
      - Directory of the controller with C(<repo>/<revision>/config.json) of checkpoints, to estimate memory with.
      - Published models are known without it.
    type: path
    default: ""
  publish:
    description: Keep the plan for this run. Without it the plan is made to see whether it can be.
    type: bool
    default: true
  keep_images:
    description:
      - Write down the digests of container images that registries told the hosts in this run
        (O(trainyard.neuron.topology_info#module:images)), in the file beside the inventory. A line that is there is
        never changed.
    type: bool
    default: false
  verb:
    description:
      - What the run is going to do. Where hosts are in a capacity block, a run that changes something says once how
        long they stay, and is refused where hosts of O(working) are about to leave. C(evacuate) and C(teardown) are
        not.
      - Looked at with O(publish=false) only, the plan that is made before a host is touched.
    type: str
    default: ""
  working:
    description: Names of the hosts that serve and that the run works on.
    type: list
    elements: str
    default: []
  asked:
    description:
      - The hosts that this run has asked (M(trainyard.neuron.topology_info)); their answers are judged with the plan,
        and every problem of both is told at once. A host of the fleet that is not among them is named as a warning.
      - A host that gave no answer is a problem, or with C(trainyard_as_far_as_possible) a warning.
    type: list
    elements: str
  results_dir:
    description: With O(asked), where the controller will write reports; it is a problem where it cannot.
    type: path
    default: ""
attributes:
  check_mode:
    description: The plan is the same in check mode, and O(keep_images) writes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Plan the fleet
  trainyard.neuron.fleet_plan:
    hosts: "{{ groups['neuron'] }}"
    routers: "{{ groups['router'] | default([]) }}"
  run_once: true

- name: Show the cores of the first replica
  ansible.builtin.debug:
    msg: "{{ lookup('trainyard.neuron.plan', 'host').replicas[0].cores }}"
"""

RETURN = r"""
hosts:
  description: How many hosts the plan has.
  returned: success
  type: int
replicas:
  description: How many replicas they serve.
  returned: success
  type: int
unpinned_images:
  description: Images of the plan that have no digest yet, C(registry/name:tag).
  returned: success
  type: list
  elements: str
problems:
  description: Every problem, with its host, variable, value, rule and fix.
  returned: failure
  type: list
  elements: dict
"""
