# SPDX-License-Identifier: Apache-2.0
"""Buying and extending blocks at the EC2 stand-in: once, at the price that was confirmed, and never otherwise."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from lab.services.blocks import Market
from tests.blocks.conftest import Account

from ansible_collections.trainyard.neuron.plugins.module_utils.capacity import blocks, offers  # isort: skip
from ansible_collections.trainyard.neuron.plugins.modules import capacity_block, capacity_block_extension  # isort: skip
from ansible_collections.trainyard.neuron.plugins.modules import capacity_block_info  # isort: skip

ERRORS = (BotoCoreError, ClientError)
WISH = offers.Wish("trn2.48xlarge", 2, 48)
GIVEN = {"instance_type": "trn2.48xlarge", "instance_count": 2, "hours": 48}


def word(account: Account, intent: str = "december", **changes: Any) -> blocks.Purchase:
    """A person's word on the cheapest offer of now."""
    found, _ = blocks.offers(account.client, WISH)
    best = offers.ranked(found, None)[0]
    return replace(blocks.Purchase(intent, best.id, best.fee, best.currency, "Linux/UNIX", WISH), **changes)


def ensure(account: Account, purchase: blocks.Purchase, check_mode: bool = False) -> dict[str, Any]:
    return capacity_block.ensure(account.buyer(), purchase, check_mode, 600.0, ERRORS)


def test_offers_are_shown_with_the_price_of_a_host_hour_and_end_at_half_past_eleven(account: Account) -> None:
    found = capacity_block_info.look(account.client, GIVEN)
    assert found["offers"] and found["blocks"] == [] and found["unreadable"] == []
    for offer in found["offers"]:
        assert offer["end"].endswith("T11:30:00Z")
        assert float(offer["fee"]) == pytest.approx(35.7608 * offer["host_hours"], abs=0.01)


def test_the_cheapest_host_hour_is_first_and_of_one_price_the_block_that_begins_first() -> None:
    start, price = datetime(2026, 12, 1, tzinfo=UTC), {"dear": "40", "late": "35.76", "soon": "35.7649"}
    begins = {"dear": start, "late": start + timedelta(days=1), "soon": start}
    rows = [
        {
            "CapacityBlockOfferingId": name,
            "InstanceType": "trn2.48xlarge",
            "AvailabilityZone": "us-east-1a",
            "InstanceCount": 1,
            "StartDate": begins[name],
            "EndDate": begins[name] + timedelta(hours=100),
            "UpfrontFee": str(Decimal(price[name]) * 100),
            "CurrencyCode": "USD",
        }
        for name in price
    ]
    found = offers.ranked([offers.read(row) for row in rows], None)
    assert [offer.id for offer in found] == ["soon", "late", "dear"]


@pytest.mark.parametrize("minute", range(0, 24 * 60, 7))
def test_at_any_time_of_day_a_block_that_begins_at_once_is_offered_first(minute: int) -> None:
    """All offers of the stand-in have one price; fees that are rounded to the cent do not decide between them."""
    market = Market()
    market.set({"now": (datetime(2026, 12, 1, tzinfo=UTC) + timedelta(minutes=minute)).isoformat()})
    found = [offers.read(row) for row in market.offers("trn2.48xlarge", 2, 24, None)]
    assert offers.ranked(found, None)[0].start <= market.now


def test_what_begins_at_once_is_offered_also_while_a_second_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, seconds = datetime(2026, 12, 1, 9, tzinfo=UTC), iter(range(60))
    monkeypatch.setattr(Market, "now", property(lambda _: begun + timedelta(seconds=next(seconds))))
    found = [offers.read(row) for row in Market().offers("trn2.48xlarge", 2, 24, None)]
    assert offers.ranked(found, None)[0].start == begun


def test_a_budget_leaves_out_what_costs_more_and_says_how_many(account: Account) -> None:
    everything = capacity_block_info.look(account.client, GIVEN)["offers"]
    budget = min(Decimal(offer["fee"]) for offer in everything)
    found = capacity_block_info.look(account.client, {**GIVEN, "budget": str(budget)})
    assert {offer["fee"] for offer in found["offers"]} == {str(budget)}
    assert found["over_budget"] == len(everything) - len(found["offers"]) > 0


