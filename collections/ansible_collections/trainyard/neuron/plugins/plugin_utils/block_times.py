# SPDX-License-Identifier: Apache-2.0
"""When the capacity blocks of a fleet's hosts end, what that leaves time for, and what they have cost so far.

The inventory says it, by hand or as the word `ec2`, for which EC2 is asked. It is read anew at each step of a run: an
extension moves an end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Dict, List, Optional, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.capacity import block_end
from ansible_collections.trainyard.neuron.plugins.module_utils.capacity.offers import iso
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import HOSTS_NAMED, Problem
from ansible_collections.trainyard.neuron.plugins.plugin_utils import ec2_blocks

END, START, PRICE = (
    "trainyard_capacity_block_end",
    "trainyard_capacity_block_start",
    "trainyard_price_per_host_hour_usd",
)
#: In the place of a moment: what EC2 says.
EC2 = "ec2"
_ASKED = {END: "end", START: "start"}
#: Runs that go on though the hosts leave: they are what leaving is made of.
LEAVING = ("evacuate", "hand_over", "teardown")
HOUR_S = 3600.0


class EndError(ValueError):
    """An inventory's moment cannot be read, or EC2 could not be asked for it; with the host."""


@dataclass(frozen=True)
class Block:
    """Hosts whose block ends at one moment.

    Attributes:
        end: with a time zone.
        hosts: their names.
        start: from when on they cost, where that is known.
        usd_per_hour: of all of them, where that is known.
    """

    end: datetime
    hosts: Tuple[str, ...]
    start: Optional[datetime] = None
    usd_per_hour: Optional[float] = None

    def cost_usd(self, now: datetime) -> Optional[float]:
        """What the block has cost until now; None where its start or price is not known."""
        if self.start is None or self.usd_per_hour is None:
            return None
        spent_s = (min(now, self.end) - self.start).total_seconds()
        return max(spent_s, 0.0) / HOUR_S * self.usd_per_hour

    def line(self, now: datetime) -> str:
        """Where in its life the block is, for people."""
        left_s = (self.end - now).total_seconds()
        phase = block_end.phase(now, self.start or min(now, self.end), self.end)
        said = "Capacity block of %s, until %s UTC" % (named(self.hosts), self.end.strftime("%Y-%m-%d %H:%M"))
        work_s = block_end.time_for_work_s(now, self.end)
        if phase.name in ("scheduled", "serving", "extend_or_leave"):
            said += ": replicas leave in %s" % block_end.countdown(work_s)
        else:
            said += ": " + phase.says
        if phase.name == "serving":
            said += ", it can be extended for %s more" % block_end.countdown(left_s - block_end.LAST_EXTENSION_S)
        elif phase.name == "extend_or_leave":
            said += ", it can be extended no more"
        cost = self.cost_usd(now)
        return said if cost is None else "%s; %.2f USD so far" % (said, cost)

    def to_dict(self, now: datetime) -> Dict[str, Any]:
        """The same for programs."""
        return {
            "hosts": list(self.hosts),
            "end": iso(self.end),
            "phase": block_end.phase(now, self.start or min(now, self.end), self.end).name,
            "left_s": round((self.end - now).total_seconds(), 1),
            "time_for_work_s": round(block_end.time_for_work_s(now, self.end), 1),
            "cost_usd": None if self.cost_usd(now) is None else round(self.cost_usd(now) or 0.0, 2),
        }


def now_utc() -> datetime:
    """This moment."""
    return datetime.now(timezone.utc)


def named(hosts: Iterable[str]) -> str:
    """Hosts for a message, the first few of many."""
    names = list(hosts)
    more = len(names) - HOSTS_NAMED
    return ", ".join(names[:HOSTS_NAMED]) + (" and %d others" % more if more > 0 else "")


def moment(variables: Mapping[str, Any], host: str, variable: str = END) -> Optional[datetime]:
    """Read a moment of a host's variables, templated as they are read.

    Raises:
        EndError: it cannot be read.
    """
    value = variables.get(variable)
    try:
        if value == EC2:
            value = ec2_blocks.times_of(variables).get(_ASKED[variable], "")
    except ec2_blocks.AskError as error:
        raise EndError("%s: %s: %s" % (host, variable, error)) from error
    try:
        return block_end.end_of(value)
    except ValueError as error:
        raise EndError("%s: %s: %r %s" % (host, variable, value, error)) from error


def blocks_of(hostvars: Mapping[str, Mapping[str, Any]], hosts: Iterable[str]) -> List[Block]:
    """The blocks that hosts are in, the first to end first; hosts without one are in none.

    Raises:
        EndError: a moment cannot be read.
    """
    found: Dict[Tuple[datetime, Optional[datetime]], List[str]] = {}
    prices: Dict[str, Any] = {}
    for name in hosts:
        variables = hostvars[name]
        end = moment(variables, name)
        if end is not None:
            found.setdefault((end, moment(variables, name, START)), []).append(name)
            prices[name] = variables.get(PRICE)
    blocks = []
    for (end, start), names in sorted(found.items(), key=lambda item: item[0][0]):
        known = [float(prices[name]) for name in names if prices[name] is not None]
        blocks.append(Block(end, tuple(names), start, sum(known) if len(known) == len(names) else None))
    return blocks


def first_end(hostvars: Mapping[str, Mapping[str, Any]], hosts: Iterable[str]) -> Optional[datetime]:
    """The first end of the blocks of some hosts; None where none is in one.

    Raises:
        EndError: a moment cannot be read.
    """
    ends = [end for end in (moment(hostvars[name], name) for name in hosts if name in hostvars) if end is not None]
    return min(ends, default=None)


def too_late(blocks: Iterable[Block], verb: str, hosts: Iterable[str], now: datetime) -> List[Problem]:
    """Why a run may not begin: hosts that it works on leave already. Runs that take hosts away may.

    Args:
        blocks: of the fleet's hosts.
        verb: what the run does; empty for one that changes nothing.
        hosts: those that it works on.
        now: with a time zone.
    """
    if not verb or verb in LEAVING:
        return []
    working = set(hosts)
    found = []
    for block in blocks:
        if block_end.time_for_work_s(now, block.end) > 0:
            continue
        for name in block.hosts:
            if name in working:
                rule = "leaves no time for %s: replicas leave %d minutes before it" % (
                    verb,
                    block_end.EVACUATE_S // 60,
                )
                fix = "leave the host out (--limit, or trainyard_only), or evacuate it (playbooks/evacuate.yml)"
                found.append(Problem(name, END, iso(block.end), rule, fix))
    return found
