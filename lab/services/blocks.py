# SPDX-License-Identifier: Apache-2.0
"""Capacity blocks of the EC2 stand-in: offers, purchases, extensions and launches by the rules that EC2 documents.

moto knows none of them, and launches into a block as if it were spot. What it gets wrong is mended here:

- offers end at 11:30 UTC; one that starts at once lasts a little more or less than asked
- a purchase is payment-pending, then scheduled, active, expired, by the stand-in's own clock, which can be driven
- an extension is sold from 56 days to an hour before the end, paid until 35 minutes before it, and keeps the block's id
- a launch needs the block's type, zone and market option, a free slot, and gives one instance for one client token
- instances of a block are terminated half an hour before its end; ten minutes earlier EC2 warns
- Neuron's public parameters of SSM, of which moto has none, name an image; which one can be driven, as "latest" moves

`PUT /_lab/market` takes a JSON object of `now` (ISO), `forward_s`, `clock`, `price_per_host_hour`, `capacity` (zone to
hosts), `payment_s`, `pays`, `image` and `refuse` (operation to `[code, message]`); it answers with the state after it,
as `GET` does. Who asks EC2 compares its times with a clock of his own: with `clock` at `machine`, they are said by the
machine's clock, so that what is driven forward comes nearer there. `own`, the default, says them by the stand-in's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from lab.services.ec2 import ACCOUNT, REGION

MARKET_PATH = "/_lab/market"
REGION_ZONES = {"us-east-1a": 16, "us-east-1b": 16}
CLOCKS = ("own", "machine")
MOST_OFFERS = 6
END_OF_DAY = (11, 30)
LAST_EXTENSION = timedelta(hours=1)
EARLIEST_EXTENSION = timedelta(days=56)
UNPAID_FAILS = timedelta(minutes=35)
WARNING = timedelta(minutes=40)
TERMINATION = timedelta(minutes=30)
_SETTINGS = ("now", "forward_s", "clock", "price_per_host_hour", "capacity", "payment_s", "pays", "refuse", "image")
NEURON_PARAMETERS = "/aws/service/neuron/dlami/"
#: The ends of their names: one for each image of Neuron's that the stand-in knows.
IMAGES = ("multi-framework/ubuntu-24.04", "base/ubuntu-24.04", "base/amazon-linux-2023")


@dataclass
class Sold:
    """A block that was bought.

    Args:
        id: of its reservation.
        row: what was offered.
        platform: of its images.
        tags: given with the purchase.
        bought_at: by the stand-in's clock.
        end: moved by extensions.
        paid: None while its payment is pending.
    """

    id: str
    row: dict[str, Any]
    platform: str
    tags: dict[str, str]
    bought_at: datetime
    end: datetime
    paid: bool | None = None
    warned: bool = False
    extensions: list[dict[str, Any]] = field(default_factory=list)

    def state(self, now: datetime) -> str:
        """EC2's word for where it is."""
        if self.paid is None:
            return "payment-pending"
        if not self.paid:
            return "payment-failed"
        if now >= self.end:
            return "expired"
        return "active" if now >= self.row["StartDate"] else "scheduled"


