#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Look for capacity blocks: what is for sale, and what is owned."""

from __future__ import annotations

DOCUMENTATION = r"""
module: capacity_block_info
short_description: Look for EC2 capacity blocks that are for sale, and at those that are owned
version_added: "0.2.0"
author:
  - trainyard contributors (@trainyard)
description:
  - Returns the account's blocks and, where a type is given, the offers that meet the words, the cheapest hour of a
    host first.
  - Buys nothing and changes nothing.
extends_documentation_fragment:
  - trainyard.neuron.block_wish
  - amazon.aws.common.modules
  - amazon.aws.region.modules
  - amazon.aws.boto3
attributes:
  check_mode:
    description: Reads only.
    support: full
  diff_mode:
    description: Has none.
    support: none
"""

EXAMPLES = r"""
- name: See what two trn2 hosts for three days cost
  trainyard.neuron.capacity_block_info:
    region: us-east-2
    instance_type: trn2.48xlarge
    instance_count: 2
    hours: 72
    earliest_start: "2026-12-07T00:00:00Z"
    budget: "6000"
"""

RETURN = r"""
offers:
  description: What is for sale within the budget; money is text, so that no digit is lost.
  returned: always
  type: list
  elements: dict
  sample:
    - id: cbo-1
      instance_type: trn2.48xlarge
      instance_count: 2
      zones: [us-east-2b]
      start: "2026-12-07T11:30:00Z"
      end: "2026-12-10T11:30:00Z"
      host_hours: 144.0
      fee: "5149.55"
      currency: USD
      price_per_host_hour: "35.7608"
over_budget:
  description: How many offers cost more than the budget.
  returned: always
  type: int
unreadable:
  description: Offers that contradict themselves and cannot be confirmed, a line each.
  returned: always
  type: list
  elements: str
blocks:
  description: Blocks of the account in this region, ended ones too.
  returned: always
  type: list
  elements: dict
"""

import contextlib
from typing import Any, Dict

with contextlib.suppress(ImportError):  # AnsibleAWSModule says it
    from botocore.exceptions import BotoCoreError, ClientError

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.trainyard.neuron.plugins.module_utils.capacity.asking import WISH_SPEC, attempt, wish_of
from ansible_collections.trainyard.neuron.plugins.module_utils.capacity.blocks import offers, owned
from ansible_collections.trainyard.neuron.plugins.module_utils.capacity.offers import ranked


def look(client: Any, given: Dict[str, Any]) -> Dict[str, Any]:
    """The module's result."""
    result: Dict[str, Any] = {"offers": [], "over_budget": 0, "unreadable": []}
    if given.get("instance_type"):
        wish = wish_of(given)
        found, result["unreadable"] = offers(client, wish)
        within = ranked(found, wish.budget)
        result.update(offers=[offer.as_dict() for offer in within], over_budget=len(found) - len(within))
    result["blocks"] = [block.as_dict() for block in owned(client)]
    return result


def main() -> None:
    """Entry point."""
    module = AnsibleAWSModule(argument_spec=WISH_SPEC, supports_check_mode=True)
    errors = (BotoCoreError, ClientError)
    result = attempt(
        module.fail_json, "looking for capacity blocks", errors, lambda: look(module.client("ec2"), module.params)
    )
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
