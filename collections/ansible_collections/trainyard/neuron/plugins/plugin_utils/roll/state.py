# SPDX-License-Identifier: Apache-2.0
"""What a roll knows before it decides: wanted replicas, what the hosts run, what the routers do, the settings.

The dictionaries come from the plan, from ``trainyard.neuron.replica_info`` and from the routers.
They are read into frozen records here, once, so that everything after this module is typed. Standard library only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Dict, FrozenSet, List, Mapping, Optional, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.settings import REDEPLOY, STRATEGIES
from ansible_collections.trainyard.neuron.plugins.module_utils.routing.haproxy import FULL_WEIGHT
from ansible_collections.trainyard.neuron.plugins.module_utils.serving.replica import unknown_words

AUTO, ROLLING, BLUE_GREEN = STRATEGIES
ELSEWHERE = "elsewhere"
"""Stands among the routers for those that trainyard does not run, and reaches through hooks."""


class RollError(ValueError):
    """A roll that must not begin. ``problems`` holds every reason, each with its way out."""

    def __init__(self, problems: List[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class Settings:
    """How to roll.

    Attributes:
        strategy: ``auto`` has a replica on a spare slice stand in where the plan has one and its host's memory is known
            to hold it, ``blue_green`` refuses to roll without, ``rolling`` uses none.
        at_once: replicas of the fleet that may be out of rotation at the same time because of the roll.
        floor: replicas of each model that must stay in rotation: a count, ``"75%"`` of the planned ones, or ``"auto"``
            (all but ``at_once``, and at least one).
        batches: hosts of each batch, widening: counts or percentages; the last one repeats until all are done.
        canary_share: share of a model's requests in flight that the first replica gets while it is watched.
        drain_deadline_s: how long the requests of a replica may take to end.
        drain_policy: what then: ``wait`` on, ``abort`` what is left, or ``fail`` (readmit the replica, stop the roll).
        drain_assumed_s: what the estimate counts for a drain.
        load_assumed_s: what the estimate counts for a load that was never seen.
        calibration: file of constants by which such a load is forecast instead.
        soak_s: how long a readmitted replica is watched before the next one.
        canary_s: the same for the first replica of the roll, which is compared with its peers; 0 compares none.
        gate_s: what the estimate counts for stop, switch, and the completions of the gate.
        start_timeout_s: how long a start may take, with its gate.
        stop_timeout_s: how long a stop may take.
    """

    strategy: str = AUTO
    at_once: int = 1
    floor: str = "auto"
    batches: Tuple[str, ...] = ("1", "25%", "100%")
    canary_share: str = "10%"
    drain_deadline_s: float = 900.0
    drain_policy: str = "fail"
    drain_assumed_s: float = 60.0
    load_assumed_s: float = 900.0
    calibration: Optional[str] = None
    soak_s: float = 10.0
    canary_s: float = 120.0
    gate_s: float = 5.0
    start_timeout_s: float = 3660.0
    stop_timeout_s: float = 300.0

    @property
    def router_timeout_s(self) -> float:
        """How long the routers wait for a drain: the deadline, or a year where the policy is to wait."""
        return 365 * 86400.0 if self.drain_policy == "wait" else self.drain_deadline_s

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Settings:
        """Read settings; unknown names and senseless values are refused, all at once.

        Raises:
            RollError: naming each setting, its value, and what is possible.
        """
        values, problems = REDEPLOY.read(raw)
        if problems:
            raise RollError([str(problem) for problem in problems])
        for name in values:
            if name.endswith("_s"):
                values[name] = float(values[name])
        return cls(**values)

    def canary_weight(self, others: int) -> int:
        """Weight in percent by which one replica gets its share of a model beside ``others``, and never more than they.

        A router that counts requests in flight gives an idle replica one at a time, whatever its weight.
        """
        share = int(self.canary_share[:-1]) / 100
        if share >= 1 or not others:
            return FULL_WEIGHT
        return max(1, min(FULL_WEIGHT, round(FULL_WEIGHT * share * others / (1 - share))))

    def floor_of(self, planned: int) -> int:
        """Replicas of a model with ``planned`` replicas that must stay in rotation."""
        if self.floor == "auto":
            return max(1, planned - self.at_once)
        return share_of(self.floor, planned, up=True)


@dataclass(frozen=True)
class Target:
    """One replica as the plan wants it. ``served_name`` is what clients ask the routers for."""

    id: str
    name: str
    host: str
    unit: str
    served_name: str
    deployment: str
    release: str
    cores: Tuple[int, int]
    url: str
    weights: str
    address: str = ""
    port: int = 0
    credentials: str = ""

    @classmethod
    def from_plan(cls, host: str, raw: Mapping[str, Any]) -> Target:
        """Read one entry of the plan's ``hosts.<host>.replicas``.

        Raises:
            RollError: a word that no replica of a plan has, with the nearest one.
        """
        problems = unknown_words(raw, "the plan of {0}".format(raw.get("id") or host))
        if problems:
            raise RollError(problems)
        first, _, last = str(raw["cores"]).partition("-")
        return cls(
            id=raw["id"],
            name=raw["name"],
            host=host,
            unit=raw["unit"],
            served_name=raw["served_name"],
            deployment=raw["deployment"],
            release=raw["release"],
            cores=(int(first), int(last or first)),
            url=raw["url"],
            weights=raw["weights"],
            address=raw.get("address", ""),
            port=raw.get("port", 0),
            credentials=raw.get("credentials", ""),
        )


@dataclass(frozen=True)
class Observed:
    """One replica as its host reports it (``trainyard.neuron.replica_info``).

    Attributes:
        active: systemd's active state: ``active``, ``activating``, ``deactivating``, ``inactive`` or ``failed``.
        running: release of the running main process, empty if none runs.
        current: release that a start would take, empty if none was ever switched to.
        previous: release before that.
        staged: complete releases on the host.
        load_s: how long the last start took until it was gated.
        cores: first and last core of the running release.
        weights: id of the weights that it serves.
        served_name: name that it serves them under.
        credentials: what tells the key that it asks for from another; empty if it asks for none.
        url: where its server listens.
        pending: what an unfinished roll wrote down about this replica (see `journal`), or None.
        unwell: why it serves nobody though its unit is active, as somebody found who asked it; empty where nobody did.
    """

    active: str = "inactive"
    running: str = ""
    current: str = ""
    previous: str = ""
    staged: Tuple[str, ...] = ()
    load_s: Optional[float] = None
    cores: Optional[Tuple[int, int]] = None
    weights: str = ""
    served_name: str = ""
    credentials: str = ""
    url: str = ""
    pending: Optional[Mapping[str, Any]] = None
    unwell: str = ""

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Observed:
        """Read one entry of ``replica_info``'s ``replicas``."""
        cores = raw.get("cores")
        return cls(
            active=raw.get("active") or "inactive",
            running=raw.get("running") or "",
            current=raw.get("current") or "",
            previous=raw.get("previous") or "",
            staged=tuple(raw.get("staged") or ()),
            load_s=raw.get("load_s"),
            cores=(int(cores[0]), int(cores[1])) if cores else None,
            weights=raw.get("weights") or "",
            served_name=raw.get("served_name") or "",
            credentials=raw.get("credentials") or "",
            url=raw.get("url") or "",
            pending=raw.get("pending") or None,
        )

    @property
    def unfinished(self) -> bool:
        """True if a roll took this replica out of rotation and never brought it back."""
        return bool(self.pending and self.pending.get("admitted"))


