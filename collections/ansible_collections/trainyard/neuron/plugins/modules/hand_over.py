# SPDX-License-Identifier: Apache-2.0
"""Documentation of the action plugin of this name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: hand_over
author:
  - trainyard contributors (@trainyard)
version_added: 0.2.0
short_description: Hand a service from the hosts of one capacity block to those of the next
description:
  - Internal to C(playbooks/hand_over.yml). Says who leaves and who takes over, admits the new replicas at the routers
    as canaries, watches them beside those that served before, and refuses to let hosts go that are needed still.
options:
  state:
    description: >-
      V(planned), V(judged) and V(settled) run once; V(admitted), V(full) and V(withdrawn) on each router; V(watched) on
      each host and router.
    type: str
    choices: [planned, admitted, watched, judged, full, withdrawn, settled]
    required: true
  hosts:
    description: The hosts that serve.
    type: list
    elements: str
    default: []
  routers:
    description: The hosts that balance.
    type: list
    elements: str
    default: []
  reports:
    description: Variable that the hosts' answers to M(trainyard.neuron.replica_info) are registered as.
    type: str
    default: trainyard_replicas
  only:
    description: With O(state=planned), the hosts that leave; without them those of the block that ends first.
    type: list
    elements: str
    default: []
  settings:
    description: The settings of rolls, of which C(floor), C(canary_s) and C(canary_share) are read.
    type: dict
    default: {}
  thresholds:
    description: How much worse than their peers new replicas may be, as in a roll.
    type: dict
    default: {}
  golden:
    description: Prompts whose greedy completions have to agree, as in a roll.
    type: list
    elements: str
    default: ["The capital of France is", "One, two, three, four,"]
  hooks:
    description: The user's hooks for routers that trainyard does not run, as in a roll.
    type: dict
    default: {}
  drained_elsewhere:
    description: Replicas that those routers have drained.
    type: raw
    default: []
  hand_over:
    description: What O(state=planned) returned.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Says who would leave and who would take over.
    support: full
"""

EXAMPLES = r"""
- name: Decide who leaves and who takes over
  trainyard.neuron.hand_over:
    state: planned
    hosts: "{{ groups['neuron'] }}"
    routers: "{{ groups['router'] }}"
  run_once: true
"""

RETURN = r"""
leaving:
  description: The hosts that leave.
  returned: with O(state=planned)
  type: list
  elements: str
taking:
  description: The hosts that take over, or serve on.
  returned: with O(state=planned)
  type: list
  elements: str
new:
  description: Ids of the replicas that are not in rotation yet.
  returned: with O(state=planned)
  type: list
  elements: str
floor:
  description: For each model, how many replicas stay in rotation throughout.
  returned: with O(state=planned)
  type: dict
weights:
  description: For each new replica, its weight in percent while it is watched.
  returned: with O(state=planned)
  type: dict
msg:
  description: The same for people.
  returned: with O(state=planned)
  type: list
  elements: str
"""
