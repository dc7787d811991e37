# SPDX-License-Identifier: Apache-2.0
"""What the modules answer when a purchase or a launch may not be: the reason, and that nothing was bought or launched.

EC2's refusals come over boto3 as its own `ClientError`, read from the stand-in's XML; the modules run whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from ansible.module_utils import basic

from tests.blocks.conftest import Account

from ansible_collections.trainyard.neuron.plugins.module_utils.capacity import blocks, offers  # isort: skip
from ansible_collections.trainyard.neuron.plugins.modules import (  # isort: skip
    capacity_block,
    capacity_block_extension,
    trainium_instances,
)

Run = Callable[..., dict[str, Any]]
WISH = offers.Wish("trn2.48xlarge", 2, 48)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a module as Ansible does, and read its result."""

    def work(module: Any, **arguments: Any) -> dict[str, Any]:
        given = {"region": "us-east-1", "wait_s": 1, **arguments}
        monkeypatch.setattr(basic, "_ANSIBLE_ARGS", json.dumps({"ANSIBLE_MODULE_ARGS": given}).encode())
        monkeypatch.setattr(basic, "_ANSIBLE_PROFILE", "legacy", raising=False)
        with pytest.raises(SystemExit):
            module.main()
        return dict(json.loads(capsys.readouterr().out.splitlines()[-1]))

    return work


def first(account: Account) -> offers.Offer:
    found, _unreadable = blocks.offers(account.client, WISH)
    return min(found, key=lambda offer: (offer.start, offer.id))


def refuse(operation: str, code: str) -> Callable[[Account], None]:
    """Have EC2 refuse an operation in its own words."""
    return lambda account: account.market.set({"refuse": {operation: [code, f"EC2's own words on {code}"]}})


def dearer(account: Account) -> None:
    account.market.set({"price_per_host_hour": "40"})


def sold_out(account: Account) -> None:
    account.market.capacity = dict.fromkeys(account.market.capacity, 0)


BUY = "PurchaseCapacityBlock"


@pytest.mark.parametrize(
    ("happens", "changes", "says"),
    [
        (None, {"fee": "1.00"}, "and 1.00 USD was confirmed. Nothing was bought"),
        (None, {"currency": "EUR"}, "EUR was confirmed. Nothing was bought"),
        (None, {"offering": "cbo-0"}, "offer cbo-0 is gone"),
        (None, {"budget": "10"}, "over the budget of 10. Nothing was bought"),
        (None, {"hours": 30}, "30 is no length of a block"),
        (dearer, {}, "Nothing was bought"),
        (sold_out, {}, "is gone. For sale now: nothing"),
        (refuse(BUY, "UnauthorizedOperation"), {}, "these credentials may not do that"),
        (refuse(BUY, "CapacityReservationLimitExceeded"), {}, "the account's quota is used up"),
        (refuse(BUY, "InvalidCapacityBlockOfferingId.NotFound"), {}, "the offer is gone"),
        (refuse(BUY, "InsufficientCapacity"), {}, "no instance is free there"),
        (refuse(BUY, "SomethingNew"), {}, "EC2 refused with SomethingNew: EC2's own words on SomethingNew"),
        (refuse("DescribeCapacityBlockOfferings", "RequestExpired"), {}, "this machine's clock is not EC2's"),
        (refuse("DescribeCapacityReservations", "AuthFailure"), {}, "the credentials are not valid here"),
    ],
)
def test_a_block_that_may_not_be_bought_is_refused_with_the_reason_and_nothing_is_bought(
    account: Account, run: Run, happens: Callable[[Account], None] | None, changes: dict[str, Any], says: str
) -> None:
    offer = first(account)
    if happens:
        happens(account)
    given = {
        "intent": "december",
        "instance_type": "trn2.48xlarge",
        "instance_count": 2,
        "hours": 48,
        "offering": offer.id,
        "fee": str(offer.fee),
        "journal": str(account.journal),
    }
    result = run(capacity_block, **{**given, **changes})
    assert result.get("failed") and says in result["msg"], result
    assert account.market.sold == {}
    assert "Traceback" not in result["msg"]


