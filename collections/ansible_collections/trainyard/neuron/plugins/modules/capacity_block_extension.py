#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Extend a capacity block, once, on a person's word."""

from __future__ import annotations

DOCUMENTATION = r"""
module: capacity_block_extension
short_description: Extend an EC2 capacity block, once, on a person's word
version_added: "0.2.0"
author:
  - trainyard contributors (@trainyard)
description:
  - Without O(offering) it only looks at what an extension costs. With O(offering) and O(fee), both a person's word, it
    buys that one.
  - A block can be extended from 56 days to an hour before its end; it keeps its id, and its instances keep running.
    What has not been paid 35 minutes before the end fails, and the old end stands.

options:
  reservation:
    description: Id of the block's capacity reservation.
    type: str
    required: true
  hours:
    description: How much longer, in hours; whole days up to 14, then whole weeks.
    type: int
    required: true
  offering:
    description: Id of the extension's offer; none only looks.
    type: str
  fee:
    description: The extension's price, repeated.
    type: str
  currency:
    description: Currency of the fee.
    type: str
    default: USD
  budget:
    description: The most that may be paid for the extension.
    type: str
  wait_s:
    description: How long to wait until the payment has been decided.
    type: int
    default: 600
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.region.modules
  - amazon.aws.boto3
attributes:
  check_mode:
    description: Looks whether the extension is for sale at that price and EC2 would let it through; buys nothing.
    support: full
  diff_mode:
    description: Has none.
    support: none
"""

EXAMPLES = r"""
- name: See what another day costs
  trainyard.neuron.capacity_block_extension:
    reservation: cr-1
    hours: 24

- name: Buy it
  trainyard.neuron.capacity_block_extension:
    reservation: cr-1
    hours: 24
    offering: cbe-1
    fee: "1716.52"
"""

RETURN = r"""
offers:
  description: Extensions that are for sale.
  returned: when none was bought
  type: list
  elements: dict
  sample: [{"offering": "cbe-1", "reservation": "cr-1", "hours": 24, "end": "2026-12-11T11:30:00Z", "fee": "1716.52"}]
block:
  description: The block, with its end as it is now.
  returned: always
  type: dict
"""

import contextlib
import time
from typing import Any, Callable, Dict, List, Mapping, Tuple, Type

with contextlib.suppress(ImportError):  # AnsibleAWSModule says it
    from botocore.exceptions import BotoCoreError, ClientError

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.trainyard.neuron.plugins.module_utils.capacity.asking import attempt, may, now
from ansible_collections.trainyard.neuron.plugins.module_utils.capacity.blocks import (
    POLL_S,
    BlockError,
    block_of,
    confirmed_extension,
    extension_problems,
    extensions,
    history,
)
from ansible_collections.trainyard.neuron.plugins.module_utils.capacity.offers import (
    OfferError,
    money_of,
    nearest_hours,
)

ARGUMENT_SPEC: Dict[str, Dict[str, Any]] = {
    "reservation": {"type": "str", "required": True},
    "hours": {"type": "int", "required": True},
    "offering": {"type": "str"},
    "fee": {"type": "str"},
    "currency": {"type": "str", "default": "USD"},
    "budget": {"type": "str"},
    "wait_s": {"type": "int", "default": 600},
}
PAID = "payment-succeeded"
PENDING = "payment-pending"
FAILED = "payment-failed"


def status_of(bought: List[Dict[str, str]], offering: str) -> str:
    """How far the payment of an extension is; empty for one that was not bought, or whose payment failed."""
    found = [row["status"] for row in bought if row["offering"] == offering and row["status"] != FAILED]
    return found[-1] if found else ""


def wait_until_paid(
    client: Any, reservation: str, offering: str, wait_s: float, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Wait until the payment of an extension has been decided, or the time is over.

    Raises:
        BlockError: it failed; the old end stands.
    """
    waited_s = 0.0
    while True:
        rows = [row["status"] for row in history(client, reservation) if row["offering"] == offering]
        if rows and rows[-1] == FAILED:
            raise BlockError("the payment of extension {0} failed: the old end stands".format(offering))
        if (rows and rows[-1] == PAID) or waited_s >= wait_s:
            return
        sleep(POLL_S)
        waited_s += POLL_S


def ensure(
    client: Any, given: Mapping[str, Any], check_mode: bool, errors: Tuple[Type[Exception], ...]
) -> Dict[str, Any]:
    """The module's result.

    Raises:
        BlockError: the block cannot be extended.
        OfferError: the extension is not for sale as confirmed.
    """
    reservation, hours, offering = given["reservation"], given["hours"], given.get("offering")
    if hours != nearest_hours(hours):
        raise OfferError(
            "hours: {0} is no length of an extension; the nearest is {1}".format(hours, nearest_hours(hours))
        )
    if offering and not given.get("fee"):
        raise OfferError("fee: an extension is bought by its id and its price, both repeated")
    block, bought = block_of(client, reservation), history(client, reservation)
    if offering and status_of(bought, offering) in (PAID, PENDING):
        if not check_mode:
            wait_until_paid(client, reservation, offering, given["wait_s"])
        return {"changed": False, "block": block_of(client, reservation).as_dict()}
    problems = extension_problems(block, hours, bought, now())
    if problems:
        raise BlockError("; ".join(problems))
    found = extensions(client, reservation, hours)
    if not offering:
        return {"changed": False, "offers": [row.as_dict() for row in found], "block": block.as_dict()}
    fee = money_of(given["fee"], "fee")
    budget = money_of(given["budget"], "budget") if given.get("budget") else None
    confirmed_extension(found, offering, fee, given["currency"], budget)
    asked = {"CapacityBlockExtensionOfferingId": offering, "CapacityReservationId": reservation}
    if check_mode:
        may(client.purchase_capacity_block_extension, errors, **asked)
        return {"changed": True, "block": block.as_dict()}
    client.purchase_capacity_block_extension(**asked)
    wait_until_paid(client, reservation, offering, given["wait_s"])
    return {"changed": True, "block": block_of(client, reservation).as_dict()}


def main() -> None:
    """Entry point."""
    module = AnsibleAWSModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    given, errors = module.params, (BotoCoreError, ClientError)
    doing = "extending {0}".format(given["reservation"])
    result = attempt(
        module.fail_json, doing, errors, lambda: ensure(module.client("ec2"), given, module.check_mode, errors)
    )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
