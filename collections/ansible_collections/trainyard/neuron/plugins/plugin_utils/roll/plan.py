# SPDX-License-Identifier: Apache-2.0
"""The plan of a roll: which replica, when, through which steps, at what cost in capacity and time.

`plan_roll` is a pure function of the fleet and the settings. It does not remember: what an interrupted roll left
behind is part of what the hosts and routers report, so planning again *is* resuming. Standard library only.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.routing.haproxy import FULL_WEIGHT
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.moves import RAISE, REPLACE, Move
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.spares import with_spares
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.state import (
    BLUE_GREEN,
    ELSEWHERE,
    Fleet,
    Observed,
    RollError,
    Seat,
    Settings,
    Target,
    overlap,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.waves import Peer, Wave, absence, lay_waves


@dataclass(frozen=True)
class RollPlan:
    """The whole roll.

    Attributes:
        waves: in order; empty if nothing is to be done.
        unchanged: replica ids that already run what they should.
        out: replicas that are out of rotation and stay so, with the reason.
        planned: replicas of each model in the plan.
        floor: replicas of each model that stay in rotation throughout.
        spares: for people, what becomes of each spare that could stand in, by its id.
    """

    waves: Tuple[Wave, ...]
    unchanged: Tuple[str, ...]
    out: Mapping[str, str]
    planned: Mapping[str, int]
    floor: Mapping[str, int]
    settings: Settings = field(default_factory=Settings)
    spares: Mapping[str, str] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Estimated duration of the roll in seconds."""
        return sum(wave.seconds for wave in self.waves)

    def lines(self) -> List[str]:
        """The plan for people: a headline, a line for each replica, then what is not touched and why."""
        moves = [move for wave in self.waves for move in wave.moves]
        if not moves:
            text = ["Nothing to roll: {0} replicas run what they should.".format(len(self.unchanged))]
        else:
            text = [_headline(self, moves)]
            for wave in self.waves:
                text += [_line(self, wave, move) for move in wave.moves]
        text += ["  spare  {0} {1}".format(name, what) for name, what in sorted(self.spares.items())]
        text += ["  left out  {0}: {1}".format(name, why) for name, why in sorted(self.out.items())]
        return text


def plan_roll(
    fleet: Fleet,
    settings: Settings,
    require_staged: bool = True,
    beside: Sequence[Peer] = (),
    require_spares: bool = True,
    only: Optional[Mapping[str, str]] = None,
    loads: Optional[Mapping[str, float]] = None,
) -> RollPlan:
    """Plan the roll of a fleet.

    Args:
        fleet: what is wanted and what is.
        settings: how to roll.
        require_staged: refuse replicas whose wanted release is not complete on their host. A dry run stages nothing
            and so cannot ask for it.
        beside: replicas in rotation on hosts that have no part in the roll; what is rolled is compared with them too.
        require_spares: refuse where the strategy is blue/green and a replica would leave with nothing in its place.
        only: ids of the replicas that may move, each with why it serves nobody, empty where it does; None for all.
        loads: what a load that was never seen is forecast to take, seconds by replica's id.

    Raises:
        RollError: with every reason why this roll must not begin. Nothing was touched.
    """
    if only is not None:
        fleet = _found_unwell(fleet, only)
    moves, unchanged, out = _sort_out(fleet, settings, only, loads or {})
    problems = _silence(fleet) + _renamed(fleet, moves) + not_in_one_roll(fleet)
    problems += _unstaged(fleet, moves) if require_staged else []
    moves, conflicts = _order_by_cores(fleet, moves)
    found = with_spares(fleet, settings, moves, require_staged, require_spares)
    if problems or conflicts or found.problems:
        raise RollError(problems + conflicts + found.problems)
    planned = Counter(target.served_name for target in fleet.targets)
    floor = {model: settings.floor_of(count) for model, count in planned.items()}
    if settings.strategy == BLUE_GREEN and settings.floor == "auto" and require_spares:
        # Nothing in rotation now is to be missed: not even by k replicas at a time.
        up = Counter(target.served_name for target in fleet.targets if fleet.in_rotation(target))
        floor = {model: up[model] for model in planned}
    try:
        waves = lay_waves(fleet, settings, found.moves, floor, beside)
    except RollError as error:
        used = {move.target.id for move in found.moves if move.kind == RAISE}
        unused = ["{0} {1}.".format(name, why) for name, why in found.told.items() if name not in used]
        raise RollError(error.problems + unused) from error
    return RollPlan(tuple(waves), tuple(unchanged), out, dict(planned), floor, settings, found.told)