@pytest.fixture
def block(account: Account) -> blocks.Block:
    """A block of two hosts that has begun."""
    offer = first(account)
    word = blocks.Purchase("december", offer.id, offer.fee, "USD", "Linux/UNIX", WISH)
    return account.buyer().buy(word)


EXTEND = "PurchaseCapacityBlockExtension"


@pytest.mark.parametrize(
    ("happens", "changes", "says"),
    [
        (None, {"fee": "1.00"}, "1.00"),
        (None, {"offering": "cbe-0"}, "cbe-0"),
        (None, {"budget": "10"}, "budget"),
        (dearer, {}, "Nothing was bought"),
        (refuse(EXTEND, "UnauthorizedOperation"), {}, "these credentials may not do that"),
        (refuse(EXTEND, "RequestTimeTooSkewed"), {}, "this machine's clock is not EC2's"),
    ],
)
def test_an_extension_that_may_not_be_bought_is_refused_with_the_reason_and_the_end_stays(
    account: Account,
    run: Run,
    block: blocks.Block,
    happens: Callable[[Account], None] | None,
    changes: dict[str, Any],
    says: str,
) -> None:
    asked = {"reservation": block.id, "hours": 24}
    (offer,) = run(capacity_block_extension, **asked)["offers"]
    if happens:
        happens(account)
    result = run(capacity_block_extension, **{**asked, "offering": offer["offering"], "fee": offer["fee"], **changes})
    assert result.get("failed") and says in result["msg"], result
    assert account.market.sold[block.id].extensions == []
    assert account.market.sold[block.id].end == block.end


LAUNCH = "RunInstances"


@pytest.mark.parametrize(
    ("happens", "changes", "says"),
    [
        (None, {"elsewhere": True}, "us-east-1"),
        (None, {"hosts": 3}, "has 2 free slots and 3 hosts are to be launched"),
        (refuse(LAUNCH, "UnauthorizedOperation"), {}, "these credentials may not do that"),
        (refuse(LAUNCH, "VcpuLimitExceeded"), {}, "the account's quota is used up"),
        (refuse(LAUNCH, "ReservationCapacityExceeded"), {}, "fewer free slots than hosts are asked for"),
        (refuse(LAUNCH, "InsufficientInstanceCapacity"), {}, "no instance is free there"),
        (refuse(LAUNCH, "RequestExpired"), {}, "this machine's clock is not EC2's"),
        (refuse(LAUNCH, "InvalidAMIID.NotFound"), {}, "there is no such image"),
        (refuse(LAUNCH, "SomethingNew"), {}, "EC2 refused with SomethingNew"),
    ],
)
def test_hosts_that_may_not_be_launched_are_refused_with_the_reason_and_none_is_launched(
    account: Account,
    run: Run,
    block: blocks.Block,
    happens: Callable[[Account], None] | None,
    changes: dict[str, Any],
    says: str,
) -> None:
    if happens:
        happens(account)
    (group, *_) = account.client.describe_security_groups()["SecurityGroups"]
    count = changes.get("hosts", 2)
    elsewhere = next(zone for zone in sorted(account.market.capacity) if zone != block.zone)
    result = run(
        trainium_instances,
        fleet="llama",
        hosts=[{"name": f"trn2-{index}", "roles": ["llama"]} for index in range(count)],
        reservation=block.id,
        image_id="ami-12c6146b",
        subnet_id=account.subnet(elsewhere if changes.get("elsewhere") else block.zone),
        security_group_ids=[group["GroupId"]],
    )
    assert result.get("failed") and says in result["msg"], result
    account.market.set({"refuse": {}})
    rows = account.client.describe_instances()["Reservations"]
    assert [instance["InstanceId"] for row in rows for instance in row["Instances"]] == []
