# SPDX-License-Identifier: Apache-2.0
"""Documentation of the action plugin of this name, which runs on the controller alone."""

from __future__ import annotations

DOCUMENTATION = r"""
module: roll_report
short_description: Say how a roll came out, and name every replica that is out of rotation
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - Internal to the role C(rolling_redeploy). Reads what hosts and routers reported after the roll.
options:
  roll:
    description: The roll's plan.
    type: dict
    required: true
  reports:
    description: Name of the variable that M(trainyard.neuron.replica_info) was registered as.
    type: str
    default: trainyard_replicas_after
  drained_elsewhere:
    description:
      - Replicas that the C(is_drained) hooks found drained, as a list of ids, or what a task registered that has such a
        list as C(out), looped or not.
    type: raw
    default: []
attributes:
  check_mode:
    description: It only reads.
    support: full
"""

EXAMPLES = r"""
- name: Report, and name every replica that is out
  trainyard.neuron.roll_report:
    roll: "{{ trainyard_roll }}"
"""

RETURN = r"""
msg:
  description: The report's lines.
  returned: always
  type: list
  elements: str
stopped:
  description: Whether the roll did not reach its end, or a replica is out that belongs into rotation.
  returned: always
  type: bool
finished:
  description: By host, the replicas about which nothing has to be remembered.
  returned: always
  type: dict
"""
