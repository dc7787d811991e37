# SPDX-License-Identifier: Apache-2.0
"""Who does what for a fleet: which host compiles an artifact, and which sends a checkpoint or artifact to whom."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Dict, List, Union

from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.fan_out import fan_out
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.parts import (
    ArtifactPlan,
    HostPlan,
    Sender,
    WeightsPlan,
)


def elect_compile_hosts(planned: Mapping[str, HostPlan]) -> None:
    """Name one host for each digest, so that a fleet compiles once; the work is spread over the hosts."""
    holders: Dict[str, List[str]] = {}
    for name, host in planned.items():
        for artifact in host.artifacts:
            holders.setdefault(artifact.digest, []).append(name)
    load: Dict[str, int] = dict.fromkeys(planned, 0)
    elected = {}
    for digest in sorted(holders):
        elected[digest] = min(holders[digest], key=lambda name: (load[name], name))
        load[elected[digest]] += 1
    for host in planned.values():
        for artifact in host.artifacts:
            artifact.compile_host = elected[artifact.digest]


def name_senders(planned: Mapping[str, HostPlan]) -> None:
    """Name for each checkpoint and artifact of a host the host that it comes from where it goes from host to host.

    The first to have an artifact is the host that compiles it. The first to have a checkpoint is a host that compiles
    from it, and the next are the others that do: what waits longest begins first.
    """
    compiles: Dict[str, List[str]] = {}
    for name, host in planned.items():
        for artifact in host.artifacts:
            if artifact.compile_host == name:
                compiles.setdefault(artifact.weights, []).append(name)
                compiles.setdefault(artifact.digest, []).append(name)
    entries: Dict[str, Dict[str, Union[WeightsPlan, ArtifactPlan]]] = {}
    for name, host in planned.items():
        for checkpoint in host.weights:
            entries.setdefault(checkpoint.id, {})[name] = checkpoint
        for artifact in host.artifacts:
            entries.setdefault(artifact.digest, {})[name] = artifact
    for identifier, by_host in entries.items():
        first = [name for name in dict.fromkeys(compiles.get(identifier, ())) if name in by_host]
        order = first + [name for name in by_host if name not in first]
        for name, leg in fan_out(order[:1], order[1:]).items():
            by_host[name].sender = Sender(leg.sender, planned[leg.sender].address, by_host[leg.sender].path, leg.turn)
