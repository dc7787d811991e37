# SPDX-License-Identifier: Apache-2.0
"""The waves of a roll: which replicas move together, beside whom, and at what weight they come back.

Standard library only.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Dict, List, Mapping, Sequence, Set, Tuple

from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.moves import REPLACE, RETIRE, Move
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.state import (
    Fleet,
    RollError,
    Seat,
    Settings,
    Target,
    share_of,
)

PEERS_WATCHED = 8
"""So many peers are enough to compare with, and few enough to ask at the same time in any fleet."""


@dataclass(frozen=True)
class Peer:
    """A replica that what was rolled is compared with, and the weights that it serves at that time."""

    target: Target
    weights: str


@dataclass(frozen=True)
class Wave:
    """Replicas that move together.

    ``left`` is how many of each model stay in rotation meanwhile; ``peers`` serve the same models undisturbed.
    ``weights`` are those to be set at readmission, ``weights_after`` those of the same replicas when they have proved
    themselves or were brought back, by replica id in percent.
    """

    number: int
    batch: int
    canary: bool
    moves: Tuple[Move, ...]
    left: Mapping[str, int]
    watch_s: float
    seconds: float
    peers: Tuple[Peer, ...] = ()
    weights: Mapping[str, int] = field(default_factory=dict)
    weights_after: Mapping[str, int] = field(default_factory=dict)


@dataclass
class _Standing:
    """Who serves and what has moved, while the waves are laid one after the other.

    Attributes:
        rotation: how many replicas of each name are in rotation.
        up: ids of the replicas in rotation.
        serving: those of them that are still to move.
        done: keys of the moves that are made, and ids of the replicas that need none.
    """

    rotation: Counter[str]
    up: Set[str]
    serving: Set[str]
    done: Set[str]

    @classmethod
    def before(cls, fleet: Fleet, moves: Sequence[Move]) -> _Standing:
        """Return how a fleet stands before the first wave."""
        everyone = [target for target in (*fleet.targets, *fleet.spares) if fleet.in_rotation(target)]
        up = {target.id for target in everyone}
        return cls(
            rotation=Counter(target.served_name for target in everyone),
            up=up,
            serving={move.target.id for move in moves} & up,
            done={target.id for target in fleet.targets} - {move.key for move in moves},
        )

    def make(self, moves: Sequence[Move]) -> None:
        """Note that a wave's moves are made."""
        for move in moves:
            self.done.add(move.key)
            self.rotation[move.target.served_name] += int(move.admit) - int(move.target.id in self.serving)
            for names in (self.up, self.serving):
                (names.add if move.admit else names.discard)(move.target.id)


def lay_waves(
    fleet: Fleet, settings: Settings, moves: Sequence[Move], floor: Mapping[str, int], beside: Sequence[Peer]
) -> List[Wave]:
    """Form waves so that no model falls below its floor.

    Replicas that serve nobody now come first, whatever their batch: bringing them back costs no capacity and may give
    the rest of the roll the room that it needs. Those that wait for cores of others move with their host.

    The canary is the first of those that leave rotation; where all were stopped before, as for a change of their host's
    SDK, it is the first that comes back on another release.

    Args:
        fleet: what is wanted and what is.
        settings: how to roll.
        moves: what happens to each replica, in order.
        floor: replicas of each name that have to stay in rotation.
        beside: replicas in rotation on hosts that have no part in the roll.

    Raises:
        RollError: a name cannot spare a replica, with the ways on.
    """
    standing = _Standing.before(fleet, moves)
    repairs, rolls = _repairs_and_rolls(moves, standing)
    canary_due = _all_were_stopped(repairs, rolls)
    waves: List[Wave] = []
    for batch, members in _queue(repairs, rolls, settings):
        pending = members
        canary_due = canary_due or batch > 0
        while pending:
            canary = canary_due and not any(wave.canary for wave in waves)
            chosen = _choose(pending, standing, floor, 1 if canary else settings.at_once)
            if not chosen and all(move.kind == RETIRE for move in pending):
                # Others are missing, and these serve: they may as well go on.
                break
            if not chosen:
                raise RollError(_floor_problems(fleet, pending, standing.rotation, floor, settings))
            wave = _wave(len(waves) + 1, batch, canary and chosen[0].kind != RETIRE, chosen, standing, settings)
            waves.append(_with_peers(wave, fleet, standing, beside, settings))
            standing.make(chosen)
            pending = [move for move in pending if move not in chosen]
    return waves


