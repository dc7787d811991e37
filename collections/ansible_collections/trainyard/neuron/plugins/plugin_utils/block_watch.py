# SPDX-License-Identifier: Apache-2.0
"""What the watch over capacity blocks does at each look, what it remembers, and how it is itself watched.

A timer looks each minute (`trainyard block-watch`). What it remembers lies beside the inventory: `status.yml` reads it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

from ansible_collections.trainyard.neuron.plugins.module_utils.capacity import block_end
from ansible_collections.trainyard.neuron.plugins.module_utils.capacity.offers import iso
from ansible_collections.trainyard.neuron.plugins.plugin_utils.block_times import Block, named
from ansible_collections.trainyard.neuron.plugins.plugin_utils.ec2_events import Event

NAME = "block_watch.json"
VERSION = 1
#: A look is due each minute; status says that the watch is late after three.
LATE_S = 180.0
#: From so long before the end on it is said that the last chance to extend comes, seconds.
TOLD_BEFORE_S = block_end.LAST_EXTENSION_S + 30 * 60
MOST_BYTES = 1 << 20


@dataclass
class Memory:
    """What the watch remembers.

    Attributes:
        looked_at: when it looked last, seconds since 1970; 0 for never.
        blocks: end and hosts of the blocks that it saw last, for a look at which EC2 cannot be asked.
        told: ends for which the last chance to extend was told, and ids of EC2's events that were.
        left: end to what became of the evacuation: `at`, `tries`, `done`, `hosts`.
        problem: why the last look saw nothing new; empty where it did.
    """

    looked_at: float = 0.0
    blocks: List[Dict[str, Any]] = field(default_factory=list)
    told: List[str] = field(default_factory=list)
    left: Dict[str, Dict[str, Any]] = field(default_factory=dict)
    problem: str = ""

    def known(self) -> List[Block]:
        """The blocks that were seen last."""
        found = []
        for row in self.blocks:
            end, start = block_end.end_of(row["end"]), block_end.end_of(row["start"])
            if end is not None:
                found.append(Block(end, tuple(row["hosts"]), start, row["usd_per_hour"]))
        return found

    def see(self, blocks: Sequence[Block]) -> None:
        """Remember blocks in the place of those seen before; of ends long gone nothing is kept."""
        self.blocks = [
            {
                "end": iso(block.end),
                "start": iso(block.start) if block.start else "",
                "hosts": list(block.hosts),
                "usd_per_hour": block.usd_per_hour,
            }
            for block in blocks
        ]


class BrokenMemoryError(ValueError):
    """The file is not what the watch wrote."""


def read(path: Path) -> Optional[Memory]:
    """What the watch remembers; None where it never looked.

    Raises:
        BrokenMemoryError: the file is not what it wrote.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BrokenMemoryError("%s cannot be read: %s" % (path, error)) from error
    try:
        raw = json.loads(data)
        if raw["version"] != VERSION:
            raise ValueError("its version is %r" % raw["version"])
        found = Memory(
            float(raw["looked_at"]), list(raw["blocks"]), list(raw["told"]), dict(raw["left"]), str(raw["problem"])
        )
        found.known()
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise BrokenMemoryError("%s is not what the watch wrote (%s): remove it" % (path, error)) from error
    return found


def write(path: Path, memory: Memory) -> None:
    """Keep what the watch remembers, whole or not at all."""
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps({"version": VERSION, **memory.__dict__}, indent=1, sort_keys=True), encoding="utf-8")
    new.replace(path)


@dataclass(frozen=True)
class Due:
    """What is to be done at a look.

    Attributes:
        tell: words for a person.
        evacuate: blocks whose hosts have to leave now.
    """

    tell: Sequence[str]
    evacuate: Sequence[Block]


