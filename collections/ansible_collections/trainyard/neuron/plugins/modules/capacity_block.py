#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Buy a capacity block, once, on a person's word."""

from __future__ import annotations

DOCUMENTATION = r"""
module: capacity_block
short_description: Buy an EC2 capacity block, once, on a person's word
version_added: "0.2.0"
author:
  - trainyard contributors (@trainyard)
description:
  - Buys the offer that O(offering) names if it is for sale at exactly O(fee) this moment. Both are a person's word;
    neither has a default.
  - Never buys twice for one O(intent). The purchase carries the intent as a tag, and is written down in O(journal)
    before it is made, so a run that was killed is gone on with.
  - A purchase cannot be taken back.

options:
  reservation:
    description: Id of a block that is owned; nothing is bought.
    type: str
  intent:
    description: What the block is for, a name of yours; a block that carries it and has not ended is the one meant.
    type: str
  offering:
    description: Id of the offer. Without it a block that is not owned is an error that names the offers.
    type: str
  fee:
    description: The offer's price in all, repeated.
    type: str
  currency:
    description: Currency of the fee.
    type: str
    default: USD
  platform:
    description: EC2's platform of the images that will run there.
    type: str
    choices: [Linux/UNIX, Red Hat Enterprise Linux, SUSE Linux, Ubuntu Pro]
    default: Linux/UNIX
  journal:
    description: File in which purchases are written down before they are made; needed with O(intent).
    type: path
  wait_s:
    description: How long to wait until the payment has been decided.
    type: int
    default: 600
extends_documentation_fragment:
  - trainyard.neuron.block_wish
  - amazon.aws.common.modules
  - amazon.aws.region.modules
  - amazon.aws.boto3
attributes:
  check_mode:
    description: Looks whether the offer is for sale at that price and EC2 would let the purchase through; buys nothing.
    support: full
  diff_mode:
    description: Has none.
    support: none
"""

EXAMPLES = r"""
- name: Buy the block that was looked at
  trainyard.neuron.capacity_block:
    region: us-east-2
    intent: llama-december
    instance_type: trn2.48xlarge
    instance_count: 2
    hours: 72
    offering: cbo-1
    fee: "5149.55"
    journal: "{{ inventory_dir }}/capacity_purchases.json"
"""

RETURN = r"""
block:
  description: The block; in check mode the one that is there already.
  returned: when there is one
  type: dict
  sample: {"id": "cr-1", "intent": "llama-december", "state": "scheduled", "end": "2026-12-10T11:30:00Z"}
offer:
  description: The offer that was or would be bought.
  returned: when it is bought by this run
  type: dict
"""

import contextlib
from pathlib import Path
from typing import Any, Dict, Mapping, Tuple, Type

with contextlib.suppress(ImportError):  # AnsibleAWSModule says it
    from botocore.exceptions import BotoCoreError, ClientError

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.trainyard.neuron.plugins.module_utils.capacity.asking import WISH_SPEC, attempt, may, wish_of
from ansible_collections.trainyard.neuron.plugins.module_utils.capacity.blocks import (
    BlockError,
    Buyer,
    Journal,
    Purchase,
    block_of,
    differences,
    offers,
    request,
)
from ansible_collections.trainyard.neuron.plugins.module_utils.capacity.offers import iso, money_of, ranked

ARGUMENT_SPEC: Dict[str, Dict[str, Any]] = {
    **WISH_SPEC,
    "reservation": {"type": "str"},
    "intent": {"type": "str"},
    "offering": {"type": "str"},
    "fee": {"type": "str"},
    "currency": {"type": "str", "default": "USD"},
    "platform": {
        "type": "str",
        "choices": ["Linux/UNIX", "Red Hat Enterprise Linux", "SUSE Linux", "Ubuntu Pro"],
        "default": "Linux/UNIX",
    },
    "journal": {"type": "path"},
    "wait_s": {"type": "int", "default": 600},
}


def ensure(
    buyer: Buyer, word: Purchase, check_mode: bool, wait_s: float, errors: Tuple[Type[Exception], ...]
) -> Dict[str, Any]:
    """The module's result.

    Raises:
        BlockError: what is owned for this intent is something else, or the payment failed.
        OfferError: the offer is not for sale as confirmed.
    """
    there = buyer.wait_until_seen(word.intent)
    if there:
        different = differences(there, word)
        if different:
            raise BlockError(
                "block {0} was bought for {1} and is another: {2}. Nothing was bought; another purchase needs another "
                "intent".format(there.id, word.intent, "; ".join(different))
            )
        paid = there if check_mode else buyer.wait_until_paid(there, wait_s)
        return {"changed": False, "block": paid.as_dict()}
    offer = buyer.offer_for(word)
    if check_mode:
        may(buyer.client.purchase_capacity_block, errors, **request(word, offer))
        return {"changed": True, "offer": offer.as_dict()}
    block = buyer.wait_until_paid(buyer.buy(word), wait_s)
    return {"changed": True, "offer": offer.as_dict(), "block": block.as_dict()}


def unbought(buyer: Buyer, given: Mapping[str, Any], wait_s: float) -> Dict[str, Any]:
    """The block of an intent when nobody gave their word to buy one.

    Raises:
        BlockError: there is none; says what is for sale and how to confirm it.
    """
    there = buyer.wait_until_seen(given["intent"])
    if there:
        return {"changed": False, "block": buyer.wait_until_paid(there, wait_s).as_dict()}
    wish = wish_of(given)
    found, _unreadable = offers(buyer.client, wish)
    rows = [
        "{0}: {1} {2}, {3} to {4}, {5} a host-hour".format(
            offer.id, offer.fee, offer.currency, iso(offer.start), iso(offer.end), offer.price_per_host_hour
        )
        for offer in ranked(found, wish.budget)
    ]
    raise BlockError(
        "no block is owned for {0}, and none is bought without a word. For sale: {1}. To buy one, give its id and "
        "repeat its fee (launch.yml: -e trainium_launch_offering=ID -e trainium_launch_fee=FEE)".format(
            given["intent"], "; ".join(rows) or "nothing within these words"
        )
    )


def main() -> None:
    """Entry point."""
    module = AnsibleAWSModule(
        argument_spec=ARGUMENT_SPEC,
        supports_check_mode=True,
        required_one_of=[("reservation", "intent")],
        mutually_exclusive=[("reservation", "intent"), ("reservation", "offering")],
        required_together=[("offering", "fee")],
        required_by={"intent": ["journal"]},
    )
    given, errors = module.params, (BotoCoreError, ClientError)

    def work() -> Dict[str, Any]:
        client = module.client("ec2")
        if given["reservation"]:
            return {"changed": False, "block": block_of(client, given["reservation"]).as_dict()}
        buyer = Buyer(client, Journal(Path(given["journal"])))
        if not given["offering"]:
            return unbought(buyer, given, given["wait_s"])
        word = Purchase(
            intent=given["intent"],
            offering=given["offering"],
            fee=money_of(given["fee"], "fee"),
            currency=given["currency"],
            platform=given["platform"],
            wish=wish_of(given),
        )
        with buyer.journal.alone():
            return ensure(buyer, word, module.check_mode, given["wait_s"], errors)

    doing = "the capacity block of {0}".format(given["reservation"] or given["intent"])
    module.exit_json(**attempt(module.fail_json, doing, errors, work))


if __name__ == "__main__":
    main()
