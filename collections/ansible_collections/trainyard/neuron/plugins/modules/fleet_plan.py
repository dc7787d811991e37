# SPDX-License-Identifier: Apache-2.0
"""Documentation of the action plugin of this name, which runs on the controller alone."""

from __future__ import absolute_import, annotations, division, print_function

DOCUMENTATION = r"""
module: fleet_plan
author: The trainyard authors
version_added: 0.1.0
short_description: Plan the replicas of the fleet
description:
  - Reads the C(trainyard_*) variables of the hosts, C(trainyard_deployment_<name>) above all, and decides the cores,
    CPUs, ports, paths, digests and commands of every replica.
  - Reaches no host. All problems of all hosts are told at once.
  - Runs once for the fleet, so give it C(run_once), which also gives the fact to every host of the play.
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
  model_configs:
    description:
      - Directory of the controller with C(<repo>/<revision>/config.json) of checkpoints, to estimate memory with.
      - Published models are known without it.
    type: path
    default: ""
  publish:
    description: Return the plan. Without it the plan is only made, to see whether it can be.
    type: bool
    default: true
attributes:
  check_mode:
    description: The plan is the same in check mode.
    support: full
"""

EXAMPLES = r"""
- name: Plan the fleet
  trainyard.neuron.fleet_plan:
    hosts: "{{ groups['neuron'] }}"
    routers: "{{ groups['router'] | default([]) }}"
  run_once: true
  register: fleet

- name: Show the cores of the first replica
  ansible.builtin.debug:
    msg: "{{ fleet.plan.hosts[inventory_hostname].replicas[0].cores }}"
"""

RETURN = r"""
plan:
  description: The plan, of the shape that docs/schemas/plan.schema.json describes.
  returned: when O(publish=true)
  type: dict
ansible_facts:
  description: The same as a fact, C(ansible_facts['trainyard_fleet']).
  returned: when O(publish=true)
  type: dict
  contains:
    trainyard_fleet:
      description: Plan of every host, of the router, and the warnings.
      type: dict
problems:
  description: Every problem, with its host, variable, value, rule and fix.
  returned: failure
  type: list
  elements: dict
"""
