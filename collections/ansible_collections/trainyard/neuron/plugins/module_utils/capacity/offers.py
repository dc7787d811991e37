# SPDX-License-Identifier: Apache-2.0
"""Offers of capacity blocks: what one costs, for how long, and whether what a person confirmed is still what is sold.

Shapes are those of ``ec2:DescribeCapacityBlockOfferings`` in botocore 1.44.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal, InvalidOperation
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

#: A block lasts 1 to 14 days in steps of a day, then up to 182 days in steps of a week.
DAY_H, WEEK_H = 24, 168
LONGEST_BY_DAYS_H, LONGEST_H = 14 * DAY_H, 182 * DAY_H
MOST_INSTANCES = 64
#: Offers end at this time of day, UTC.
END_OF_DAY = (11, 30)
CENT = Decimal("0.01")


class OfferError(ValueError):
    """An answer of EC2 that is no offer, or a wish that no offer can meet; the text says what would do."""


@dataclass(frozen=True)
class Segment:
    """One zone's part of an offer.

    Args:
        zone: availability zone.
        instance_count: hosts there.
        start: when they come, with a time zone.
        end: when they go, with a time zone.
        fee: price of this part, in the offer's currency.
    """

    zone: str
    instance_count: int
    start: datetime
    end: datetime
    fee: Decimal

    @property
    def host_hours(self) -> Decimal:
        """Hosts times hours."""
        seconds = int((self.end - self.start).total_seconds())
        return Decimal(self.instance_count) * Decimal(seconds) / Decimal(3600)


@dataclass(frozen=True)
class Offer:
    """A block that is for sale.

    Args:
        id: what a purchase names.
        instance_type: of its hosts.
        segments: its parts; one unless the offer spreads.
        fee: the price of all of it, paid up front.
        currency: such as ``USD``.
    """

    id: str
    instance_type: str
    segments: Tuple[Segment, ...]
    fee: Decimal
    currency: str

    @property
    def instance_count(self) -> int:
        """Hosts of all segments."""
        return sum(segment.instance_count for segment in self.segments)

    @property
    def start(self) -> datetime:
        """When its first host comes."""
        return min(segment.start for segment in self.segments)

    @property
    def end(self) -> datetime:
        """When its first host goes: from then on the fleet is not whole."""
        return min(segment.end for segment in self.segments)

    @property
    def zones(self) -> List[str]:
        """Where its hosts are."""
        return sorted({segment.zone for segment in self.segments})

    @property
    def host_hours(self) -> Decimal:
        """Hosts times hours over all segments."""
        return sum((segment.host_hours for segment in self.segments), Decimal(0))

    @property
    def price_per_host_hour(self) -> Decimal:
        """Fee for an hour of one host, to four places."""
        return (self.fee / self.host_hours).quantize(Decimal("0.0001"))

    def as_dict(self) -> Dict[str, Any]:
        """The offer for a module's result: times in ISO form, money as text so that no digit is lost."""
        return {
            "id": self.id,
            "instance_type": self.instance_type,
            "instance_count": self.instance_count,
            "zones": self.zones,
            "start": iso(self.start),
            "end": iso(self.end),
            "host_hours": float(self.host_hours),
            "fee": str(self.fee),
            "currency": self.currency,
            "price_per_host_hour": str(self.price_per_host_hour),
        }


@dataclass(frozen=True)
class Wish:
    """What to search for.

    Args:
        instance_type: such as ``trn2.48xlarge``.
        instance_count: hosts of the block.
        hours: how long; offers that start at once last a little more or less.
        earliest_start: with a time zone; none for now.
        latest_end: with a time zone; none for any.
        budget: the most that an offer may cost in all; none for any.
    """

    instance_type: str
    instance_count: int
    hours: int
    earliest_start: Optional[datetime] = None
    latest_end: Optional[datetime] = None
    budget: Optional[Decimal] = None

    def request(self) -> Dict[str, Any]:
        """The arguments of ``describe_capacity_block_offerings``."""
        asked: Dict[str, Any] = {
            "InstanceType": self.instance_type,
            "InstanceCount": self.instance_count,
            "CapacityDurationHours": self.hours,
        }
        if self.earliest_start:
            asked["StartDateRange"] = self.earliest_start
        if self.latest_end:
            asked["EndDateRange"] = self.latest_end
        return asked


def iso(moment: datetime) -> str:
    """A moment in UTC to the second, ISO 8601."""
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment_of(text: str, name: str) -> datetime:
    """Read an ISO time; UTC where it names no zone.

    Raises:
        OfferError: it is none.
    """
    try:
        found = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith(("Z", "z")) else text)
    except ValueError as error:
        raise OfferError("{0}: {1!r} is no ISO time, such as 2026-12-01T11:30:00Z".format(name, text)) from error
    return found if found.tzinfo else found.replace(tzinfo=timezone.utc)


