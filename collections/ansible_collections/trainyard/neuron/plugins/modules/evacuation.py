# SPDX-License-Identifier: Apache-2.0
"""Documentation of the action plugin of this name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: evacuation
author:
  - trainyard contributors (@trainyard)
version_added: 0.1.0
short_description: Take hosts out of rotation before their capacity block ends
description:
  - Internal to C(playbooks/evacuate.yml). Says which hosts leave and how long their requests may take, has routers send
    them nothing new, waits for the last request or the deadline, and accounts for all of it.
  - No request is ended. One that is longer than the deadline goes on until EC2 terminates its host, and is named.
  - A router that does not answer is asked again until the deadline, and once more after it.
options:
  state:
    description: >-
      V(planned) runs once; V(begun) and V(drained) on each router; V(reported) once.
    type: str
    choices: [planned, begun, drained, reported]
    required: true
  hosts:
    description: With O(state=planned), the hosts that serve.
    type: list
    elements: str
    default: []
  routers:
    description: With O(state=reported), the hosts that balance.
    type: list
    elements: str
    default: []
  only:
    description: With O(state=planned), the hosts that leave; without them those whose block ends within 45 minutes.
    type: list
    elements: str
    default: []
  settings:
    description: With O(state=planned), the settings of rolls, of which C(drain_deadline_s) is read.
    type: dict
    default: {}
  evacuation:
    description: What O(state=planned) returned.
    type: dict
    default: {}
  store:
    description: With O(state=reported), where artifacts were saved; empty for nowhere.
    type: str
    default: ""
attributes:
  check_mode:
    description: Says what would be drained.
    support: full
"""

EXAMPLES = r"""
- name: Say which hosts leave
  trainyard.neuron.evacuation:
    state: planned
    hosts: "{{ groups['neuron'] }}"
  run_once: true
"""

RETURN = r"""
hosts:
  description: The hosts that leave.
  returned: with O(state=planned)
  type: list
  elements: str
deadline_s:
  description: How long requests may take to end, in seconds.
  returned: with O(state=planned)
  type: float
left:
  description: Requests that are left, by server.
  returned: with O(state=drained)
  type: dict
attention:
  description: Whether somebody has to look - a router was not reached, or EC2 has begun to terminate.
  returned: with O(state=reported)
  type: bool
msg:
  description: Every host, router and request accounted for.
  returned: with O(state=reported)
  type: list
  elements: str
"""