class RefusedError(Exception):
    """EC2's refusal.

    Args:
        code: as boto3 shows it.
        message: EC2's words.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass
class Market:
    """What is for sale, what was sold, and what time it is.

    Args:
        offset: the stand-in's clock against the machine's.
        clock: by which times are said, ``own`` or ``machine``.
        price_per_host_hour: USD.
        capacity: hosts that each zone can still sell.
        payment_s: how long a payment is pending.
        pays: whether payments succeed.
        refuse: operation to the code and words that it is refused with.
        image: what Neuron's public parameters name now.
    """

    offset: timedelta = timedelta()
    clock: str = "own"
    price_per_host_hour: Decimal = Decimal("35.7608")
    capacity: dict[str, int] = field(default_factory=lambda: dict(REGION_ZONES))
    payment_s: float = 0.0
    pays: bool = True
    refuse: dict[str, tuple[str, str]] = field(default_factory=dict)
    image: str = "ami-12c6146b"
    offered: dict[str, dict[str, Any]] = field(default_factory=dict)
    sold: dict[str, Sold] = field(default_factory=dict)
    events: list[dict[str, str]] = field(default_factory=list)

    @property
    def now(self) -> datetime:
        """The stand-in's time, to the second."""
        return (datetime.now(UTC) + self.offset).replace(microsecond=0)

    def set(self, given: dict[str, Any]) -> None:
        """Take settings.

        Raises:
            ValueError: a word or value that there is not.
        """
        if unknown := sorted(set(given) - set(_SETTINGS)):
            raise ValueError(f"{', '.join(unknown)}: there are {', '.join(_SETTINGS)}")
        if given.get("clock", self.clock) not in CLOCKS:
            raise ValueError(f"clock is {' or '.join(CLOCKS)}")
        self.clock = given.get("clock", self.clock)
        if "now" in given:
            self.offset = datetime.fromisoformat(given["now"]) - datetime.now(UTC)
        self.offset += timedelta(seconds=float(given.get("forward_s", 0)))
        self.price_per_host_hour = Decimal(str(given.get("price_per_host_hour", self.price_per_host_hour)))
        self.capacity = {str(zone): int(count) for zone, count in given.get("capacity", self.capacity).items()}
        self.payment_s = float(given.get("payment_s", self.payment_s))
        self.pays = bool(given.get("pays", self.pays))
        self.image = str(given.get("image", self.image))
        self.refuse = {name: (code, words) for name, (code, words) in given.get("refuse", self.refuse).items()}

    @property
    def said_later(self) -> timedelta:
        """How much later than it is the stand-in says a time to be."""
        return -self.offset if self.clock == "machine" else timedelta()

    def said(self, found: Any) -> Any:
        """An answer with its times as they are said."""
        if isinstance(found, dict):
            return {name: self.said(value) for name, value in found.items()}
        if isinstance(found, list):
            return [self.said(value) for value in found]
        return (found + self.said_later).replace(microsecond=0) if isinstance(found, datetime) else found

    def state(self) -> dict[str, Any]:
        """The clock, what was sold and what was announced."""
        now = self.now
        blocks = [
            {"id": block.id, "state": block.state(now), "end": block.end.isoformat()} for block in self.sold.values()
        ]
        return {"now": now.isoformat(), "blocks": blocks, "events": self.events}

    def offers(self, instance_type: str, count: int, hours: int, earliest: datetime | None) -> list[dict[str, Any]]:
        """What can be bought in each zone with room: at once (a little less, a little more), and from next days on."""
        now = self.now
        start = max(now, earliest or now)
        found = []
        for zone, free in self.capacity.items():
            if count > free:
                continue
            for begin, end in _times(start, timedelta(hours=hours), at_once=start == now):
                found.append(self._offer(zone, instance_type, count, begin, end))
        found.sort(key=lambda row: (row["StartDate"], row["AvailabilityZone"]))
        return found[:MOST_OFFERS]

    def _offer(self, zone: str, instance_type: str, count: int, begin: datetime, end: datetime) -> dict[str, Any]:
        length = end - begin
        fee = (self.price_per_host_hour * count * Decimal(int(length.total_seconds())) / 3600).quantize(Decimal("0.01"))
        # An offer keeps its id while its price is the same, also one that starts at once.
        starts = begin.isoformat() if (begin.hour, begin.minute) == END_OF_DAY else "at once"
        words = f"{zone} {instance_type} {count} {end.isoformat()} {starts} {self.price_per_host_hour}"
        row: dict[str, Any] = {
            "CapacityBlockOfferingId": f"cbo-{hashlib.sha256(words.encode()).hexdigest()[:17]}",
            "InstanceType": instance_type,
            "AvailabilityZone": zone,
            "InstanceCount": count,
            "StartDate": begin,
            "EndDate": end,
            "CapacityBlockDurationHours": int(length.total_seconds()) // 3600,
            "CapacityBlockDurationMinutes": int(length.total_seconds()) % 3600 // 60,
            "UpfrontFee": str(fee),
            "CurrencyCode": "USD",
            "Tenancy": "default",
        }
        known = self.offered.get(row["CapacityBlockOfferingId"])
        if known:
            row["UpfrontFee"], row["StartDate"] = known["UpfrontFee"], known["StartDate"]
        self.offered[row["CapacityBlockOfferingId"]] = row
        return row

    def buy(self, offering: str, platform: str, tags: dict[str, str]) -> Sold:
        """Sell a block.

        Raises:
            RefusedError: the offer is gone, or the zone has no room any more.
        """
        row = self.offered.get(offering)
        if row is None or self._offer_of(row)["CapacityBlockOfferingId"] != offering:
            raise RefusedError("InvalidCapacityBlockOfferingId.NotFound", f"The offering '{offering}' does not exist")
        if self.capacity.get(row["AvailabilityZone"], 0) < row["InstanceCount"]:
            raise RefusedError("InsufficientCapacity", "There is not enough capacity for this offering")
        self.capacity[row["AvailabilityZone"]] -= row["InstanceCount"]
        digest = hashlib.sha256(f"{offering} {len(self.sold)}".encode()).hexdigest()[:17]
        block = Sold(f"cr-{digest}", dict(row), platform, tags, self.now, row["EndDate"])
        self.sold[block.id] = block
        self.tick()
        return block

    def _offer_of(self, row: dict[str, Any]) -> dict[str, Any]:
        """What an offer that was made would be now."""
        begin, end = row["StartDate"], row["EndDate"]
        return self._offer(row["AvailabilityZone"], row["InstanceType"], row["InstanceCount"], begin, end)

    def tick(self) -> None:
        """Let what time brings happen: payments, warnings, extensions that nobody paid."""
        now = self.now
        for block in self.sold.values():
            if block.paid is None and (now - block.bought_at).total_seconds() >= self.payment_s:
                block.paid = self.pays
                if not self.pays:
                    self.capacity[block.row["AvailabilityZone"]] += block.row["InstanceCount"]
            for extension in block.extensions:
                if extension["CapacityBlockExtensionStatus"] == "payment-pending":
                    self._settle(block, extension, now)
            if block.state(now) == "active" and now >= block.end - WARNING and not block.warned:
                block.warned = True
                detail = {"capacity-reservation-id": block.id, "end-date": block.end.isoformat()}
                self.events.append({"detail-type": "Capacity Block Expiration Warning", **detail})

    def _settle(self, block: Sold, extension: dict[str, Any], now: datetime) -> None:
        """Decide an extension's payment when its time has come."""
        paid_at = extension["CapacityBlockExtensionPurchaseDate"] + timedelta(seconds=self.payment_s)
        failed_at = block.end - UNPAID_FAILS
        if now >= paid_at and paid_at < failed_at:
            extension["CapacityBlockExtensionStatus"] = "payment-succeeded" if self.pays else "payment-failed"
            if self.pays:
                block.end, block.warned = extension["CapacityBlockExtensionEndDate"], False
        elif now >= failed_at:
            extension["CapacityBlockExtensionStatus"] = "payment-failed"

    def block(self, identifier: str) -> Sold:
        """A block by its id.

        Raises:
            RefusedError: there is none.
        """
        if identifier not in self.sold:
            raise RefusedError(
                "InvalidCapacityReservationId.NotFound", f"The reservation ID '{identifier}' does not exist"
            )
        return self.sold[identifier]

    def extension_offers(self, identifier: str, hours: int) -> list[dict[str, Any]]:
        """The extensions that are for sale: one of that length, where the rules allow one.

        Raises:
            RefusedError: they do not.
        """
        block, now = self.block(identifier), self.now
        if block.state(now) not in ("active", "scheduled"):
            raise RefusedError("InvalidState", f"{identifier} is {block.state(now)}")
        if not LAST_EXTENSION <= block.end - now <= EARLIEST_EXTENSION:
            raise RefusedError("InvalidParameterValue", "extensions are sold from 56 days to one hour before the end")
        if any(row["CapacityBlockExtensionStatus"] == "payment-pending" for row in block.extensions):
            raise RefusedError("InvalidState", f"{identifier} has an extension whose payment is pending")
        if (
            hours % 24
            or not hours
            or (block.end - block.row["StartDate"]) + timedelta(hours=hours) > timedelta(days=182)
        ):
            raise RefusedError("InvalidParameterValue", "extensions are whole days; a block lasts at most 182 days")
        fee = (self.price_per_host_hour * block.row["InstanceCount"] * hours).quantize(Decimal("0.01"))
        words = f"{identifier} {hours} {block.end.isoformat()} {self.price_per_host_hour}"
        row = {
            "CapacityBlockExtensionOfferingId": f"cbe-{hashlib.sha256(words.encode()).hexdigest()[:17]}",
            "InstanceType": block.row["InstanceType"],
            "InstanceCount": block.row["InstanceCount"],
            "AvailabilityZone": block.row["AvailabilityZone"],
            "StartDate": block.row["StartDate"],
            "CapacityBlockExtensionStartDate": block.end,
            "CapacityBlockExtensionEndDate": block.end + timedelta(hours=hours),
            "CapacityBlockExtensionDurationHours": hours,
            "UpfrontFee": str(fee),
            "CurrencyCode": "USD",
        }
        self.offered[row["CapacityBlockExtensionOfferingId"]] = row
        return [row]

    def extend(self, identifier: str, offering: str) -> dict[str, Any]:
        """Sell an extension.

        Raises:
            RefusedError: the offer is gone, or the rules do not allow it any more.
        """
        row = self.offered.get(offering)
        current = self.extension_offers(identifier, row["CapacityBlockExtensionDurationHours"]) if row else []
        if offering not in [offer["CapacityBlockExtensionOfferingId"] for offer in current]:
            raise RefusedError("InvalidCapacityBlockExtensionOfferingId.NotFound", f"'{offering}' does not exist")
        bought = {
            **current[0],
            "CapacityReservationId": identifier,
            "CapacityBlockExtensionStatus": "payment-pending",
            "CapacityBlockExtensionPurchaseDate": self.now,
        }
        self.block(identifier).extensions.append(bought)
        self.tick()
        return bought