def _found_unwell(fleet: Fleet, only: Mapping[str, str]) -> Fleet:
    """Return the fleet with what somebody found of replicas whose units look well; they keep the release they have."""
    found = {name: replace(seen, unwell=only.get(name, "")) for name, seen in fleet.observed.items()}
    targets = []
    for target in fleet.targets:
        seen = fleet.seen(target)
        kept = (seen.current or seen.running) if only.get(target.id) else ""
        targets.append(replace(target, release=kept or target.release))
    return replace(fleet, observed=found, targets=tuple(targets))


def _sort_out(
    fleet: Fleet, settings: Settings, only: Optional[Mapping[str, str]], loads: Mapping[str, float]
) -> Tuple[List[Move], List[str], Dict[str, str]]:
    """Divide the replicas into those that move, those that are right, and those that somebody took out."""
    moves: List[Move] = []
    unchanged: List[str] = []
    out: Dict[str, str] = {}
    for target in fleet.targets:
        seen = fleet.seen(target)
        if only is not None and target.id not in only:
            unchanged.append(target.id)
            continue
        admit, why_not = _admission(fleet, target, seen)
        reason = _reason(target, seen)
        seats = fleet.seats_of(target)
        if not reason and admit and any(seat.state != "ready" for seat in seats.values()):
            reason = "an unfinished roll left it out of rotation"
        # What a person weighs otherwise stays so; only what a roll left behind is put right.
        now = min((seat.weight for seat in seats.values()), default=FULL_WEIGHT)
        weight = FULL_WEIGHT if seen.unfinished else now
        if not reason and admit and now < weight:
            reason = "an unfinished roll left it at {0}% of its weight".format(now)
        if reason:
            forecast = loads.get(target.id) if seen.load_s is None else None
            assumed = settings.load_assumed_s if forecast is None else forecast
            moves.append(
                Move(
                    target=target,
                    was=_was(seen, target),
                    reason=reason,
                    drain=any(seat.state == "ready" for seat in seats.values()),
                    restart=bool(_reason(target, seen)),
                    admit=admit,
                    load_s=assumed if seen.load_s is None else seen.load_s,
                    load_known=seen.load_s is not None,
                    load_forecast=forecast is not None,
                    weight_now=now,
                    weight=weight,
                )
            )
        else:
            unchanged.append(target.id)
        if not admit and why_not:
            out[target.id] = why_not
    return moves, unchanged, out


def _was(seen: Observed, target: Target) -> str:
    """The release to go back to: what runs, or, where an unfinished roll brought what is wanted, what it found."""
    journal = seen.pending or {}
    if seen.unfinished and seen.running == target.release == journal.get("release") and journal.get("was"):
        return str(journal["was"])
    return seen.running or seen.current


def _admission(fleet: Fleet, target: Target, seen: Observed) -> Tuple[bool, str]:
    """Whether a replica belongs into rotation once it is gated, and if not, why."""
    seats = fleet.seats_of(target)
    if not fleet.seats:
        return True, ""
    if not seats:
        return False, "no router knows it yet; `playbooks/serve.yml --tags load_balancer` adds it"
    if seen.unfinished or any(seat.state == "ready" for seat in seats.values()):
        return True, ""
    if not seen.running and not seen.current:
        return True, ""
    states = ", ".join("{0} at {1}".format(seat.state, router) for router, seat in sorted(seats.items()))
    return False, "somebody took it out ({0}); it is not readmitted by a roll".format(states)


def _reason(target: Target, seen: Observed) -> str:
    if not seen.running and not seen.current:
        return "new"
    if seen.unwell:
        return seen.unwell
    if seen.active == "active" and seen.running == target.release and seen.current in ("", target.release):
        return ""
    if seen.active != "active":
        return "its unit is {0}".format(seen.active)
    if seen.running == target.release:
        return "its next start would take release {0}".format(seen.current)
    return "release"


def _silence(fleet: Fleet) -> List[str]:
    return [
        "{0} did not answer, so its replicas cannot be counted. Bring it back, or take it out of the inventory.".format(
            name
        )
        for name in fleet.silent
    ]


def _renamed(fleet: Fleet, moves: Sequence[Move]) -> List[str]:
    """During a roll both releases serve; a name that only one of them knows would fail on the other."""
    return [
        "{0}: it serves {1} now and would serve {2}. Another name is another deployment: add it beside this one, move "
        "the clients, then remove this one.".format(
            move.target.id, fleet.seen(move.target).served_name, move.target.served_name
        )
        for move in moves
        if fleet.seen(move.target).served_name not in ("", move.target.served_name)
    ]


def not_in_one_roll(fleet: Fleet) -> List[str]:
    """What no roll can do, however it is laid: the routers have one key for all replicas, and one address of each."""
    return _exchanged_keys(fleet) + _moved(fleet)