def money_of(text: Any, name: str) -> Decimal:
    """Read an amount of money that is finite and not negative.

    Raises:
        OfferError: it is none.
    """
    try:
        found = Decimal(str(text).strip())
    except InvalidOperation as error:
        raise OfferError("{0}: {1!r} is no amount, such as 858.26".format(name, text)) from error
    if not found.is_finite() or found < 0:
        raise OfferError("{0}: {1!r} is no amount that can be paid".format(name, text))
    return found


def nearest_hours(hours: int) -> int:
    """The shortest length of a block that is at least this long, in hours."""
    step = DAY_H if hours <= LONGEST_BY_DAYS_H else WEEK_H
    return min(max(-(-hours // step) * step, DAY_H), LONGEST_H)


def problems_of(wish: Wish) -> List[str]:
    """Why no offer can meet a wish, each with what would do."""
    found = []
    if wish.hours != nearest_hours(wish.hours):
        found.append(
            "hours: {0} is no length of a block: whole days up to 14 (24 to 336), then whole weeks up to 182 days; the "
            "nearest is {1}".format(wish.hours, nearest_hours(wish.hours))
        )
    if not 1 <= wish.instance_count <= MOST_INSTANCES:
        found.append(
            "instance_count: a block has 1 to {0} instances, not {1}".format(MOST_INSTANCES, wish.instance_count)
        )
    if wish.earliest_start and wish.latest_end and wish.earliest_start >= wish.latest_end:
        found.append("latest_end is not after earliest_start")
    return found


def read(row: Mapping[str, Any]) -> Offer:
    """Read one offer of EC2's answer.

    Raises:
        OfferError: a part that decides is missing, or its price and that of its segments differ: nobody can confirm
            such a fee.
    """
    name = str(row.get("CapacityBlockOfferingId") or "an offer without an id")
    fee = money_of(row.get("UpfrontFee"), name + ": UpfrontFee")
    parts = row.get("CapacityBlockOfferingSegments") or [{**row, "UpfrontFee": str(fee)}]
    try:
        segments = tuple(
            Segment(
                zone=str(part["AvailabilityZone"]),
                instance_count=int(part["InstanceCount"]),
                start=part["StartDate"],
                end=part["EndDate"],
                fee=money_of(part["UpfrontFee"], name + ": UpfrontFee of a segment"),
            )
            for part in parts
        )
        offer = Offer(
            id=row["CapacityBlockOfferingId"],
            instance_type=row["InstanceType"],
            segments=segments,
            fee=fee,
            currency=row["CurrencyCode"],
        )
    except KeyError as error:
        raise OfferError("{0} has no {1}".format(name, error.args[0])) from error
    if any(segment.instance_count < 1 or segment.end <= segment.start for segment in segments):
        raise OfferError("{0} has a part with no hosts or no time".format(name))
    total = sum((segment.fee for segment in segments), Decimal(0))
    if total != fee:
        raise OfferError("{0} costs {1} in all and {2} by its segments".format(name, fee, total))
    return offer


def ranked(offers: Sequence[Offer], budget: Optional[Decimal]) -> List[Offer]:
    """The offers within the budget: cheapest host-hour first, to the cent, then the earliest.

    A fee is rounded to the cent, so two offers of one price differ in the last places of theirs by length alone.
    """
    within = [offer for offer in offers if budget is None or offer.fee <= budget]
    return sorted(within, key=lambda offer: (offer.price_per_host_hour.quantize(CENT), offer.start, offer.id))


def confirmed(offers: Sequence[Offer], offering: str, fee: Decimal, currency: str, budget: Optional[Decimal]) -> Offer:
    """The offer that a person confirmed, if it is for sale at that very fee.

    Raises:
        OfferError: it is gone, costs another sum, or more than the budget.
    """
    found = next((offer for offer in offers if offer.id == offering), None)
    if found is None:
        now = ", ".join("{0} for {1} {2}".format(offer.id, offer.fee, offer.currency) for offer in ranked(offers, None))
        raise OfferError(
            "offer {0} is gone. For sale now: {1}. Nothing was bought; confirm one of these by its id and fee".format(
                offering, now or "nothing that meets these words"
            )
        )
    if (found.fee, found.currency) != (fee, currency):
        raise OfferError(
            "offer {0} costs {1} {2}, and {3} {4} was confirmed. Nothing was bought; confirm the price of now, or do "
            "without".format(offering, found.fee, found.currency, fee, currency)
        )
    if budget is not None and found.fee > budget:
        raise OfferError(
            "offer {0} costs {1} {2}, over the budget of {3}. Nothing was bought".format(
                offering, found.fee, found.currency, budget
            )
        )
    return found