def _times(start: datetime, length: timedelta, *, at_once: bool) -> Iterator[tuple[datetime, datetime]]:
    """Beginnings and ends of offers: ends are at 11:30 UTC."""
    first_end = start.replace(hour=END_OF_DAY[0], minute=END_OF_DAY[1], second=0)
    if at_once:
        end = first_end
        while end - start < length:
            end += timedelta(days=1)
        for candidate in (end - timedelta(days=1), end):
            if candidate - start >= timedelta(hours=1):
                yield start.replace(second=0), candidate
    begin = first_end if first_end > start else first_end + timedelta(days=1)
    yield begin, begin + length
    yield begin + timedelta(days=1), begin + timedelta(days=1) + length


def _reservation(market: Market, block: Sold, used: int) -> dict[str, Any]:
    """A block in the shape of `describe_capacity_reservations`."""
    row, state = block.row, block.state(market.now)
    free = row["InstanceCount"] - used if state == "active" else 0
    return {
        "CapacityReservationId": block.id,
        "InstanceType": row["InstanceType"],
        "InstancePlatform": block.platform,
        "AvailabilityZone": row["AvailabilityZone"],
        "Tenancy": "default",
        "TotalInstanceCount": row["InstanceCount"],
        "AvailableInstanceCount": free,
        "State": state,
        "StartDate": row["StartDate"],
        "EndDate": block.end,
        "EndDateType": "limited",
        "InstanceMatchCriteria": "targeted",
        "CreateDate": block.bought_at,
        "Tags": [{"Key": key, "Value": value} for key, value in block.tags.items()],
        "ReservationType": "capacity-block",
    }


