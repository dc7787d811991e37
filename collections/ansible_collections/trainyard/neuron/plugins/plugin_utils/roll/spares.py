# SPDX-License-Identifier: Apache-2.0
"""Blue/green: a replica on a spare slice serves while a roll replaces the others of its deployment on its host.

A spare is a replica of the plan like any other, with cores, port, unit and release of its own; only that nobody starts
it but a roll. There it is *raised* on the new release, gated, and admitted (the first of a roll is its canary, so a
release that is no good never takes the place of one that serves); then the replicas move one by one as in any roll,
each on its own slice; then the spare is *retired*: drained, stopped, its slice free again.

Why the spare does not stay, with the last replica's slice as the next spare: which of the slices are in use would then
be state that plan, routers and every later run depend on. So one more load for each host buys that what runs after a
roll is what the plan says, whatever came before: the second run does nothing, a rollback goes the same way, and an
interrupted roll needs no memory. A spare that is found running is used, or retired when nothing is left to roll.
Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Dict, List, Sequence, Set

from ansible_collections.trainyard.neuron.plugins.module_utils.routing.haproxy import FULL_WEIGHT
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.moves import RAISE, RETIRE, Move
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.state import (
    AUTO,
    BLUE_GREEN,
    ELSEWHERE,
    ROLLING,
    Fleet,
    Settings,
    Target,
)


@dataclass
class StandIns:
    """A roll's moves with those of the spares among them.

    Attributes:
        moves: in order.
        told: for people, what becomes of each spare that could be of use, by its id.
        covered: keys of the moves that one stands in for.
        problems: why the roll cannot be made as it was asked for.
    """

    moves: List[Move]
    told: Dict[str, str] = field(default_factory=dict)
    covered: Set[str] = field(default_factory=set)
    problems: List[str] = field(default_factory=list)


def with_spares(
    fleet: Fleet, settings: Settings, moves: Sequence[Move], require_staged: bool = True, require_spares: bool = True
) -> StandIns:
    """Have spares stand in for the replicas that leave rotation, where the strategy and the hosts allow it.

    Args:
        fleet: what is wanted and what is.
        settings: how to roll.
        moves: of the replicas.
        require_staged: a spare is of use only where its release is complete on its host; a dry run stages nothing.
        require_spares: refuse where `BLUE_GREEN` is asked for and cannot be had. A way back must not fail for that.
    """
    found = StandIns(list(moves))
    for spare in fleet.spares:
        mine = [move for move in moves if (move.target.host, move.target.deployment) == (spare.host, spare.deployment)]
        leaving = [move for move in mine if _leaves(fleet, move)]
        why = cannot_serve(fleet, settings, spare, require_staged) if leaving else ""
        raised: List[Move] = []
        if leaving and not why:
            raised = _raised(fleet, spare, leaving)
            found.covered |= {move.key for move in leaving}
        if leaving:
            found.told[spare.id] = why or "stands in for {0} on cores {1}-{2}".format(
                ", ".join(move.target.id for move in leaving), *spare.cores
            )
        if (leaving and not why) or _left_over(fleet, spare):
            was = spare.release if leaving and not why else fleet.seen(spare).running
            retired = _retired(spare, was, [move.key for move in [*raised, *mine]])
            found.moves = _woven(found.moves, mine, leaving, raised, retired)
    if settings.strategy == BLUE_GREEN and require_spares:
        found.problems = _uncovered(fleet, moves, found)
    return found


def _leaves(fleet: Fleet, move: Move) -> bool:
    """Whether a replica that serves now leaves rotation for the time of its restart."""
    return move.restart and move.admit and fleet.in_rotation(move.target)


def cannot_serve(fleet: Fleet, settings: Settings, spare: Target, require_staged: bool) -> str:
    """Why a spare is not to stand in; empty if it is."""
    seats = fleet.seats_of(spare)
    if settings.strategy == ROLLING:
        return "could stand in on cores {0}-{1}, and the strategy is {2}".format(*spare.cores, ROLLING)
    if ELSEWHERE in fleet.seats and ELSEWHERE not in seats:
        return "is not used: routers that trainyard does not run know no spare"
    if not fleet.seats:
        return "is not used: there is no router that would send it requests"
    # A run stages before it plans, and then every router knows it.
    strangers = [router for router in fleet.seats if router not in seats] if require_staged else []
    if strangers:
        return "is not used: {0} does not know it".format(", ".join(strangers))
    if settings.strategy == AUTO and spare.host not in fleet.measured:
        return (
            "is not used: nobody knows whether the memory of {0} holds one more replica (strategy: {1} uses it all the "
            "same)".format(spare.host, BLUE_GREEN)
        )
    holders = fleet.holders(spare)
    if holders:
        return "is not used: its cores {0}-{1} are held by {2}".format(*spare.cores, ", ".join(sorted(holders)))
    if require_staged and spare.release not in fleet.seen(spare).staged:
        return "is not used: its release {0} is not on its host".format(spare.release)
    return ""


def _left_over(fleet: Fleet, spare: Target) -> bool:
    """Whether a roll that did not come to its end had this spare serve."""
    seen = fleet.seen(spare)
    return bool(seen.running or seen.current or seen.active in ("active", "activating", "deactivating"))


def _raised(fleet: Fleet, spare: Target, leaving: Sequence[Move]) -> List[Move]:
    """The move that has the spare serve; none if it serves already, on the release and with all of its weight."""
    seats = fleet.seats_of(spare)
    seen = fleet.seen(spare)
    weight = min((seat.weight for seat in seats.values()), default=FULL_WEIGHT)
    right = seen.active == "active" and seen.running == spare.release == seen.current
    if right and weight == FULL_WEIGHT and all(seat.in_rotation for seat in seats.values()):
        return []
    return [
        Move(
            target=spare,
            # What it ran before is nothing to go back to: if it is no good, it goes.
            was="",
            reason="stands in on spare cores {0}-{1}".format(*spare.cores),
            drain=fleet.in_rotation(spare),
            restart=not right,
            admit=True,
            load_s=max(move.load_s for move in leaving),
            load_known=all(move.load_known for move in leaving),
            load_forecast=any(move.load_forecast for move in leaving)
            and all(move.load_known or move.load_forecast for move in leaving),
            weight_now=weight,
            kind=RAISE,
        )
    ]


def _retired(spare: Target, was: str, after: Sequence[str]) -> Move:
    """The move that stops the spare; ``was``: what it runs by then, and goes on with if its requests do not end."""
    return Move(
        target=replace(spare, release=""),
        was=was,
        reason="nothing is left to stand in for",
        drain=True,
        restart=False,
        admit=False,
        load_s=0.0,
        load_known=True,
        after=frozenset(after),
        kind=RETIRE,
    )


def _woven(
    moves: Sequence[Move], mine: Sequence[Move], leaving: Sequence[Move], raised: Sequence[Move], retired: Move
) -> List[Move]:
    """The moves with a spare's before the first and after the last of its deployment on its host (`mine`)."""
    keys = {move.key for move in mine}
    waiting = {move.key for move in leaving}
    first = next((at for at, move in enumerate(moves) if move.key in keys), len(moves))
    last = max((at for at, move in enumerate(moves) if move.key in keys), default=len(moves) - 1)
    before = frozenset(move.key for move in raised)
    woven = [replace(move, after=move.after | before) if move.key in waiting else move for move in moves]
    return [*woven[:first], *raised, *woven[first : last + 1], retired, *woven[last + 1 :]]


def _uncovered(fleet: Fleet, moves: Sequence[Move], found: StandIns) -> List[str]:
    """Say for each replica that leaves rotation and that nothing stands in for, why."""
    spares = {(spare.host, spare.deployment): spare for spare in fleet.spares}
    problems = []
    for move in moves:
        if move.key in found.covered or not _leaves(fleet, move):
            continue
        spare = spares.get((move.target.host, move.target.deployment))
        why = "the plan has no spare slice for it: no aligned slice, no memory or no port is free there"
        if spare:
            why = "{0} {1}".format(spare.id, found.told[spare.id])
        problems.append(
            "{0}: {1}. Free a slice, or let it leave rotation while it is replaced (`trainyard_redeploy: {{strategy: "
            "{2}}}`).".format(move.target.id, why, AUTO)
        )
    return problems
