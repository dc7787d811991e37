# SPDX-License-Identifier: Apache-2.0
"""Documentation of the action plugin of this name, which runs on the controller alone."""

from __future__ import annotations

DOCUMENTATION = r"""
module: roll_plan
short_description: Plan a roll of the fleet, from what it really runs
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - Compares the plan of the fleet with what hosts and routers reported (M(trainyard.neuron.replica_info)) and decides
    which replicas move, in which waves, through which steps. Every reason against the roll is told at once, and
    nothing was touched then.
  - It keeps no memory. What an interrupted roll left behind is part of what the hosts report, so planning again is
    resuming.
  - Reaches no host. Runs once for the fleet, so give it C(run_once).
options:
  hosts:
    description: Names of the hosts that serve and take part.
    type: list
    elements: str
    required: true
  routers:
    description: Names of all hosts that balance. One that did not report stops the roll, since it could not drain.
    type: list
    elements: str
    default: []
  reports:
    description: Name of the variable that M(trainyard.neuron.replica_info) was registered as.
    type: str
    default: trainyard_replicas
  verb:
    description: >-
      V(redeploy) brings every replica to the release of the plan, V(rollback) to its previous one; V(status) only tells
      what is; V(check) refuses what has to be refused before anything is staged; V(leave) refuses where the fleet
      cannot do without the hosts in O(leaving).
    type: str
    choices: [redeploy, rollback, status, check, leave]
    default: redeploy
  leaving:
    description: With O(verb=leave), the hosts of which every replica is to leave rotation.
    type: list
    elements: str
    default: []
  beside:
    description: Hosts that have no part in the roll, with whose replicas those of O(hosts) are compared too.
    type: list
    elements: str
    default: []
  settings:
    description: >-
      How to roll - C(at_once), C(floor), C(batches), C(drain_deadline_s), C(drain_policy), C(soak_s),
      C(canary_s) and others, see docs/redeploy.md.
    type: dict
    default: {}
  thresholds:
    description: How much worse than its peers a replica may be, see docs/redeploy.md.
    type: dict
    default: {}
  golden:
    description: Prompts that a watched replica and its peers complete greedily.
    type: list
    elements: str
    default: ["The capital of France is", "One, two, three, four,"]
  hooks:
    description: >-
      Task files of the user's - C(drain), C(undrain) and C(is_drained) for routers that trainyard does not run,
      C(before) and C(after) a roll, see docs/redeploy.md.
    type: dict
    default: {}
  drained_elsewhere:
    description:
      - Replicas that the C(is_drained) hooks found drained, as a list of ids, or what a task registered that has such a
        list as C(out), looped or not.
    type: raw
    default: []
  staged:
    description: Refuse to roll to a release that is not complete on its host. A dry run stages nothing.
    type: bool
    default: true
  only:
    description:
      - Ids of the replicas that may move, each with why it serves nobody though its unit is active, or nothing. Those
        with a reason are started anew on the release that they have. Without any, all replicas may move.
    type: dict
    default: {}
attributes:
  check_mode:
    description: The plan is the same in check mode.
    support: full
"""

EXAMPLES = r"""
- name: Plan the roll
  trainyard.neuron.roll_plan:
    hosts: "{{ groups['neuron'] }}"
    routers: "{{ groups['router'] | default([]) }}"
    settings:
      at_once: 2
      floor: 75%
  run_once: true
"""

RETURN = r"""
msg:
  description: The plan for people, a line for each replica with its steps, time and the capacity that stays.
  returned: always
  type: list
  elements: str
roll:
  description: The same for the playbook.
  returned: unless O(verb=status)
  type: dict
out:
  description: Replicas out of rotation, with the reason.
  returned: with O(verb=status)
  type: dict
"""
