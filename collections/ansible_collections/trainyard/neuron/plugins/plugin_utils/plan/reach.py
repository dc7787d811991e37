# SPDX-License-Identifier: Apache-2.0
"""Who may reach what of a host: its replicas, their agents, its metrics. Closed but for those whom the plan knows."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any, List, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.fields import BadValueError
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import Problem
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.parts import HostPlan, Reach, ReachRule

#: Variables of a host: what reads metrics there, whether anybody may come in, and what the roles admit beside.
MONITORS = "trainyard_monitors"
OPEN = "trainyard_replicas_open_to_everybody"
FURTHER = "vllm_endpoint_clients"
FURTHER_MONITORS = "neuron_monitor_clients"


def networks(value: Any) -> Tuple[str, ...]:
    """Check a list of addresses and networks that a fence can admit.

    Raises:
        BadValueError: a name, everybody, or what nobody can send from.
    """
    if value is None:
        return ()
    if isinstance(value, str) or not isinstance(value, (list, tuple)):
        raise BadValueError("must be a list of addresses or networks", 'write it as ["10.0.0.5", "10.1.0.0/24"]')
    for index, item in enumerate(value):
        _network(item, "[%d]" % index)
    return tuple(dict.fromkeys(str(item) for item in value))


def _network(item: Any, key: str) -> None:
    try:
        # A number would be taken for an address: 1 for 0.0.0.1.
        network = ipaddress.ip_network(item if isinstance(item, str) else "")
    except ValueError as error:
        rule = "must be an address or a network: the fence is loaded before names can be resolved"
        if isinstance(item, str) and "has host bits set" in str(error):
            rule, fix = "is a network with bits of a host", "write %s" % ipaddress.ip_network(item, strict=False)
            raise BadValueError(rule, fix, key, item) from error
        raise BadValueError(rule, 'give it as "10.0.0.5" or "10.1.0.0/24"', key, item) from error
    if network.prefixlen == 0:
        fix = "name who it is, or say %s: true" % OPEN
        raise BadValueError("is everybody", fix, key, item)
    if network.is_loopback or network.is_multicast or network.is_unspecified:
        raise BadValueError("is no address that another host sends from", "give the sender's own", key, item)


def open_to_everybody(value: Any) -> bool:
    """Check the switch that opens the replicas: only a plain `true` does.

    Raises:
        BadValueError: anything but true or false.
    """
    if not isinstance(value, bool):
        raise BadValueError("must be true or false", "write true or false without quotes; with -e, pass JSON")
    return value


def rules_of(
    host: HostPlan, routers: Sequence[str], clients: Sequence[str], monitors: Sequence[str]
) -> List[ReachRule]:
    """Return who may reach which ports of a host from elsewhere; what the host itself sends never leaves it.

    Args:
        host: the host's plan, with its replicas, spares and monitor.
        routers: addresses of the other hosts that balance over its replicas.
        clients: addresses of the other hosts that send load: they read the replicas' own counters.
        monitors: addresses and networks that read the replicas' metrics; those of the devices are in the host's plan.
    """
    rows = [*host.replicas, *host.spares]
    senders = sorted({*routers, *clients, *monitors} - {host.address})
    others = sorted(set(routers) - {host.address})
    rules = [
        ReachRule("replicas", tuple(sorted(row.port for row in rows)), tuple(senders)),
        ReachRule("agents", tuple(sorted(row.agent_port for row in rows)), tuple(others)),
    ]
    if host.monitor:
        both = (host.monitor.port, host.monitor.host_port)
        rules.append(ReachRule("device metrics", both, host.monitor.clients))
    return [rule for rule in rules if rule.ports]


def warnings_of(name: str, reach: Reach, beyond: bool) -> List[Problem]:
    """Return what of a host's reach will surprise.

    Args:
        name: the host.
        reach: its `reach` in the plan.
        beyond: whether its replicas listen beyond the loopback.
    """
    if reach.open:
        rule = "whoever reaches the host reaches its replicas, past the router's keys, limits and log"
        return [Problem(name, OPEN, True, rule, "leave it out, and name who else sends in %s" % FURTHER)]
    if beyond and not reach.further and not any(rule.from_ for rule in reach.rules):
        rule = "nobody may reach the replicas: no other host routes, sends load or monitors"
        fix = "put a host into the group router, or give the addresses of what sends in %s" % FURTHER
        return [Problem(name, FURTHER, [], rule, fix)]
    return []