def _repairs_and_rolls(moves: Sequence[Move], standing: _Standing) -> Tuple[List[Move], List[Move]]:
    """Divide the moves into those of replicas that serve nobody and wait for nobody, and the others."""
    repairs = [
        move for move in moves if move.kind == REPLACE and move.target.id not in standing.serving and not move.after
    ]
    return repairs, [move for move in moves if move not in repairs]


def _all_were_stopped(repairs: Sequence[Move], rolls: Sequence[Move]) -> bool:
    """Return whether nothing is left to leave rotation, and something comes back on another release."""
    changes = any(move.was not in ("", move.target.release) for move in repairs)
    return changes and all(move.kind == RETIRE for move in rolls)


def _queue(repairs: List[Move], rolls: Sequence[Move], settings: Settings) -> List[Tuple[int, List[Move]]]:
    """Return the moves of each batch with its number; 0 is that of repairs."""
    hosts = list(dict.fromkeys(move.target.host for move in rolls))
    queue = [(0, repairs)] if repairs else []
    for number, members in enumerate(_batches(hosts, settings.batches), start=1):
        queue.append((number, [move for move in rolls if move.target.host in members]))
    return queue


def _batches(hosts: Sequence[str], sizes: Sequence[str]) -> List[List[str]]:
    """Hosts in widening batches; the last size repeats. A batch has at least one host."""
    left = list(hosts)
    batches: List[List[str]] = []
    while left:
        size = max(1, share_of(sizes[min(len(batches), len(sizes) - 1)], len(hosts), up=False))
        batches.append(left[:size])
        left = left[size:]
    return batches


def _choose(
    pending: Sequence[Move],
    standing: _Standing,
    floor: Mapping[str, int],
    limit: int,
) -> List[Move]:
    """Up to ``limit`` moves whose cores are free and whose models can spare them, different hosts first."""
    chosen: List[Move] = []
    left = dict(standing.rotation)

    def spared(move: Move) -> bool:
        """Whether the move can be made in this wave, beside those already chosen."""
        if move in chosen or move.after - standing.done:
            return False
        # What is retired is not readmitted, so its wave takes other steps.
        if chosen and (move.kind == RETIRE) != (chosen[0].kind == RETIRE):
            return False
        return (
            move.target.id not in standing.serving
            or left.get(move.target.served_name, 0) - 1 >= floor[move.target.served_name]
        )

    while len(chosen) < limit:
        busy = Counter(move.target.host for move in chosen)
        # Loads of one host share its memory and its disks: the host with the fewest is next, in the plan's order.
        # Spares stay as long as anything else can be done.
        candidates = sorted(filter(spared, pending), key=lambda move: (move.kind == RETIRE, busy[move.target.host]))
        if not candidates:
            break
        chosen.append(candidates[0])
        if candidates[0].target.id in standing.serving:
            left[candidates[0].target.served_name] -= 1
    return chosen


def _wave(
    number: int,
    batch: int,
    canary: bool,
    moves: Sequence[Move],
    standing: _Standing,
    settings: Settings,
) -> Wave:
    left = dict(standing.rotation)
    for move in moves:
        left.setdefault(move.target.served_name, 0)
        if move.target.id in standing.serving:
            left[move.target.served_name] -= 1
    watch = settings.canary_s if canary else settings.soak_s
    watch = watch if any(move.admit for move in moves) else 0.0
    seconds = max(move.seconds(settings, watch) for move in moves)
    return Wave(number, batch, canary, tuple(moves), left, watch, seconds)


