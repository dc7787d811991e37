# SPDX-License-Identifier: Apache-2.0
"""Documentation of the action plugin of this name, which runs on the controller alone."""

from __future__ import annotations

DOCUMENTATION = r"""
module: healing
short_description: Decide what is done about a finding, within a budget, and write it down
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - Internal to C(playbooks/heal.yml). Reads findings, decides for each on the least that helps or on nothing and why,
    and adds what is begun and how it came out to the history of the fleet.
  - Nothing is done that hosts themselves do not show, that a model could not spare, or that the budget does not have.
  - Reaches no host. Runs once for the fleet, so give it C(run_once).
options:
  state:
    description: >-
      V(found) reads findings and says what hosts are to be asked; V(decided) decides and writes that it begins;
      V(placed) says which replicas a new plan moves; V(ended) writes how it came out.
    type: str
    choices: [found, decided, placed, ended]
    required: true
  finding:
    description: With O(state=found), a finding - C(finding), C(host), C(replica) or C(device), C(alert), C(over).
    type: dict
    default: {}
  alerts:
    description: With O(state=found) and no O(finding), alerts as the API of Alertmanager tells them.
    type: list
    elements: dict
    default: []
  findings:
    description: With O(state=decided), what O(state=found) returned.
    type: list
    elements: dict
    default: []
  hosts:
    description: With O(state=decided), the hosts that serve.
    type: list
    elements: str
    default: []
  routers:
    description: With O(state=decided), the hosts that balance.
    type: list
    elements: str
    default: []
  settings:
    description: With O(state=decided), the budget (C(trainyard_heal)).
    type: dict
    default: {}
  roll:
    description: With O(state=decided), how this fleet rolls (C(trainyard_redeploy)).
    type: dict
    default: {}
  dry:
    description: With O(state=decided), only say what would be done.
    type: bool
    default: false
  healing:
    description: What O(state=decided) returned.
    type: dict
    default: {}
  failed:
    description: With O(state=ended), whether it failed.
    type: bool
    default: false
  why:
    description: With O(state=ended), how it came out.
    type: str
    default: ""
attributes:
  check_mode:
    description: Decides as usual, does nothing and writes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Decide what is done
  trainyard.neuron.healing:
    state: decided
    findings: "{{ trainyard_findings.findings }}"
    hosts: "{{ groups['neuron'] }}"
    routers: "{{ groups['router'] }}"
  run_once: true
"""

RETURN = r"""
action:
  description: What is done.
  returned: with O(state=decided)
  type: str
only:
  description: Replicas that are rolled, each with why it serves nobody, or nothing.
  returned: with O(state=decided) and O(state=placed)
  type: dict
tell:
  description: Alerts for Alertmanager about what a person has to do, or what a dry run would have done.
  returned: with O(state=decided) and O(state=ended)
  type: list
  elements: dict
msg:
  description: Every finding with what is done about it and why, for people.
  returned: always
  type: raw
"""
