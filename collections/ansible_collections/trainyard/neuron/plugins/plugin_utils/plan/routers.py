# SPDX-License-Identifier: Apache-2.0
"""Who balances over what: every router over all replicas, or routers of the fleet over one on each host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Dict, List, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import Problem
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.parts import RouterModel, RouterServer

#: What a router balances over, and the variable that says it.
REPLICAS, ROUTERS = "replicas", "routers"
OVER = "trainyard_router_over"


@dataclass(frozen=True)
class Tiers:
    """The routers of a fleet, by what they balance over.

    Attributes:
        inner: those that know replicas. Rolls drain replicas there.
        outer: those in front of the inner ones; mostly none.
    """

    inner: Tuple[str, ...]
    outer: Tuple[str, ...]

    @property
    def facing(self) -> Tuple[str, ...]:
        """Where requests come in."""
        return self.outer or self.inner


def tiers_of(
    routers: Sequence[str], variables: Mapping[str, Mapping[str, Any]], serving: Sequence[str]
) -> Tuple[Tiers, List[Problem]]:
    """Sort the routers by what they balance over.

    Args:
        routers: names of the hosts that balance.
        variables: variables of each of them.
        serving: names of the hosts that serve.

    Returns:
        The tiers, and what cannot be routed so.
    """
    over = {name: variables.get(name, {}).get(OVER, REPLICAS) for name in routers}
    outer = tuple(name for name in sorted(routers) if over[name] == ROUTERS)
    inner = tuple(name for name in sorted(routers) if name not in outer)
    problems = []
    for name in inner:
        if over[name] != REPLICAS and name not in serving:
            rule = "must be one of %s, %s" % (REPLICAS, ROUTERS)
            problems.append(Problem(name, OVER, over[name], rule, "choose one of them"))
    if outer:
        problems += _two_tiers(inner, outer, serving)
    return Tiers(inner, outer), problems


def _two_tiers(inner: Sequence[str], outer: Sequence[str], serving: Sequence[str]) -> List[Problem]:
    problems = []
    for name in sorted(set(outer) & set(serving)):
        rule = "a host that serves balances over its own replicas, behind the routers of the fleet"
        problems.append(
            Problem(name, OVER, ROUTERS, rule, "leave it out here, and set it on a host that serves nothing")
        )
    for name in sorted(set(inner) - set(serving)):
        rule = "with %s above it (%s), a router balances over the replicas of its host, and this one has none" % (
            "a router" if len(outer) == 1 else "routers",
            ", ".join(outer),
        )
        fix = "set it to %s, or take the host out of the group router" % ROUTERS
        problems.append(Problem(name, OVER, REPLICAS, rule, fix))
    for name in sorted(set(serving) - set(inner) - set(outer)):
        rule = "%s would send it nothing: they balance over routers, and it has none" % ", ".join(outer)
        problems.append(
            Problem(name, "inventory group router", [*inner, *outer], rule, "put the host into the group router")
        )
    return problems


def shares(
    tiers: Tiers, models: Sequence[RouterModel], addresses: Mapping[str, str], port: int, facing: int
) -> Dict[str, Any]:
    """What each router balances over and listens on where that differs between them; nothing where there is one tier.

    Args:
        tiers: who balances.
        models: every model with the servers of the whole fleet.
        addresses: where the inner routers are reached.
        port: their port.
        facing: the port of the outer ones.

    Returns:
        By router, its port and its models with their servers. The servers of an outer router are inner ones, with the
        sequences of all replicas behind each.
    """
    if not tiers.outer:
        return {}
    found: Dict[str, List[RouterModel]] = {name: [] for name in tiers.inner}
    above = []
    for model in models:
        routers = []
        for name in tiers.inner:
            servers = [server for server in model.servers if server.host == name]
            if not servers:
                continue
            found[name].append(replace(model, servers=tuple(servers)))
            routers.append(
                RouterServer(
                    id=name,
                    host=name,
                    address=addresses[name],
                    port=port,
                    agent_port=0,
                    max_num_seqs=sum(server.max_num_seqs for server in servers if not server.spare),
                    router=True,
                )
            )
        above.append(replace(model, servers=tuple(routers)))
    return {
        **{name: {"port": port, "models": rows} for name, rows in found.items()},
        **{name: {"port": facing, "models": above} for name in tiers.outer},
    }