class Launches:
    """Launches as EC2 does them, over moto's instances.

    Args:
        market: the blocks.
        launched: told of each launch's instances.
    """

    def __init__(self, market: Market, launched: Callable[[list[Any]], None] = lambda _instances: None) -> None:
        self.market = market
        self.launched = launched
        self.tokens: dict[str, tuple[str, Any]] = {}

    def members(self, backend: Any, identifier: str) -> list[Any]:
        """Instances of a block that hold a slot."""
        instances = [instance for reservation in backend.reservations.values() for instance in reservation.instances]
        return [
            instance
            for instance in instances
            if getattr(instance, "capacity_reservation_id", None) == identifier and instance.state != "terminated"
        ]

    def reap(self, backend: Any) -> None:
        """Terminate what time takes away: half an hour before a block's end."""
        now = self.market.now
        for block in self.market.sold.values():
            members = self.members(backend, block.id)
            if members and now >= block.end - TERMINATION:
                backend.terminate_instances([instance.id for instance in members])

    def refuse_wrong(self, backend: Any, asked: dict[str, Any]) -> Sold | None:
        """The block that a launch goes into; none for on-demand.

        Raises:
            RefusedError: EC2 would not take it.
        """
        specification = asked.get("CapacityReservationSpecification") or {}
        identifier = (specification.get("CapacityReservationTarget") or {}).get("CapacityReservationId")
        by_market = (asked.get("InstanceMarketOptions") or {}).get("MarketType") == "capacity-block"
        interfaces = asked.get("NetworkInterfaces") or []
        if len(interfaces) > 1 and any(_true(row.get("AssociatePublicIpAddress")) for row in interfaces):
            raise RefusedError("InvalidParameterCombination", "A public address cannot be given to several interfaces")
        places = [(row.get("NetworkCardIndex", 0), row.get("DeviceIndex")) for row in interfaces]
        if len(set(places)) != len(places):
            raise RefusedError("InvalidParameterValue", "Two interfaces have the same card and device index")
        if not identifier and not by_market:
            return None
        if not (identifier and by_market):
            raise RefusedError(
                "InvalidParameterCombination", "A block needs its reservation and the market capacity-block"
            )
        block = self.market.block(identifier)
        if block.state(self.market.now) != "active" or self.market.now >= block.end - TERMINATION:
            raise RefusedError("InsufficientInstanceCapacity", f"{identifier} is not active")
        if asked["InstanceType"] != block.row["InstanceType"]:
            raise RefusedError("InvalidParameterCombination", f"{identifier} has {block.row['InstanceType']}")
        subnet = backend.get_subnet(interfaces[0]["SubnetId"] if interfaces else asked.get("SubnetId"))
        if subnet.availability_zone != block.row["AvailabilityZone"]:
            raise RefusedError("InvalidParameterCombination", f"{identifier} is in {block.row['AvailabilityZone']}")
        if len(self.members(backend, identifier)) + int(asked["MinCount"]) > block.row["InstanceCount"]:
            raise RefusedError("ReservationCapacityExceeded", f"{identifier} has no free slot")
        return block

    def run(self, response: Any, asked: dict[str, Any], launch: Callable[[], Any]) -> Any:
        """Launch once for each client token.

        Args:
            response: moto's, of this request.
            asked: the request.
            launch: moto's own launch.

        Raises:
            RefusedError: EC2 would not take it.
        """
        backend = response.ec2_backend
        said = json.dumps(asked, sort_keys=True, default=str)
        token = asked.get("ClientToken")
        if token in self.tokens:
            before, answer = self.tokens[token]
            if before != said:
                raise RefusedError("IdempotentParameterMismatch", "The client token was used with other parameters")
            return answer
        block = self.refuse_wrong(backend, asked)
        answer = launch()
        if block:
            for instance in answer.result.instances:
                instance.capacity_reservation_id = block.id
                instance.lifecycle = "capacity-block"
        self.launched(answer.result.instances)
        if token:
            self.tokens[token] = (said, answer)
        return answer


