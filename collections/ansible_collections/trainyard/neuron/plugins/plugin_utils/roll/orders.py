# SPDX-License-Identifier: Apache-2.0
"""What a planned roll orders, wave by wave: who does what, and on which terms.

A roll is planned once and its orders travel as variables, since Ansible has no other way from one task to the next.
Written from these records and read back into them by every step, which takes no word that it does not know.
Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Type, TypeVar, Union

from ansible_collections.trainyard.neuron.plugins.module_utils.serving import shape
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.canary import Thresholds
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.hooks import HookReplica
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.moves import REPLACE, RETIRE, Move
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.plan import RollPlan
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.state import RollError, Settings
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.waves import Peer, Wave

RELEASE_WORDS = ("id", "name", "url", "release", "was")
"""What a host has to know about a move (the options of trainyard.neuron.replica_release)."""
WATCH_WORDS = ("id", "url", "served_name")
"""What a host has to know about a replica that it watches (those of trainyard.neuron.roll_watch)."""

_Record = TypeVar("_Record")


@dataclass(frozen=True)
class MoveOrder:
    """What happens to one replica; `Move` has the meaning of each word, `Target` of those about the replica."""

    id: str
    name: str
    host: str
    unit: str
    url: str
    address: str
    port: int
    served_name: str
    was: str
    release: str
    kind: str
    reason: str
    drain: bool
    restart: bool
    admit: bool
    load_s: float
    weights: str

    @classmethod
    def of(cls, move: Move) -> MoveOrder:
        """Return the order of a planned move."""
        words = {field.name for field in fields(cls)}
        return cls(
            **{word: getattr(move.target, word) for word in words & {field.name for field in fields(move.target)}},
            **{word: getattr(move, word) for word in ("was", "kind", "reason", "drain", "restart", "admit")},
            load_s=round(move.load_s, 1),
        )


@dataclass(frozen=True)
class PeerOrder:
    """A replica that stays in rotation and is watched beside those that move; ``weights`` are those that it serves."""

    id: str
    host: str
    url: str
    served_name: str
    weights: str

    @classmethod
    def of(cls, peer: Peer) -> PeerOrder:
        """Return the order about a planned peer."""
        target = peer.target
        return cls(target.id, target.host, target.url, target.served_name, peer.weights)


@dataclass(frozen=True)
class NextWave:
    """The wave after one: what the lead looks at the clock with before everybody goes on."""

    number: int
    seconds: float
    hosts: Tuple[str, ...]


@dataclass(frozen=True)
class WaveOrder:
    """Replicas that move together, and who has a part in it.

    Attributes:
        number: from 1.
        batch: the batch of hosts that it belongs to; 0 is that of repairs.
        canary: it has the first replica of the roll, alone.
        left: replicas of each served name that stay in rotation.
        watch_s: how long it is watched; 0 where it is not.
        weights: weight of a replica at readmission, in percent, where it is not left as it is.
        weights_after: the same when it has proved itself, or was brought back.
        seconds: how long it is estimated to take.
        moves: what happens to each of its replicas.
        peers: those that they are compared with.
        routed: by router, the replicas that it moves out of rotation or into it.
        audience: all that have a part in it, the lead among them.
        next: the wave after it; None for the last one.
    """

    number: int
    batch: int
    canary: bool
    left: Mapping[str, int]
    watch_s: float
    weights: Mapping[str, int]
    weights_after: Mapping[str, int]
    seconds: float
    moves: Tuple[MoveOrder, ...]
    peers: Tuple[PeerOrder, ...]
    routed: Mapping[str, Tuple[str, ...]]
    audience: Tuple[str, ...]
    next: Optional[NextWave] = None

    @classmethod
    def of(cls, wave: Wave, seats: Mapping[str, Sequence[str]], lead: str) -> WaveOrder:
        """Return the order of a planned wave.

        Args:
            wave: the wave.
            seats: by router of ours, the replicas that it serves.
            lead: the host that speaks for all of them.
        """
        moves = tuple(MoveOrder.of(move) for move in wave.moves)
        order = cls(
            number=wave.number,
            batch=wave.batch,
            canary=wave.canary,
            left=dict(wave.left),
            watch_s=wave.watch_s,
            weights=dict(wave.weights),
            weights_after=dict(wave.weights_after),
            seconds=round(wave.seconds, 1),
            moves=moves,
            peers=tuple(PeerOrder.of(peer) for peer in wave.peers),
            routed={
                router: tuple(move.id for move in moves if (move.drain or move.admit) and move.id in names)
                for router, names in seats.items()
            },
            audience=(),
        )
        watching = order.watching() if order.watch_s else ()
        return replace(order, audience=tuple(dict.fromkeys((*order.hosts(), *seats, lead, *watching))))

    def hosts(self) -> List[str]:
        """Return the hosts on which a replica moves."""
        return list(dict.fromkeys(move.host for move in self.moves))

    def on(self, host: str) -> List[Dict[str, Any]]:
        """Return what a host has to know about its moves."""
        return [{word: getattr(move, word) for word in RELEASE_WORDS} for move in self.moves if move.host == host]

    def watching(self) -> List[str]:
        """Return the hosts that have a replica to watch."""
        return list(dict.fromkeys([move.host for move in self.moves] + [peer.host for peer in self.peers]))

    def watched_on(self, host: str) -> List[Dict[str, Any]]:
        """Return what a host has to know about the replicas that it watches."""
        items: Tuple[Union[MoveOrder, PeerOrder], ...] = (*self.moves, *self.peers)
        return [{word: getattr(item, word) for word in WATCH_WORDS} for item in items if item.host == host]

    def retired(self) -> List[str]:
        """Return the ids of the spares that are stopped again."""
        return [move.id for move in self.moves if move.kind == RETIRE]

    def to_dict(self) -> Dict[str, Any]:
        """Return the JSON-ready form, with the rows that task files of a user read."""
        return {
            **vars(self),
            "left": dict(self.left),
            "weights": dict(self.weights),
            "weights_after": dict(self.weights_after),
            "moves": [dict(vars(move)) for move in self.moves],
            "peers": [dict(vars(peer)) for peer in self.peers],
            "routed": {router: list(names) for router, names in self.routed.items()},
            "audience": list(self.audience),
            "next": {**vars(self.next), "hosts": list(self.next.hosts)} if self.next else None,
            "touched": [move.id for move in self.moves if move.drain or move.admit],
            "hook_replicas": [HookReplica.of(move.host, vars(move)).to_dict() for move in self.moves],
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> WaveOrder:
        """Read what `to_dict` gave.

        Raises:
            RollError: a word that is missing, unknown, or of another kind; all of them at once.
        """
        return _read(
            cls,
            raw,
            "wave {0}: ".format(raw.get("number", "")),
            beside=("touched", "hook_replicas"),
            moves=lambda rows: tuple(_read(MoveOrder, row, "moves: ") for row in rows),
            peers=lambda rows: tuple(_read(PeerOrder, row, "peers: ") for row in rows),
            routed=lambda rows: {router: tuple(names) for router, names in rows.items()},
            audience=tuple,
            next=lambda row: _read(NextWave, row, "next: ", hosts=tuple) if row else None,
        )


@dataclass(frozen=True)
class Terms:
    """What holds for every wave of a roll.

    Attributes:
        run: the id of the run that rolls.
        owner: who runs it, and where.
        pid: its process on the controller.
        verb: redeploy or rollback.
        lease_s: how long a lock holds after a wave begins.
        lead: the host that speaks for all of them.
        hosts: those that have replicas in the roll.
        routers: routers of ours that serve a replica.
        waves: how many there are.
        settings: how to roll.
        thresholds: how much worse than its peers a replica may be.
        golden: prompts whose completions are compared.
        hooks: task files of the user, by kind.
    """

    run: str
    owner: str
    pid: int
    verb: str
    lease_s: float
    lead: str
    hosts: Tuple[str, ...]
    routers: Tuple[str, ...]
    waves: int
    settings: Settings
    thresholds: Thresholds
    golden: Tuple[str, ...]
    hooks: Mapping[str, Tuple[str, ...]]

    def to_dict(self) -> Dict[str, Any]:
        """Return the JSON-ready form."""
        settings = {**vars(self.settings), "batches": list(self.settings.batches)}
        return {
            **vars(self),
            "hosts": list(self.hosts),
            "routers": list(self.routers),
            "golden": list(self.golden),
            "settings": settings,
            "thresholds": dict(vars(self.thresholds)),
            "hooks": {kind: list(names) for kind, names in self.hooks.items()},
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Terms:
        """Read what `to_dict` gave.

        Raises:
            RollError: a word that is missing, unknown, or of another kind; all of them at once.
        """
        return _read(
            cls,
            raw,
            "the roll's terms: ",
            settings=Settings.from_dict,
            thresholds=Thresholds.from_dict,
            hosts=tuple,
            routers=tuple,
            golden=tuple,
            hooks=lambda rows: {kind: tuple(names) for kind, names in rows.items()},
        )


@dataclass(frozen=True)
class RollOrder:
    """A whole roll.

    Attributes:
        waves: in order.
        terms: what holds for all of them.
        out: replicas that are out of rotation and stay so, with the reason.
    """

    waves: Tuple[WaveOrder, ...]
    terms: Terms
    out: Mapping[str, str]

    @classmethod
    def of(cls, plan: RollPlan, seats: Mapping[str, Sequence[str]], terms: Terms) -> RollOrder:
        """Return the orders of a planned roll.

        Args:
            plan: the roll.
            seats: by router of ours, the replicas that it serves.
            terms: what holds for all waves.
        """
        waves = [WaveOrder.of(wave, seats, terms.lead) for wave in plan.waves]
        for index, after in enumerate(waves[1:]):
            hosts = tuple(sorted(after.hosts()))
            waves[index] = replace(waves[index], next=NextWave(after.number, after.seconds, hosts))
        return cls(tuple(waves), terms, dict(plan.out))

    def to_dict(self) -> Dict[str, Any]:
        """Return the JSON-ready form, with what each host looks up: its moves, and the waves that it is part of."""
        moves: Dict[str, List[Dict[str, Any]]] = {host: [] for host in self.terms.hosts}
        waves_of: Dict[str, List[int]] = {}
        for index, wave in enumerate(self.waves):
            for move in wave.moves:
                # Of a spare nothing is to be remembered: what is found of it says all.
                if move.kind == REPLACE:
                    moves[move.host].append(dict(vars(move)))
            for name in wave.audience:
                waves_of.setdefault(name, []).append(index)
        return {
            "waves": [wave.to_dict() for wave in self.waves],
            "terms": self.terms.to_dict(),
            "out": dict(self.out),
            "moves": moves,
            "waves_of": waves_of,
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> RollOrder:
        """Read what `to_dict` gave.

        Raises:
            RollError: a word that is missing, unknown, or of another kind.
        """
        return _read(
            cls,
            raw,
            "the roll: ",
            beside=("moves", "waves_of"),
            waves=lambda rows: tuple(WaveOrder.from_dict(row) for row in rows),
            terms=Terms.from_dict,
        )


def _read(
    kind: Type[_Record],
    raw: Mapping[str, Any],
    within: str,
    beside: Sequence[str] = (),
    **readers: Callable[[Any], Any],
) -> _Record:
    entries = kind.__dataclass_fields__  # type: ignore[attr-defined]  # every kind here is a dataclass
    words = list(entries)
    needed = [word for word in words if not entries[word].type.startswith("Optional")]
    problems = shape.problems(kind, raw, needed, beside, within)
    if problems:
        raise RollError(problems)
    return kind(**{word: readers[word](raw.get(word)) if word in readers else raw.get(word) for word in words})