def test_a_block_is_bought_once_for_one_intent(account: Account) -> None:
    purchase = word(account)
    first = ensure(account, purchase)
    assert first["changed"] and first["block"]["intent"] == "december" and first["block"]["state"] in blocks.READY
    again = ensure(account, purchase)
    assert (again["changed"], again["block"]["id"]) == (False, first["block"]["id"])
    assert len(account.market.sold) == 1
    other = ensure(account, word(account, "january"))
    assert other["changed"] and len(account.market.sold) == 2


def test_check_mode_buys_nothing_and_asks_whether_ec2_would(account: Account) -> None:
    assert ensure(account, word(account), check_mode=True)["changed"]
    assert account.market.sold == {} and not account.journal.exists()
    account.market.set({"refuse": {"PurchaseCapacityBlock": ["UnauthorizedOperation", "You are not authorized"]}})
    with pytest.raises(ClientError, match="UnauthorizedOperation"):
        ensure(account, word(account), check_mode=True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fee": Decimal("1.00")}, r"costs \d+\.\d\d USD, and 1.00 USD was confirmed. Nothing was bought"),
        ({"currency": "EUR"}, r"USD, and .* EUR was confirmed"),
        ({"offering": "cbo-gone"}, "offer cbo-gone is gone. For sale now: cbo-"),
        ({"wish": replace(WISH, budget=Decimal(5))}, "over the budget of 5. Nothing was bought"),
    ],
)
def test_what_is_not_for_sale_as_confirmed_is_not_bought(account: Account, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(offers.OfferError, match=said):
        ensure(account, word(account, **changes))
    assert account.market.sold == {} and not account.journal.exists()


def test_a_price_that_changed_between_search_and_purchase_is_not_paid(account: Account) -> None:
    purchase = word(account)
    account.market.set({"price_per_host_hour": "99.9"})
    with pytest.raises(offers.OfferError, match="is gone"):
        ensure(account, purchase)
    assert account.market.sold == {}


def test_a_run_that_was_killed_after_the_purchase_finds_what_it_bought(account: Account) -> None:
    purchase = word(account)
    account.journal.parent.mkdir(exist_ok=True)
    account.buyer().buy(purchase)  # and then the run was killed, before it could say so
    found = ensure(account, purchase)
    assert not found["changed"] and len(account.market.sold) == 1


def test_a_purchase_that_was_begun_is_waited_for_before_another_is_made(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    purchase = word(account)
    account.buyer().buy(purchase)
    real, asked = account.client.describe_capacity_reservations, []

    def late(**given: Any) -> Any:
        # EC2 does not show a purchase at once.
        asked.append(account.market.now)
        return real(**given) if len(asked) > 3 else {"CapacityReservations": []}

    monkeypatch.setattr(account.client, "describe_capacity_reservations", late)
    assert not ensure(account, purchase)["changed"]
    assert len(account.market.sold) == 1 and len(asked) == 4


def test_a_purchase_without_a_trace_is_made_again_when_ec2_had_time_to_show_it(account: Account) -> None:
    purchase = word(account)
    blocks.Journal(account.journal).begin("december", purchase.offering, account.market.now)
    began = account.market.now
    assert ensure(account, purchase)["changed"]
    assert (account.market.now - began).total_seconds() >= blocks.SHOWN_AFTER_S
    assert len(account.market.sold) == 1


def test_a_journal_that_cannot_be_read_stops_everything(account: Account) -> None:
    account.journal.write_text('{"december": 7}')
    with pytest.raises(blocks.BlockError, match="cannot be read"):
        ensure(account, word(account))
    assert account.market.sold == {}


def test_an_intent_that_was_bought_with_other_words_is_refused(account: Account) -> None:
    ensure(account, word(account))
    with pytest.raises(blocks.BlockError, match="instance_count: 2 was bought, 1 is asked for"):
        ensure(account, word(account, wish=replace(WISH, instance_count=1)))
    assert len(account.market.sold) == 1


def test_two_blocks_with_one_intent_are_named(account: Account) -> None:
    purchase = word(account)
    ensure(account, purchase)
    account.buyer().buy(purchase)
    with pytest.raises(blocks.BlockError, match="2 blocks carry the intent december: cr-"):
        ensure(account, purchase)


def test_a_payment_that_fails_is_an_error_and_a_later_purchase_is_a_new_one(account: Account) -> None:
    account.market.set({"payment_s": 30, "pays": False})
    purchase = word(account)
    with pytest.raises(blocks.BlockError, match="is payment-failed: it will not come"):
        ensure(account, purchase)
    account.market.set({"pays": True, "forward_s": 600})
    assert ensure(account, word(account))["changed"]


def extend(account: Account, check_mode: bool = False, **given: Any) -> dict[str, Any]:
    words = {"hours": 24, "currency": "USD", "wait_s": 60, **given}
    return capacity_block_extension.ensure(account.client, words, check_mode, ERRORS)


@pytest.fixture
def owned(account: Account, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(capacity_block_extension, "now", lambda: account.market.now)
    return str(ensure(account, word(account))["block"]["id"])


def test_an_extension_is_looked_at_then_bought_once_and_moves_the_end(account: Account, owned: str) -> None:
    seen = extend(account, reservation=owned)
    (offer,) = seen["offers"]
    assert not seen["changed"] and seen["block"]["end"] < offer["end"]
    bought = extend(account, reservation=owned, offering=offer["offering"], fee=offer["fee"])
    assert bought["changed"] and bought["block"]["end"] == offer["end"] and bought["block"]["id"] == owned
    assert not extend(account, reservation=owned, offering=offer["offering"], fee=offer["fee"])["changed"]
    assert len(account.market.sold[owned].extensions) == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"offering": "cbe-gone", "fee": "1"}, "extension cbe-gone is gone. For sale now: cbe-"),
        ({"offering": "cbe-gone"}, "fee: an extension is bought by its id and its price"),
        ({"hours": 25}, "hours: 25 is no length of an extension; the nearest is 48"),
    ],
)
def test_an_extension_without_a_clear_word_is_not_bought(
    account: Account, owned: str, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(offers.OfferError, match=said):
        extend(account, reservation=owned, **given)
    assert account.market.sold[owned].extensions == []


def test_an_hour_before_the_end_it_is_too_late_to_extend(account: Account, owned: str) -> None:
    (offer,) = extend(account, reservation=owned)["offers"]
    end = account.market.sold[owned].end
    account.market.set({"forward_s": (end - account.market.now).total_seconds() - 3540})
    with pytest.raises(blocks.BlockError, match="until an hour before"):
        extend(account, reservation=owned, offering=offer["offering"], fee=offer["fee"])
    assert account.market.sold[owned].extensions == []


def test_an_extension_that_is_not_paid_leaves_the_old_end(
    account: Account, owned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (offer,) = extend(account, reservation=owned)["offers"]
    end = account.market.sold[owned].end
    account.market.set({"payment_s": 30, "pays": False})
    monkeypatch.setattr(capacity_block_extension.time, "sleep", lambda s: account.market.set({"forward_s": s}))
    monkeypatch.setattr(
        capacity_block_extension.wait_until_paid,
        "__defaults__",
        (lambda s: account.market.set({"forward_s": s}),),
    )
    with pytest.raises(blocks.BlockError, match="failed: the old end stands"):
        extend(account, reservation=owned, offering=offer["offering"], fee=offer["fee"])
    assert account.market.sold[owned].end == end


def test_an_offer_that_contradicts_itself_is_named_and_cannot_be_confirmed(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = account.client.describe_capacity_block_offerings

    def spread(**given: Any) -> Any:
        answer = real(**given)
        for row in answer["CapacityBlockOfferings"]:
            segment = {key: row[key] for key in ("AvailabilityZone", "InstanceCount", "StartDate", "EndDate")}
            row["CapacityBlockOfferingSegments"] = [{**segment, "UpfrontFee": "1.00"}]
        return answer

    purchase = word(account)
    monkeypatch.setattr(account.client, "describe_capacity_block_offerings", spread)
    found = capacity_block_info.look(account.client, GIVEN)
    assert found["offers"] == [] and "in all and 1.00 by its segments" in found["unreadable"][0]
    with pytest.raises(offers.OfferError, match="is gone"):
        ensure(account, purchase)


def test_the_journal_is_its_owners_alone_and_holds_what_was_begun(account: Account) -> None:
    purchase = word(account)
    ensure(account, purchase)
    assert account.journal.stat().st_mode & 0o777 == 0o600
    assert json.loads(account.journal.read_text())["december"]["offering"] == purchase.offering