def _true(value: Any) -> bool:
    return str(value).lower() == "true"


def _tags(response: Any) -> dict[str, str]:
    """Tags that a request gives a capacity reservation."""
    specifications = response._get_param("TagSpecifications", [])
    rows = [row for one in specifications if one.get("ResourceType") == "capacity-reservation" for row in one["Tags"]]
    return {row["Key"]: row["Value"] for row in rows}


def _filtered(rows: list[dict[str, Any]], filters: dict[str, list[str]]) -> list[dict[str, Any]]:
    """The reservations that filters let through; those that the product asks by."""

    def value(row: dict[str, Any], name: str) -> str:
        if name.startswith("tag:"):
            return next((tag["Value"] for tag in row["Tags"] if tag["Key"] == name[4:]), "")
        keys = {"state": "State", "instance-type": "InstanceType", "availability-zone": "AvailabilityZone"}
        if name not in keys:
            raise RefusedError("InvalidParameterValue", f"The filter '{name}' is invalid")
        return str(row[keys[name]])

    return [row for row in rows if all(value(row, name) in wanted for name, wanted in filters.items())]


class Operations:
    """EC2's operations on capacity blocks, each on moto's response of a request.

    Args:
        market: what is for sale and what was sold.
        run: moto's own launch.
        describe: moto's own look at instances.
        launched: told of each launch's instances.
    """

    def __init__(
        self,
        market: Market,
        run: Callable[[Any], Any],
        describe: Callable[[Any], Any],
        launched: Callable[[list[Any]], None],
    ) -> None:
        self.market = market
        self.launches = Launches(market, launched)
        self.moto_run = run
        self.moto_describe = describe

    def describe_capacity_block_offerings(self, response: Any) -> dict[str, Any]:
        """Offers that meet the words."""
        found = self.market.offers(
            response._get_param("InstanceType"),
            int(response._get_param("InstanceCount", 1)),
            int(response._get_param("CapacityDurationHours")),
            self._moment(response, "StartDateRange"),
        )
        latest = self._moment(response, "EndDateRange")
        return {"CapacityBlockOfferings": [row for row in found if not latest or row["EndDate"] <= latest]}

    def _moment(self, response: Any, name: str) -> datetime | None:
        """A time of a request, by the stand-in's clock."""
        found = _moment(response, name)
        return found - self.market.said_later if found else None

    def purchase_capacity_block(self, response: Any) -> dict[str, Any]:
        """Sell a block."""
        offering = response._get_param("CapacityBlockOfferingId")
        block = self.market.buy(offering, response._get_param("InstancePlatform"), _tags(response))
        return {"CapacityReservation": _reservation(self.market, block, 0)}

    def describe_capacity_reservations(self, response: Any) -> dict[str, Any]:
        """Blocks by their ids, or all."""
        wanted = response._get_param("CapacityReservationIds", [])
        blocks = [self.market.block(identifier) for identifier in wanted] or list(self.market.sold.values())
        backend = response.ec2_backend
        rows = [_reservation(self.market, block, len(self.launches.members(backend, block.id))) for block in blocks]
        return {"CapacityReservations": _filtered(rows, response._filters_from_querystring())}

    def describe_capacity_block_extension_offerings(self, response: Any) -> dict[str, Any]:
        """Extensions that are for sale."""
        hours = int(response._get_param("CapacityBlockExtensionDurationHours"))
        found = self.market.extension_offers(response._get_param("CapacityReservationId"), hours)
        return {"CapacityBlockExtensionOfferings": found}

    def purchase_capacity_block_extension(self, response: Any) -> dict[str, Any]:
        """Sell an extension."""
        offering = response._get_param("CapacityBlockExtensionOfferingId")
        bought = self.market.extend(response._get_param("CapacityReservationId"), offering)
        return {"CapacityBlockExtensions": [bought]}

    def describe_capacity_block_extension_history(self, response: Any) -> dict[str, Any]:
        """Extensions that were sold, paid or not."""
        wanted = response._get_param("CapacityReservationIds", []) or list(self.market.sold)
        return {"CapacityBlockExtensions": [row for one in wanted for row in self.market.block(one).extensions]}

    def run_instances(self, response: Any) -> Any:
        """Launch by EC2's rules what moto launches."""
        given = {name: response._get_param(name) for name in _LAUNCH_WORDS}
        asked = {name: value for name, value in given.items() if value is not None}
        return self.launches.run(response, asked, lambda: self.moto_run(response))

    def describe_instances(self, response: Any) -> Any:
        """Instances, after what time took away."""
        return self.moto_describe(response)