def _moved(fleet: Fleet) -> List[str]:
    """Routers are told before the first replica is replaced: all that listen elsewhere by then would be out at once."""
    moved = ", ".join(
        "{0} from {1} to {2}".format(target.id, fleet.seen(target).url, target.url)
        for target in fleet.targets
        if fleet.seen(target).running and fleet.seen(target).url not in ("", target.url)
    )
    if not moved:
        return []
    return [
        "{0}: they would listen elsewhere, and the routers know one address of a replica: all of these would be out at "
        "once. Keep address and port; or serve the new ones as a deployment of its own beside, move the clients, and "
        "take this one away; or take the outage by site.yml with vllm_endpoint_allowed_restarts.".format(moved)
    ]


def _exchanged_keys(fleet: Fleet) -> List[str]:
    """During a roll the routers send one key to all replicas; those that ask for the other one would refuse it."""
    names = [
        target.id
        for target in fleet.targets
        if target.credentials and fleet.seen(target).credentials not in ("", target.credentials)
    ]
    if not names:
        return []
    return [
        "{0}: their API key would be another one, and the routers send the same key to all replicas: while both are "
        "asked for, one half would refuse it. Take two rolls: first with vllm_endpoint_api_key empty and "
        "load_balancer_upstream_key as it is, then with the new key in both.".format(", ".join(names))
    ]


def _unstaged(fleet: Fleet, moves: Sequence[Move]) -> List[str]:
    return [
        "{0}: release {1} is not complete on its host (there: {2}). Stage it first; the redeploy playbook does.".format(
            move.target.id, move.target.release, ", ".join(fleet.seen(move.target).staged) or "none"
        )
        for move in moves
        if move.restart and move.target.release not in fleet.seen(move.target).staged
    ]


def _order_by_cores(fleet: Fleet, moves: Sequence[Move]) -> Tuple[List[Move], List[str]]:
    """Note for each move which replicas of its host must have given up its cores before."""
    moving = {move.target.id: move for move in moves}
    ordered: List[Move] = []
    problems: List[str] = []
    for move in moves:
        holders = fleet.holders(move.target) if move.restart else {}
        for name, cores in holders.items():
            other = moving.get(name)
            frees = other is not None and other.restart and not overlap(other.target.cores, move.target.cores)
            if not frees:
                problems.append(
                    "{0}: its cores {1} are held by {2} ({3}), which this roll does not move off them. "
                    "Stop {2} first.".format(move.target.id, _range(move.target.cores), name, _range(cores))
                )
        ordered.append(replace(move, after=frozenset(name for name in holders if name in moving)))
    return ordered, problems + ([] if problems else _cycles(ordered))


def _cycles(moves: Sequence[Move]) -> List[str]:
    """Replicas that wait for each other's cores can only be moved by stopping them together."""
    waiting = {move.target.id: set(move.after) for move in moves}
    while True:
        free = [name for name, after in waiting.items() if not after & set(waiting)]
        if not free:
            break
        for name in free:
            del waiting[name]
    if not waiting:
        return []
    return [
        "{0} wait for each other's cores: a roll, replica by replica, cannot change their slices. "
        "Take the host out of rotation, and run site.yml on it.".format(", ".join(sorted(waiting)))
    ]


def _range(cores: Tuple[int, int]) -> str:
    return "{0}-{1}".format(*cores)


def in_rotation(fleet: Fleet) -> List[Peer]:
    """Every replica that serves, with the weights that it serves."""
    return [
        Peer(target, fleet.seen(target).weights or target.weights)
        for target in fleet.targets
        if fleet.in_rotation(target)
    ]


def cannot_leave(fleet: Fleet, hosts: Sequence[str], settings: Settings) -> List[str]:
    """Why these hosts cannot leave rotation together: for each model, what would be left, and the floor.

    Where the floor is left to us, it is every replica of the hosts that stay, and at least one.
    """
    problems = _silence(fleet)
    for model in dict.fromkeys(target.served_name for target in fleet.targets if target.host in hosts):
        targets = [target for target in fleet.targets if target.served_name == model]
        staying = [target for target in targets if target.host not in hosts]
        left = sum(1 for target in staying if fleet.in_rotation(target))
        floor = max(1, len(staying)) if settings.floor == "auto" else settings.floor_of(len(targets))
        if left >= floor:
            continue
        missing = ["{0} ({1})".format(item.id, absence(fleet, item)) for item in staying if not fleet.in_rotation(item)]
        problems.append(
            "{0}: {1} of {2} replicas would be in rotation without {3}, and the floor is {4}.{5} Lower it "
            "(`trainyard_redeploy: {{floor: {1}}}`) to go on all the same.".format(
                model,
                left,
                len(targets),
                ", ".join(hosts),
                floor,
                " Out already: {0}.".format("; ".join(missing)) if missing else "",
            )
        )
    return problems