@dataclass(frozen=True)
class Seat:
    """One server of one router: administrative state (``ready``, ``drain``, ``maint``), health, weight in percent."""

    state: str
    up: bool = True
    sessions: int = 0
    weight: int = FULL_WEIGHT

    @property
    def in_rotation(self) -> bool:
        """True if the router sends new requests here."""
        return self.state == "ready" and self.up


@dataclass(frozen=True)
class Fleet:
    """All that a roll decides from.

    ``observed`` is keyed by replica id and ``seats`` by router and replica id. ``silent`` names hosts and routers that
    did not answer, ``measured`` those hosts whose memory the plan knows. ``spares`` are the further replicas of the
    plan that serve only while a roll needs them (see `roll.spares`).
    """

    targets: Tuple[Target, ...]
    observed: Mapping[str, Observed]
    seats: Mapping[str, Mapping[str, Seat]]
    silent: Tuple[str, ...] = ()
    extra: Mapping[str, str] = field(default_factory=dict)
    spares: Tuple[Target, ...] = ()
    measured: FrozenSet[str] = frozenset()

    def seen(self, target: Target) -> Observed:
        """What the host said about a replica; a replica that it does not know is one that never ran."""
        return self.observed.get(target.id, Observed())

    def seats_of(self, target: Target) -> Dict[str, Seat]:
        """The replica's seat at each router that has one."""
        return {router: seats[target.id] for router, seats in self.seats.items() if target.id in seats}

    def holders(self, target: Target) -> Dict[str, Tuple[int, int]]:
        """Other replicas on the host of ``target`` that run on cores it is to have, and their cores."""
        prefix = target.host + ":"
        return {
            name: seen.cores
            for name, seen in self.observed.items()
            if name.startswith(prefix)
            and name != target.id
            and seen.running
            and seen.cores
            and overlap(seen.cores, target.cores)
        }

    def in_rotation(self, target: Target) -> bool:
        """True if the unit is active and at least one router sends it requests.

        Without any router, an active unit counts.
        """
        if self.seen(target).active != "active" or self.seen(target).unwell:
            return False
        return not self.seats or any(seat.in_rotation for seat in self.seats_of(target).values())


def overlap(left: Tuple[int, int], right: Tuple[int, int]) -> bool:
    """Whether two ranges of cores, first and last, have one in common."""
    return left[0] <= right[1] and right[0] <= left[1]


def share_of(text: str, total: int, up: bool) -> int:
    """A count, or a percentage of ``total`` rounded up or down."""
    if not text.endswith("%"):
        return int(text)
    exact = total * int(text[:-1]) / 100
    return math.ceil(exact) if up else math.floor(exact)
