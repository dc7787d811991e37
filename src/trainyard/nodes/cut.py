# SPDX-License-Identifier: Apache-2.0
"""The parts that a fleet's work is cut into: by its plan alone, so that every cut of one plan is the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any


@dataclass(frozen=True)
class Part:
    """Hosts that one execution node works on.

    Attributes:
        number: from 1, over all waves.
        hosts: their names, in the plan's order of work.
    """

    number: int
    hosts: tuple[str, ...]


def waves_of(verb: str, plan: Mapping[str, Any], parts: int) -> list[list[Part]]:
    """Return what may be done side by side, wave after wave: a wave begins when the one before is over.

    Hosts of the same checkpoints and artifacts stay together, since they send them to one another. To provision is one
    wave. To compile is two: hosts that the plan elected to compile for all, then those that fetch from them.

    Args:
        verb: `provision` or `compile`.
        plan: the form of `FleetPlan.to_dict`.
        parts: how many a wave is cut into at most; none is empty.
    """
    hosts = plan["hosts"]
    together = sorted(hosts, key=lambda name: _shared(hosts[name]))  # stable: else the plan's order
    waves = [together]
    if verb == "compile":
        elected = {artifact["compile_host"] for host in hosts.values() for artifact in host["artifacts"]}
        fetching = [name for name in together if name not in elected and hosts[name]["artifacts"]]
        waves = [[name for name in together if name in elected], fetching]
    found: list[list[Part]] = []
    for wave in waves:
        first = 1 + sum(len(row) for row in found)
        cut = [Part(first + number, names) for number, names in enumerate(_even(wave, parts))]
        found += [cut] if cut else []
    return found


def _shared(host: Mapping[str, Any]) -> list[str]:
    """Return what of a host is the same on those that it shares its work with."""
    return sorted([*(row["id"] for row in host["weights"]), *(row["digest"] for row in host["artifacts"])])


def _even(names: Sequence[str], parts: int) -> list[tuple[str, ...]]:
    """Return names in order in at most so many runs, whose lengths differ by one at most."""
    count = min(parts, len(names))
    bounds = [len(names) * number // count for number in range(count + 1)] if count else []
    return [tuple(names[low:high]) for low, high in pairwise(bounds)]