def out_of_rotation(fleet: Fleet) -> Dict[str, str]:
    """Every replica of the plan that serves nobody, with the reason."""
    return {target.id: absence(fleet, target) for target in fleet.targets if not fleet.in_rotation(target)}


def duration(seconds: float) -> str:
    """Seconds for people: ``45 s``, ``16 min``, ``4 h 12 min``."""
    if seconds < 100:
        return "{0:.0f} s".format(seconds)
    minutes = round(seconds / 60)
    return "{0} min".format(minutes) if minutes < 60 else "{0} h {1:02d} min".format(minutes // 60, minutes % 60)


def _headline(plan: RollPlan, moves: Sequence[Move]) -> str:
    restarts = [move for move in moves if move.restart]
    forecast = [move.load_s for move in restarts if move.load_forecast]
    assumed = sum(1 for move in restarts if not move.load_known) - len(forecast)
    told = "Roll of {0} replicas on {1} hosts, {2} at a time, {3} waves, about {4} ({5} load times recorded{6}{7})."
    return told.format(
        sum(1 for move in moves if move.kind == REPLACE),
        len({move.target.host for move in moves}),
        plan.settings.at_once,
        len(plan.waves),
        duration(plan.seconds),
        len(restarts) - assumed - len(forecast),
        ", {0} forecast at up to {1}".format(len(forecast), duration(max(forecast))) if forecast else "",
        ", {0} assumed at {1}".format(assumed, duration(plan.settings.load_assumed_s)) if assumed else "",
    )


def _line(plan: RollPlan, wave: Wave, move: Move) -> str:
    model = move.target.served_name
    return "  wave {0} ({1})  {2}  {3} -> {4} [{5}]  {6}; about {7}; {8} of {9} stay in rotation".format(
        wave.number,
        "canary" if wave.canary else "batch {0}".format(wave.batch) if wave.batch else "serves nobody now",
        move.target.id,
        move.was or "nothing",
        move.target.release or "nothing",
        move.reason,
        ", ".join(move.steps(wave.watch_s, wave.weights.get(move.target.id, FULL_WEIGHT))),
        duration(move.seconds(plan.settings, wave.watch_s)),
        wave.left.get(model, 0),
        plan.planned[model],
    )


def read_fleet(
    plan: Mapping[str, Any],
    reports: Mapping[str, Optional[Mapping[str, Any]]],
    routers: Mapping[str, Optional[Mapping[str, Mapping[str, Any]]]],
    drained_elsewhere: Optional[Sequence[str]] = None,
) -> Fleet:
    """Put together what the plan wants and what hosts and routers said.

    Args:
        plan: the plan's `hosts`, those that take part.
        reports: by host, ``replica_info``'s ``replicas`` (by replica name), or None where the host did not answer.
        routers: by router, server id -> ``{state, up, sessions}``, or None where it did not answer.
        drained_elsewhere: replicas that are drained at routers which trainyard does not run; None if there are none
            such.
    """
    targets = [
        Target.from_plan(host, raw) for host, entry in plan["hosts"].items() for raw in entry.get("replicas", [])
    ]
    spares = [Target.from_plan(host, raw) for host, entry in plan["hosts"].items() for raw in entry.get("spares", [])]
    wanted = {target.id for target in targets}
    known = wanted | {spare.id for spare in spares}
    observed: Dict[str, Observed] = {}
    for host, report in reports.items():
        for name, raw in (report or {}).items():
            observed["{0}:{1}".format(host, name)] = Observed.from_dict(raw)
    silent = [host for host in plan["hosts"] if reports.get(host) is None and plan["hosts"][host].get("replicas")]
    silent += [router for router, answer in routers.items() if answer is None]
    seats = {
        router: {
            name: Seat(
                str(raw["state"]),
                bool(raw.get("up", True)),
                int(raw.get("sessions", 0)),
                int(raw.get("weight", FULL_WEIGHT)),
            )
            for name, raw in (servers or {}).items()
        }
        for router, servers in routers.items()
    }
    if drained_elsewhere is not None:
        out = set(drained_elsewhere)
        seats[ELSEWHERE] = {name: Seat("drain" if name in out else "ready") for name in sorted(wanted)}
    return Fleet(
        targets=tuple(targets),
        observed=observed,
        seats=seats,
        silent=tuple(silent),
        extra={name: seen.running for name, seen in observed.items() if name not in known and seen.running},
        spares=tuple(spares),
        measured=frozenset(host for host, entry in plan["hosts"].items() if entry.get("memory")),
    )