def _with_peers(wave: Wave, fleet: Fleet, standing: _Standing, beside: Sequence[Peer], settings: Settings) -> Wave:
    """Return a wave with those it is compared with, and the weights that its replicas get."""
    others = Counter(peer.target.served_name for peer in beside)
    weights, after = _weights(wave, others, settings)
    peers = _peers(fleet, wave.moves, standing, beside)
    return replace(wave, peers=peers, weights=weights, weights_after=after)


def _weights(wave: Wave, beside: Mapping[str, int], settings: Settings) -> Tuple[Dict[str, int], Dict[str, int]]:
    """Weights at readmission and after it, of the replicas whose weight a wave touches at all.

    ``beside`` counts the replicas of each model that share its traffic and have no part in the roll.
    """
    weights: Dict[str, int] = {}
    after: Dict[str, int] = {}
    for move in wave.moves:
        model = move.target.served_name
        first = move.weight
        if wave.canary and wave.watch_s:
            first = min(first, settings.canary_weight(wave.left[model] + beside.get(model, 0)))
        if move.admit and (first, move.weight_now) != (move.weight, move.weight):
            weights[move.target.id], after[move.target.id] = first, move.weight
    return weights, after


def _peers(fleet: Fleet, moves: Sequence[Move], standing: _Standing, beside: Sequence[Peer]) -> Tuple[Peer, ...]:
    """Replicas that stay in rotation while ``moves`` happen; those on the old release first, for contrast."""
    moving = {move.target.id for move in moves}
    models = {move.target.served_name for move in moves}
    found = [
        Peer(target, target.weights if target.id in standing.done else fleet.seen(target).weights or target.weights)
        for target in fleet.targets
        if target.served_name in models and target.id not in moving and target.id in standing.up
    ]
    found += [peer for peer in beside if peer.target.served_name in models]
    found.sort(key=lambda peer: peer.target.id in standing.done)
    return tuple(found[:PEERS_WATCHED])


def _floor_problems(
    fleet: Fleet, pending: Sequence[Move], rotation: Mapping[str, int], floor: Mapping[str, int], settings: Settings
) -> List[str]:
    """Say for each model that cannot spare a replica: the count, who is out already, and the ways on."""
    problems = []
    for model in dict.fromkeys(move.target.served_name for move in pending):
        targets = [target for target in fleet.targets if target.served_name == model]
        missing = [target for target in targets if not fleet.in_rotation(target)]
        why = "; ".join("{0} ({1})".format(target.id, absence(fleet, target)) for target in missing)
        problems.append(
            "{0}: {1} of {2} replicas are in rotation and the floor is {3}, so none can be taken out.{4} {5}".format(
                model,
                rotation.get(model, 0),
                len(targets),
                floor[model],
                " Out already: {0}.".format(why) if why else "",
                "Bring those back first, or lower the floor (`trainyard_redeploy: {floor: ...}`)."
                if missing
                else "Lower it (`trainyard_redeploy: {{floor: {0}}}`); it costs capacity while a replica loads.".format(
                    max(0, rotation.get(model, 0) - settings.at_once)
                ),
            )
        )
    return problems


def absence(fleet: Fleet, target: Target) -> str:
    """Return why a replica serves nobody: its unit, or its state at each router."""
    seen = fleet.seen(target)
    if seen.active != "active":
        return "unit {0}".format(seen.active)
    if seen.unwell:
        return seen.unwell
    seats = fleet.seats_of(target)
    if not seats:
        return "no router knows it"
    return ", ".join("{0} at {1}".format(_seat_words(seat), router) for router, seat in sorted(seats.items()))


def _seat_words(seat: Seat) -> str:
    return seat.state if seat.state != "ready" else "down"
