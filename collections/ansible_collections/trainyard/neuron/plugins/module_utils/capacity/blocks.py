# SPDX-License-Identifier: Apache-2.0
"""Blocks that are owned: found by what they were bought for, bought once, extended by its rules.

EC2 takes no client token with a purchase. What was bought for an intent is known by a tag that the purchase itself
carries, and by a journal beside the inventory: a purchase that was begun and is not to be seen is not made again before
EC2 has had time to show it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.capacity.block_end import LAST_EXTENSION_S
from ansible_collections.trainyard.neuron.plugins.module_utils.capacity.offers import (
    LONGEST_H,
    Offer,
    OfferError,
    Wish,
    confirmed,
    iso,
    money_of,
    read,
)

INTENT_TAG = "trainyard:intent"
#: EC2 shows within seconds what was bought; a purchase without a trace is made again only after this.
SHOWN_AFTER_S = 300.0
POLL_S = 5.0
EARLIEST_EXTENSION = timedelta(days=56)
#: States of a reservation in which it is, or will be, a block that serves; EC2's enumeration in botocore 1.44.
OWNED = ("payment-pending", "assessing", "scheduled", "delayed", "active", "pending")
READY = ("scheduled", "active")
ENDED = ("expired", "cancelled", "cancelling", "failed", "payment-failed", "unavailable", "unsupported")


class BlockError(ValueError):
    """What was asked for may not or cannot be done; nothing was bought unless the text says so."""


@dataclass(frozen=True)
class Block:
    """A block that the account owns.

    Args:
        id: of its capacity reservation.
        intent: what it was bought for; empty for one that was bought elsewhere.
        instance_type: of its hosts.
        instance_count: its slots.
        free_count: slots without a host.
        zone: where it is.
        platform: of its images.
        state: EC2's word.
        start: with a time zone.
        end: with a time zone.
    """

    id: str
    intent: str
    instance_type: str
    instance_count: int
    free_count: int
    zone: str
    platform: str
    state: str
    start: datetime
    end: datetime

    def as_dict(self) -> Dict[str, Any]:
        """The block for a module's result."""
        return {**self.__dict__, "start": iso(self.start), "end": iso(self.end)}


def read_block(row: Mapping[str, Any]) -> Block:
    """Read one reservation of EC2's answer.

    Raises:
        BlockError: it has no end or another part that decides is missing.
    """
    tags = {tag["Key"]: tag["Value"] for tag in row.get("Tags") or []}
    try:
        return Block(
            id=row["CapacityReservationId"],
            intent=tags.get(INTENT_TAG, ""),
            instance_type=row["InstanceType"],
            instance_count=int(row["TotalInstanceCount"]),
            free_count=int(row["AvailableInstanceCount"]),
            zone=row["AvailabilityZone"],
            platform=row["InstancePlatform"],
            state=row["State"],
            start=row["StartDate"],
            end=row["EndDate"],
        )
    except KeyError as error:
        raise BlockError(
            "reservation {0} has no {1}".format(row.get("CapacityReservationId", "without an id"), error.args[0])
        ) from error


def pages(call: Callable[..., Mapping[str, Any]], key: str, **asked: Any) -> List[Mapping[str, Any]]:
    """All rows of an answer that comes in pages."""
    found: List[Mapping[str, Any]] = []
    while True:
        answer = call(**asked)
        found.extend(answer.get(key) or [])
        if not answer.get("NextToken"):
            return found
        asked["NextToken"] = answer["NextToken"]


def owned(client: Any, intent: Optional[str] = None) -> List[Block]:
    """The account's blocks, or those that were bought for an intent, ended ones too, in the order of their start."""
    asked = {} if intent is None else {"Filters": [{"Name": "tag:" + INTENT_TAG, "Values": [intent]}]}
    rows = pages(client.describe_capacity_reservations, "CapacityReservations", **asked)
    blocks = [read_block(row) for row in rows if row.get("ReservationType") == "capacity-block"]
    return sorted(blocks, key=lambda block: (block.start, block.id))


def block_of(client: Any, reservation: str) -> Block:
    """One block by its id.

    Raises:
        BlockError: it is no block.
    """
    rows = pages(client.describe_capacity_reservations, "CapacityReservations", CapacityReservationIds=[reservation])
    found = [row for row in rows if row.get("ReservationType") == "capacity-block"]
    if not found:
        raise BlockError("{0} is no capacity block of this account and region".format(reservation))
    return read_block(found[0])


def offers(client: Any, wish: Wish) -> Tuple[List[Offer], List[str]]:
    """What is for sale, and a line for each offer that cannot be read or contradicts itself."""
    found, unreadable = [], []
    for row in pages(client.describe_capacity_block_offerings, "CapacityBlockOfferings", **wish.request()):
        try:
            found.append(read(row))
        except OfferError as error:
            unreadable.append(str(error))
    return found, unreadable


