# SPDX-License-Identifier: Apache-2.0
"""Documentation of the action plugin of this name, which runs on the controller alone."""

from __future__ import annotations

DOCUMENTATION = r"""
module: roll_step
short_description: Decide between two steps of a wave whether everybody goes on
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - Internal to C(playbooks/tasks/roll_wave.yml). Reads what every host and router of a wave registered for a step, and
    fails on all of them if one answer stops the wave, so that no host runs ahead.
options:
  step:
    description: The step that is over.
    type: str
    choices: [locked, refused, drained, replaced, readmitted, watched, restored]
    required: true
  wave:
    description: The wave of the roll's plan.
    type: dict
    default: {}
  roll:
    description: The roll's plan.
    type: dict
    required: true
  why:
    description: What the wave stopped for, to be remembered for the report.
    type: str
    default: ""
attributes:
  check_mode:
    description: It only decides.
    support: full
"""

EXAMPLES = r"""
- name: Go on when nothing reaches them any more
  trainyard.neuron.roll_step:
    step: drained
    wave: "{{ roll_wave }}"
    roll: "{{ trainyard_roll }}"
"""

RETURN = r"""
msg:
  description: What was seen, or why the wave stops.
  returned: always
  type: raw
"""