#: Operations that ask for a dry run themselves, after their own checks.
_OWN_DRY_RUN = ("run_instances", "describe_instances")
_LAUNCH_WORDS = (
    *("ImageId", "InstanceType", "MinCount", "MaxCount", "ClientToken", "NetworkInterfaces", "SubnetId", "KeyName"),
    *("CapacityReservationSpecification", "InstanceMarketOptions", "UserData", "TagSpecifications"),
)


def _moment(response: Any, name: str) -> datetime | None:
    """A time of a request."""
    text = response._get_param(name)
    if text is None:
        return None
    found = text if isinstance(text, datetime) else datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _have_neurons_parameters(market: Market) -> Callable[[], None]:
    """Have moto's SSM know Neuron's public parameters, which nobody may put there; what is returned takes them back."""
    from moto.ssm.models import Parameter, ParameterDict

    seam = "_check_loading_status"
    before = getattr(ParameterDict, seam)

    def look(self: Any, key: str) -> None:
        before(self, key)
        if not str(key or "").startswith(NEURON_PARAMETERS):
            return
        for end in IMAGES:
            name = f"{NEURON_PARAMETERS}{end}/latest/image_id"
            row = Parameter(  # type: ignore[abstract]  # moto makes them too
                account_id=self.account_id,
                name=name,
                value=market.image,
                parameter_type="String",
                description=None,
                allowed_pattern=None,
                keyid=None,
                last_modified_date=market.now.replace(tzinfo=None),
                version=1,
                data_type="aws:ec2:image",
            )
            dict.__setitem__(self, name, [row])

    setattr(ParameterDict, seam, look)

    def take_back() -> None:
        setattr(ParameterDict, seam, before)

    return take_back