class Journal:
    """What was begun for each intent, beside the inventory: a run that was killed in mid-purchase is seen by the next.

    Args:
        path: a JSON file; made on the first purchase, readable by its owner alone.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Be the only one who looks and buys; another waits.

        A module goes on when the controller that began it was killed: what follows would look before that one bought.
        """
        # A directory, so that no file more lies in an inventory.
        handle = os.open(str(self.path.parent), os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def read(self) -> Dict[str, Dict[str, str]]:
        """Intent to ``{"offering", "begun_at"}``.

        Raises:
            BlockError: the file is there and cannot be read: whether money was spent is not known.
        """
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        try:
            found = json.loads(text)
            if not all(isinstance(row["offering"], str) and row["begun_at"] for row in found.values()):
                raise ValueError("rows without offering")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BlockError(
                "{0} holds the purchases that were begun and cannot be read ({1}): look at what is owned with "
                "`trainyard blocks`, then remove it".format(self.path, error)
            ) from error
        return dict(found)

    def begin(self, intent: str, offering: str, now: datetime) -> None:
        """Write down that a purchase begins, on disk before it does."""
        rows = {**self.read(), intent: {"offering": offering, "begun_at": iso(now)}}
        new = self.path.with_name(self.path.name + ".new")
        handle = os.open(str(new), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.path)


@dataclass(frozen=True)
class Purchase:
    """A person's word.

    Args:
        intent: what the block is for, such as ``llama-december``; a second purchase for it is never made.
        offering: the offer's id.
        fee: its price, repeated.
        currency: of the fee.
        platform: EC2's instance platform.
        wish: what the offer was found by.
    """

    intent: str
    offering: str
    fee: Decimal
    currency: str
    platform: str
    wish: Wish


class Buyer:
    """Buys blocks and extensions, once each.

    Args:
        client: boto3's ``ec2`` client.
        journal: where purchases are written down before they are made.
        sleep: replaces ``time.sleep``.
        now: replaces the clock.
    """

    def __init__(
        self,
        client: Any,
        journal: Journal,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        self.client = client
        self.journal = journal
        self.sleep = sleep
        self.now = now

    def bought(self, intent: str) -> Optional[Block]:
        """The block that was bought for an intent and has not ended.

        Raises:
            BlockError: there are two: somebody bought beside this.
        """
        found = [block for block in owned(self.client, intent) if block.state in OWNED]
        if len(found) > 1:
            raise BlockError(
                "{0} blocks carry the intent {1}: {2}. Give one of them another tag {3}".format(
                    len(found), intent, ", ".join(block.id for block in found), INTENT_TAG
                )
            )
        return found[0] if found else None

    def _begun_s(self, intent: str) -> Optional[float]:
        row = self.journal.read().get(intent)
        if row is None:
            return None
        begun = datetime.fromisoformat(row["begun_at"].replace("Z", "+00:00"))
        return (self.now() - begun).total_seconds()

    def wait_until_seen(self, intent: str) -> Optional[Block]:
        """The block of an intent; where a purchase was begun not long ago, after EC2 had time to show it."""
        while True:
            block = self.bought(intent)
            begun_s = self._begun_s(intent)
            if block or begun_s is None or begun_s >= SHOWN_AFTER_S:
                return block
            self.sleep(POLL_S)

    def offer_for(self, word: Purchase) -> Offer:
        """The offer that was confirmed, as it is for sale this moment.

        Raises:
            OfferError: it is gone, has another price, or costs more than the budget.
        """
        found, _unreadable = offers(self.client, word.wish)
        return confirmed(found, word.offering, word.fee, word.currency, word.wish.budget)

    def buy(self, word: Purchase) -> Block:
        """Buy what was confirmed; the caller has looked whether it is there.

        Raises:
            OfferError: it is not for sale as confirmed.
            botocore.exceptions.ClientError: EC2 refused.
        """
        offer = self.offer_for(word)
        self.journal.begin(word.intent, word.offering, self.now())
        answer = self.client.purchase_capacity_block(**request(word, offer))
        return read_block(answer["CapacityReservation"])

    def wait_until_paid(self, block: Block, timeout_s: float) -> Block:
        """The block when its payment has been decided, or the time is over.

        Raises:
            BlockError: it was not paid.
        """
        deadline = self.now() + timedelta(seconds=timeout_s)
        while block.state == "payment-pending" and self.now() < deadline:
            self.sleep(POLL_S)
            block = block_of(self.client, block.id)
        if block.state in ENDED:
            raise BlockError("block {0} is {1}: it will not come".format(block.id, block.state))
        return block


def request(word: Purchase, offer: Offer) -> Dict[str, Any]:
    """The arguments of ``purchase_capacity_block``: the purchase carries its intent from its first moment."""
    return {
        "CapacityBlockOfferingId": offer.id,
        "InstancePlatform": word.platform,
        "TagSpecifications": [
            {
                "ResourceType": "capacity-reservation",
                "Tags": [{"Key": INTENT_TAG, "Value": word.intent}, {"Key": "Name", "Value": word.intent}],
            }
        ],
    }


def differences(block: Block, word: Purchase) -> List[str]:
    """Where the block that was bought for an intent is not what is asked for now."""
    pairs = (
        ("instance_type", block.instance_type, word.wish.instance_type),
        ("instance_count", block.instance_count, word.wish.instance_count),
        ("platform", block.platform, word.platform),
    )
    return ["{0}: {1} was bought, {2} is asked for".format(*pair) for pair in pairs if pair[1] != pair[2]]


@dataclass(frozen=True)
class Extension:
    """More time for a block.

    Args:
        offering: the extension offer's id.
        reservation: the block.
        hours: how much longer.
        end: the block's end with it.
        fee: its price, paid up front.
        currency: of the fee.
    """

    offering: str
    reservation: str
    hours: int
    end: datetime
    fee: Decimal
    currency: str

    def as_dict(self) -> Dict[str, Any]:
        """The extension for a module's result."""
        return {**self.__dict__, "end": iso(self.end), "fee": str(self.fee)}


def read_extension(row: Mapping[str, Any], reservation: str) -> Extension:
    """Read one extension, offered or bought.

    Raises:
        OfferError: a part that decides is missing.
    """
    try:
        return Extension(
            offering=row["CapacityBlockExtensionOfferingId"],
            reservation=reservation,
            hours=int(row["CapacityBlockExtensionDurationHours"]),
            end=row["CapacityBlockExtensionEndDate"],
            fee=money_of(row["UpfrontFee"], "UpfrontFee of an extension"),
            currency=row["CurrencyCode"],
        )
    except KeyError as error:
        raise OfferError("an extension of {0} has no {1}".format(reservation, error.args[0])) from error


def extensions(client: Any, reservation: str, hours: int) -> List[Extension]:
    """The extensions that are for sale."""
    rows = pages(
        client.describe_capacity_block_extension_offerings,
        "CapacityBlockExtensionOfferings",
        CapacityReservationId=reservation,
        CapacityBlockExtensionDurationHours=hours,
    )
    return [read_extension(row, reservation) for row in rows]


def history(client: Any, reservation: str) -> List[Dict[str, str]]:
    """The extensions that were bought for a block: offering and status."""
    rows = pages(
        client.describe_capacity_block_extension_history,
        "CapacityBlockExtensions",
        CapacityReservationIds=[reservation],
    )
    return [
        {"offering": row["CapacityBlockExtensionOfferingId"], "status": row["CapacityBlockExtensionStatus"]}
        for row in rows
    ]


def extension_problems(block: Block, hours: int, bought: Sequence[Mapping[str, str]], now: datetime) -> List[str]:
    """Why a block cannot be extended now, each with what would do."""
    found = []
    if block.state not in READY:
        found.append(
            "block {0} is {1}: only one that is scheduled or active can be extended".format(block.id, block.state)
        )
    pending = [row["offering"] for row in bought if row["status"] == "payment-pending"]
    if pending:
        found.append("extension {0} is still being paid: wait until it has been".format(", ".join(pending)))
    left = block.end - now
    if left.total_seconds() < LAST_EXTENSION_S:
        found.append(
            "block {0} ends at {1}: it could be extended until an hour before. Buy another block, and let the service "
            "move (docs/blocks.md)".format(block.id, iso(block.end))
        )
    if left > EARLIEST_EXTENSION:
        found.append("block {0} can be extended from {1} on".format(block.id, iso(block.end - EARLIEST_EXTENSION)))
    if (block.end - block.start).total_seconds() / 3600 + hours > LONGEST_H:
        found.append("a block lasts at most {0} days, extensions included".format(LONGEST_H // 24))
    return found


def confirmed_extension(
    found: Sequence[Extension], offering: str, fee: Decimal, currency: str, budget: Optional[Decimal]
) -> Extension:
    """The extension that a person confirmed, if it is for sale at that very fee.

    Raises:
        OfferError: it is gone, costs another sum, or more than the budget.
    """
    offer = next((row for row in found if row.offering == offering), None)
    if offer is None:
        now = ", ".join("{0} for {1} {2}".format(row.offering, row.fee, row.currency) for row in found)
        raise OfferError(
            "extension {0} is gone. For sale now: {1}. Nothing was bought".format(
                offering, now or "none of that length"
            )
        )
    if (offer.fee, offer.currency) != (fee, currency):
        raise OfferError(
            "extension {0} costs {1} {2}, and {3} {4} was confirmed. Nothing was bought".format(
                offering, offer.fee, offer.currency, fee, currency
            )
        )
    if budget is not None and offer.fee > budget:
        raise OfferError("extension {0} costs {1}, over the budget of {2}".format(offering, offer.fee, budget))
    return offer
