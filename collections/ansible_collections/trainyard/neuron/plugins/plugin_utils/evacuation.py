# SPDX-License-Identifier: Apache-2.0
"""Leaving a capacity block in time: which hosts leave, how long their requests may take to end, and what came of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Dict, List, Optional

from ansible_collections.trainyard.neuron.plugins.module_utils.capacity import block_end
from ansible_collections.trainyard.neuron.plugins.module_utils.capacity.offers import iso
from ansible_collections.trainyard.neuron.plugins.plugin_utils.block_times import Block, named

#: What is kept of the time before EC2 terminates, for what comes after the last request.
MARGIN_S = 120.0


class EvacuationError(ValueError):
    """There is nobody to evacuate; nothing was done."""


@dataclass(frozen=True)
class Evacuation:
    """What is to be done.

    Attributes:
        hosts: those that leave.
        began: when it was planned.
        deadline_s: how long requests may take to end, from then on.
        end: of the block; None where somebody named hosts that are in none.
    """

    hosts: Sequence[str]
    began: datetime
    deadline_s: float
    end: Optional[datetime] = None

    def to_dict(self) -> Dict[str, Any]:
        """JSON-ready form, for the playbook."""
        return {
            "hosts": list(self.hosts),
            "began_at": self.began.timestamp(),
            "deadline_s": round(self.deadline_s, 1),
            "end": iso(self.end) if self.end else "",
        }


def evacuation_of(blocks: Iterable[Block], only: Sequence[str], now: datetime, drain_deadline_s: float) -> Evacuation:
    """Say which hosts leave, and how long their requests may take.

    Args:
        blocks: of the fleet's hosts.
        only: hosts that a person named; empty for those whose block leaves no more time for work.
        now: with a time zone.
        drain_deadline_s: how long requests may take in any roll of this fleet.

    Raises:
        EvacuationError: no host's block is about to end, and none was named.
    """
    known = list(blocks)
    due = [block for block in known if block_end.time_for_work_s(now, block.end) <= 0]
    hosts = list(only) or [name for block in due for name in block.hosts]
    if not hosts:
        later = "; ".join(block.line(now) for block in known) or "no host says trainyard_capacity_block_end"
        raise EvacuationError("no host is about to leave: {0}. Name hosts with -e trainyard_only=PATTERN".format(later))
    ends = [block.end for block in known if set(block.hosts) & set(hosts)]
    end = min(ends, default=None)
    deadline_s = drain_deadline_s
    if end is not None:
        left_s = (end - now).total_seconds() - block_end.TERMINATION_S - MARGIN_S
        deadline_s = max(0.0, min(deadline_s, left_s))
    return Evacuation(hosts, now, deadline_s, end)


def servers_of(models: Iterable[Mapping[str, Any]], hosts: Iterable[str]) -> List[str]:
    """Names of a router's servers that are on hosts that leave, each once."""
    leaving = set(hosts)
    rows = [server for model in models for server in model["servers"]]
    return list(dict.fromkeys(server["id"] for server in rows if server["host"] in leaving))


@dataclass(frozen=True)
class Outcome:
    """What became of an evacuation.

    Attributes:
        lines: for people, every host and router accounted for.
        failed: whether somebody has to look: a router was not reached, or it was not over in time.
    """

    lines: Sequence[str]
    failed: bool


def outcome(
    planned: Mapping[str, Any],
    drained: Mapping[str, Optional[Mapping[str, Any]]],
    saved: Mapping[str, Optional[str]],
    now: datetime,
    own_routers: Sequence[str] = (),
) -> Outcome:
    """Account for every host, router and request.

    Args:
        planned: as `Evacuation.to_dict`.
        drained: by router, what `drained` of the action came to; None where it has no server that leaves.
        saved: by host, why its artifacts and results are not saved; empty where they are, None where it did not answer.
        now: with a time zone.
        own_routers: routers that are on hosts that leave themselves.
    """
    end = block_end.end_of(planned["end"])
    lines, failed = [], False
    took_s = now.timestamp() - planned["began_at"]
    for router, answer in drained.items():
        if answer is None:
            continue
        if answer.get("unreachable") or answer.get("problem"):
            failed = True
            why = answer.get("problem") or "it does not answer"
            lines.append("router {0}: {1}. It may still send requests to hosts that leave".format(router, why))
            continue
        left = answer.get("left") or {}
        told = ", ".join("{0} has {1}".format(name, count) for name, count in sorted(left.items()))
        lines.append(
            "router {0}: sends nothing to {1} servers; {2}".format(
                router,
                len(answer["servers"]),
                "requests longer than {0:.0f} s go on until EC2 ends them: {1}".format(planned["deadline_s"], told)
                if told
                else "the last request has ended",
            )
        )
    for host, why in saved.items():
        if why is None:
            lines.append("host {0}: does not answer; nothing was saved there".format(host))
        elif why:
            lines.append("host {0}: not saved: {1}".format(host, why))
    kept = [host for host, why in saved.items() if why == ""]
    if kept:
        lines.append("saved: artifacts and results of {0}".format(named(kept)))
    lines += [
        "router {0} is on a host that leaves: send its clients to another one".format(name) for name in own_routers
    ]
    head = "{0} out of rotation after {1:.0f} s".format(named(planned["hosts"]), took_s)
    if end is not None:
        spare_s = (end - now).total_seconds() - block_end.TERMINATION_S
        failed = failed or spare_s < 0
        head += (
            ", {0} before EC2 begins to terminate".format(block_end.countdown(spare_s))
            if spare_s >= 0
            else ", too late: EC2 has begun to terminate"
        )
    return Outcome([head + ".", *("  " + line for line in lines)], failed)
