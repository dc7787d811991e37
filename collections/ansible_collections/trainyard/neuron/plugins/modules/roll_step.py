# SPDX-License-Identifier: Apache-2.0
"""Documentation of the action plugin of this name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: roll_step
short_description: Decide whether a wave goes on, then do this host's part of its next step
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - Internal to the role C(rolling_redeploy). Reads what every host and router of a wave registered for the step
    before, and fails on all of them if one answer stops the wave, so that no host runs ahead.
  - Then runs the module of the step where this host has a part in it (M(trainyard.neuron.router_server),
    M(trainyard.neuron.replica_release) or M(trainyard.neuron.roll_watch)). Its answer is kept for the next decision,
    and fails nothing by itself.
  - C(hold) renews the lock of a host where that is due. Once a host's lock is found to be another run's, every step
    that goes forward is refused, on all hosts; what takes a wave back is done where the lock is still this run's.
options:
  step:
    description: The step that begins.
    type: str
    choices: [begin, hold, drain, replace, admit, watch, withdraw, restore, return, done, hooked, refused]
    required: true
  wave:
    description: The wave of the roll's plan.
    type: dict
    default: {}
  terms:
    description: What every step needs of the roll's plan.
    type: dict
    required: true
  hook:
    description: With O(step=hooked), the kind of hooks that came to their end.
    type: str
    default: ""
  why:
    description: What the wave stopped for, to be remembered for the report.
    type: str
    default: ""
attributes:
  check_mode:
    description: It is not run in check mode.
    support: none
"""

EXAMPLES = r"""
- name: Stop, switch, start and gate
  trainyard.neuron.roll_step:
    step: replace
    wave: "{{ __rolling_redeploy_wave }}"
    terms: "{{ trainyard_roll.terms }}"
  register: roll_replaced
"""

RETURN = r"""
msg:
  description: What was seen, or why the wave stops.
  returned: always
  type: raw
answer:
  description: What the module of this host's part returned.
  returned: where the host has a part
  type: dict
"""