#: What takes back the market that moto's EC2 was taught last: moto is the whole process's, and knows one at a time.
_TAUGHT: list[Callable[[], None]] = []


def uninstall() -> None:
    """Have moto's EC2 as it was before any market."""
    while _TAUGHT:
        _TAUGHT.pop()()


def let_time_pass(market: Market) -> None:
    """Have happen what time brings, in the market and to instances."""
    from moto.ec2.models import ec2_backends

    market.tick()
    Launches(market).reap(ec2_backends[ACCOUNT][REGION])


def install(market: Market, launched: Callable[[list[Any]], None] = lambda _instances: None) -> Callable[[], None]:
    """Teach moto's EC2 the market, in the place of one that it was taught before; what is returned takes it back.

    Args:
        market: what is for sale.
        launched: told of each launch's instances.
    """
    uninstall()
    from moto.core.responses import ActionResult
    from moto.ec2.exceptions import EC2ClientError
    from moto.ec2.responses import EC2Response

    operations = Operations(market, EC2Response.run_instances, EC2Response.describe_instances, launched)
    names = [name for name in vars(Operations) if not name.startswith("_")]
    before = {name: vars(EC2Response).get(name) for name in names}

    def taught(name: str) -> Callable[[Any], Any]:
        """One operation: time first, refusals as EC2's errors, then a dry run."""

        def answer(self: Any) -> Any:
            market.tick()
            operations.launches.reap(self.ec2_backend)
            refusal = market.refuse.get("".join(part.capitalize() for part in name.split("_")))
            try:
                if refusal:
                    raise RefusedError(*refusal)
                if name not in _OWN_DRY_RUN:
                    self.error_on_dryrun()
                found = getattr(operations, name)(self)
            except RefusedError as error:
                raise EC2ClientError(error.code, error.message) from error
            return ActionResult(market.said(found)) if isinstance(found, dict) else found

        return answer

    for name in names:
        setattr(EC2Response, name, taught(name))

    take_back = _have_neurons_parameters(market)

    def restore() -> None:
        take_back()
        for name, method in before.items():
            if method is None:
                delattr(EC2Response, name)
            else:
                setattr(EC2Response, name, method)

    _TAUGHT.append(restore)
    return uninstall