def due(blocks: Sequence[Block], memory: Memory, now: datetime) -> Due:
    """What is to be done now; what is told is remembered as told."""
    tell, evacuate = [], []
    for block in blocks:
        left_s, key = (block.end - now).total_seconds(), iso(block.end)
        if block_end.LAST_EXTENSION_S < left_s <= TOLD_BEFORE_S and key not in memory.told:
            until = block.end - timedelta(seconds=block_end.LAST_EXTENSION_S)
            tell.append(
                "The capacity block of %s ends at %s. It can be extended until %s UTC (playbooks/extend.yml), then no "
                "more; its replicas leave %d minutes before the end."
                % (named(block.hosts), key, until.strftime("%H:%M"), block_end.EVACUATE_S // 60)
            )
            memory.told.append(key)
        done = memory.left.get(key, {})
        gone = set(block.hosts) <= set(done.get("hosts", ())) and done.get("done")
        if block_end.TERMINATION_S < left_s <= block_end.EVACUATE_S and not gone:
            evacuate.append(block)
    return Due(tell, evacuate)


def note(memory: Memory, block: Block, now: datetime, done: bool) -> None:
    """Remember how an evacuation came out."""
    before = memory.left.get(iso(block.end), {})
    memory.left[iso(block.end)] = {
        "at": iso(now),
        "tries": int(before.get("tries", 0)) + 1,
        "done": done,
        "hosts": list(block.hosts),
    }


def lines(path: Path, blocks: Sequence[Block], now: datetime) -> List[str]:
    """Say whether somebody watches these blocks; nothing where there are none to watch."""
    if not any(block.end > now for block in blocks):
        return []
    try:
        memory = read(path)
    except BrokenMemoryError as error:
        return ["Nobody may be watching the capacity block: %s." % error]
    if memory is None:
        return ["Nobody watches the capacity block: no evacuation begins by itself (playbooks/block_watch.yml)."]
    found = []
    late_s = now.timestamp() - memory.looked_at
    if late_s > LATE_S:
        at = datetime.fromtimestamp(memory.looked_at, timezone.utc)
        found.append(
            "The watch over the capacity block is late: it looked last at %s, %s ago. "
            "`systemctl status trainyard-block-watch.timer` on its host says more."
            % (iso(at), block_end.countdown(late_s))
        )
    if memory.problem:
        found.append("The watch over the capacity block goes by what it knew: %s." % memory.problem)
    for end, row in sorted(memory.left.items()):
        if any(iso(block.end) == end for block in blocks):
            said = "evacuated at" if row["done"] else "evacuation failed at"
            found.append("%s: %s %s, %d tries." % (named(row["hosts"]), said, row["at"], row["tries"]))
    return found


def untold(events: Sequence[Event], memory: Memory) -> List[str]:
    """Words on what EC2 has scheduled and nobody was told of yet; remembered as told."""
    found = [event for event in events if event.id not in memory.told]
    memory.told += [event.id for event in found]
    return [event.line() for event in found]


def metrics(memory: Memory, blocks: Sequence[Block], now: datetime, events: Sequence[Event] = ()) -> str:
    """The countdown and the watch itself in Prometheus' text format, for a textfile collector."""
    rows: Dict[str, List[str]] = {}

    def say(name: str, value: float, labels: Mapping[str, str]) -> None:
        shown = ",".join('%s="%s"' % (key, _escaped(text)) for key, text in labels.items())
        rows.setdefault(name, []).append("%s%s %.3f" % (name, "{%s}" % shown if shown else "", value))

    for block in blocks:
        labels = {"end": iso(block.end), "hosts": ",".join(block.hosts)}
        say("trainyard_capacity_block_left_seconds", (block.end - now).total_seconds(), labels)
        say("trainyard_capacity_block_time_for_work_seconds", block_end.time_for_work_s(now, block.end), labels)
        cost = block.cost_usd(now)
        if cost is not None:
            say("trainyard_capacity_block_cost_usd", cost, labels)
        done = memory.left.get(iso(block.end), {}).get("done")
        say("trainyard_capacity_block_evacuated", 1.0 if done else 0.0, labels)
    for event in events:
        labels = {"host": event.host, "instance": event.instance, "code": event.code}
        say("trainyard_instance_event_timestamp_seconds", event.at.timestamp(), labels)
    say("trainyard_block_watch_looked_timestamp_seconds", memory.looked_at, {})
    say("trainyard_block_watch_blind", 1.0 if memory.problem else 0.0, {})
    text = ["# TYPE %s gauge\n%s" % (name, "\n".join(found)) for name, found in rows.items()]
    return "\n".join(text) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
