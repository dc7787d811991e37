# SPDX-License-Identifier: Apache-2.0
"""Documentation of the action plugin of this name, which runs on the controller alone."""

from __future__ import annotations

DOCUMENTATION = r"""
module: block_time
author:
  - trainyard contributors (@trainyard)
version_added: 0.1.0
short_description: Refuse work that a capacity block leaves no time for
description:
  - Reads C(trainyard_capacity_block_end) of hosts, asks EC2 anew where it is V(ec2), and fails where work would not be
    over before their replicas begin to leave, 45 minutes before the end. Without a block there is nothing to refuse.
  - Reaches no host.
options:
  what:
    description: The work, for the message.
    type: str
    required: true
  takes_s:
    description: How long it is expected to take at most, in seconds; without it any time that is left is enough.
    type: float
    default: 0.0
  hosts:
    description: Hosts that the work needs; this host where none is given.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: The same in check mode.
    support: full
"""

EXAMPLES = r"""
- name: Refuse a compile that would not end
  trainyard.neuron.block_time:
    what: the compile
    takes_s: 3600
"""

RETURN = r"""
left_s:
  description: How long work may take, in seconds; null without a block.
  returned: always
  type: float
end:
  description: The first end of the hosts' blocks, ISO 8601; empty without a block.
  returned: always
  type: str
"""
