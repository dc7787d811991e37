# SPDX-License-Identifier: Apache-2.0
"""Handing a service from the hosts of one capacity block to those of the next: who leaves, who takes over, and when.

The fleet is seen as a roll sees it. Capacity never falls below the floor: nothing leaves rotation before what takes
over is in it, and no worse than what it takes over from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Dict, List, Tuple

from ansible_collections.trainyard.neuron.plugins.plugin_utils.block_times import Block, named
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.canary import Thresholds, Verdict, Watched, compare
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.state import Fleet, RollError, Settings, Target
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.steps import watched_of
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.waves import absence


@dataclass(frozen=True)
class HandOver:
    """What is to be done.

    Attributes:
        leaving: hosts that leave.
        taking: hosts that serve on, or from now on.
        new: ids of replicas that are not in rotation yet.
        floor: for each model, how many replicas stay in rotation throughout.
        weights: for each new replica, its weight in percent while it is watched.
    """

    leaving: Tuple[str, ...]
    taking: Tuple[str, ...]
    new: Tuple[str, ...]
    floor: Mapping[str, int]
    weights: Mapping[str, int]

    def to_dict(self) -> Dict[str, Any]:
        """JSON-ready form, for the playbook."""
        return {
            "leaving": list(self.leaving),
            "taking": list(self.taking),
            "new": list(self.new),
            "floor": dict(self.floor),
            "weights": dict(self.weights),
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> HandOver:
        """Read what `to_dict` wrote."""
        return cls(tuple(raw["leaving"]), tuple(raw["taking"]), tuple(raw["new"]), raw["floor"], raw["weights"])


def hand_over_of(fleet: Fleet, blocks: Iterable[Block], only: Sequence[str], settings: Settings) -> HandOver:
    """Say who leaves and who takes over.

    Args:
        fleet: the plan's replicas, what hosts and routers say of them.
        blocks: of the fleet's hosts, the first to end first.
        only: hosts that a person named; empty for those of the block that ends first.
        settings: of rolls; their floor holds here too. Left to us, it is every replica that is in rotation now.

    Raises:
        RollError: nobody could take over, too few would, or hosts that serve run another release than the plan's.
    """
    hosts = list(dict.fromkeys(target.host for target in fleet.targets))
    known = list(blocks)
    leaving = [name for name in only or (known[0].hosts if known else ()) if name in hosts]
    taking = [name for name in hosts if name not in leaving]
    if not leaving:
        said = "no host that serves is in a capacity block: name those that leave with -e trainyard_leaving=HOSTS"
        raise RollError([said])
    if not taking:
        raise RollError(
            [
                "nobody takes over from {0}: launch hosts into the next block first (playbooks/launch.yml), and have "
                "them in the inventory".format(named(leaving))
            ]
        )
    problems = ["{0} did not answer".format(name) for name in fleet.silent] + _other_releases(fleet)
    floor: Dict[str, int] = {}
    for model, targets in _by_model(fleet, leaving).items():
        serving = [target for target in targets if fleet.in_rotation(target)]
        floor[model] = len(serving) if settings.floor == "auto" else settings.floor_of(len(serving))
        stay = sum(target.host in taking for target in targets)
        if stay < floor[model]:
            problems.append(
                "{0}: {1} replicas take over from {2}, and the floor is {3}. Launch more hosts, or lower it "
                "(`trainyard_redeploy: {{floor: {1}}}`)".format(model, stay, named(leaving), floor[model])
            )
    if problems:
        raise RollError(problems)
    new = [item for item in fleet.targets if item.host in taking and not fleet.in_rotation(item)]
    weights = {item.id: settings.canary_weight(_others(fleet, item)) for item in new}
    return HandOver(tuple(leaving), tuple(taking), tuple(item.id for item in new), floor, weights)


def _by_model(fleet: Fleet, leaving: Sequence[str]) -> Dict[str, List[Target]]:
    """The replicas of each model that hosts serve which leave."""
    models = dict.fromkeys(item.served_name for item in fleet.targets if item.host in leaving)
    return {model: [item for item in fleet.targets if item.served_name == model] for model in models}


def _others(fleet: Fleet, target: Target) -> int:
    """How many replicas of its model serve already."""
    return sum(item.served_name == target.served_name and fleet.in_rotation(item) for item in fleet.targets)


def _other_releases(fleet: Fleet) -> List[str]:
    """Replicas that serve something else than the plan has: staging would change them under their requests."""
    found = []
    for target in fleet.targets:
        running = fleet.seen(target).running
        if running and running != target.release and fleet.in_rotation(target):
            found.append(
                "{0} runs release {1}, and the plan has {2}: bring the fleet to its inventory first "
                "(playbooks/redeploy.yml)".format(target.id, running, target.release)
            )
    return found


def judged(
    order: HandOver,
    fleet: Fleet,
    answers: Mapping[str, Any],
    routers: Sequence[str],
    thresholds: Thresholds,
) -> Dict[str, Verdict]:
    """Compare each new replica with those that served before, over the time in which all were watched.

    Args:
        order: what is done.
        fleet: the plan's replicas.
        answers: by host and router, the result of ``roll_watch``.
        routers: which of these are routers.
        thresholds: how much worse is too much.
    """
    found = {}
    targets = {target.id: target for target in fleet.targets}
    for name in order.new:
        mine = watched_of(name, targets[name].host, answers, routers)
        if mine is None:
            found[name] = Verdict(worse=("it does not answer any more",))
            continue
        old = [item for item in targets.values() if item.id not in order.new]
        peers = [item for item in old if item.served_name == targets[name].served_name]
        seen = [(item, watched_of(item.id, item.host, answers, routers)) for item in peers]
        others = [_comparable(item, row, targets[name]) for item, row in seen if row is not None]
        same = not others or any(item.weights == targets[name].weights for item in peers)
        found[name] = compare(mine, others, thresholds, same)
    return found


def _comparable(peer: Target, row: Watched, mine: Target) -> Watched:
    """What a peer counted; golden completions only of equal weights."""
    return row if peer.weights == mine.weights else Watched(row.reading, row.requests, row.errors, {})


def below_floor(order: HandOver, fleet: Fleet) -> List[str]:
    """Why the hosts that leave cannot be drained yet: a model would be left with fewer replicas than its floor."""
    problems = ["{0} did not answer".format(name) for name in fleet.silent]
    for model, floor in order.floor.items():
        staying = [item for item in fleet.targets if item.served_name == model and item.host in order.taking]
        out = [item for item in staying if not fleet.in_rotation(item)]
        if len(staying) - len(out) < floor:
            missing = "; ".join("{0} ({1})".format(item.id, absence(fleet, item)) for item in out)
            problems.append(
                "{0}: {1} replicas are in rotation on hosts that stay, and the floor is {2}. Nothing was drained. Out: "
                "{3}".format(model, len(staying) - len(out), floor, missing or "none")
            )
    return problems
