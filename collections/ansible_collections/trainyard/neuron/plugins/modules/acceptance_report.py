# SPDX-License-Identifier: Apache-2.0
"""Documentation of the action plugin of this name, which runs on the controller alone."""

from __future__ import annotations

DOCUMENTATION = r"""
module: acceptance_report
short_description: Judge what hosts were seen to do, and write one report of it
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - Holds what M(trainyard.neuron.acceptance) and M(trainyard.neuron.acceptance_trial) saw to what the product relies
    on, and writes accept.html and accept.json on the controller, in which no command line and no key of a process is.
options:
  hosts:
    description: The hosts that were asked.
    type: list
    elements: str
    required: true
  stages:
    description: The stages that are judged.
    type: list
    elements: str
    choices: [look, device, compile, serve, fault, roll]
    required: true
  seen:
    description: Name of the variable that M(trainyard.neuron.acceptance) was registered as.
    type: str
    default: trainyard_seen
  tried:
    description: Name of the variable that M(trainyard.neuron.acceptance_trial) was registered as.
    type: str
    default: trainyard_tried
  hash_names:
    description: Name hosts by digests, whose salt is forgotten.
    type: bool
    default: false
  directory:
    description: Directory of the report.
    type: path
    required: true
attributes:
  check_mode:
    description: Nothing is written.
    support: full
"""

EXAMPLES = r"""
- name: Report
  trainyard.neuron.acceptance_report:
    hosts: "{{ groups['neuron'] }}"
    stages: [look, device]
    directory: results/accept
"""

RETURN = r"""
msg:
  description: What differs, and where the report is.
  returned: always
  type: list
  elements: str
sound:
  description: Whether nothing differs and every host answered.
  returned: always
  type: bool
passed:
  description: Number of checks that passed.
  returned: always
  type: int
differs:
  description: Number of checks that differ.
  returned: always
  type: int
not_judged:
  description: Number of checks for which nothing was there.
  returned: always
  type: int
"""
