# SPDX-License-Identifier: Apache-2.0
"""Parts over nodes: each node takes the next one; of a node that is lost, its part is done again by another."""

from __future__ import annotations

import collections
import concurrent.futures
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainyard.nodes.cut import Part
from trainyard.nodes.parcel import INVENTORY, playbook_of
from trainyard.nodes.settings import Node
from trainyard.nodes.stream import SILENT_S, Outcome, Stream
from trainyard.one_run import OneRun


@dataclass(frozen=True)
class Attempt:
    """A part once on a node.

    Attributes:
        run: what the hosts know it as; the next attempt takes their lock over from it.
        took_s: seconds.
    """

    part: Part
    node: str
    run: str
    outcome: Outcome
    took_s: float


@dataclass
class Spread:
    """What is spread over the nodes.

    Attributes:
        verb: the playbook.
        nodes: the execution nodes.
        parcel: what they are sent.
        extra_vars: variables for every part.
        say: hears a line about each step.
        silent_s: how long a node may give no sign of life, seconds.
    """

    verb: str
    nodes: Sequence[Node]
    parcel: Path
    extra_vars: Mapping[str, Any] = field(default_factory=dict)
    check: bool = False
    say: Callable[[str], None] = lambda _: None
    silent_s: float = SILENT_S
    attempts: list[Attempt] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._whole = OneRun(self.verb)
        self._lost: set[str] = set()
        self._change = threading.Condition()
        self._streams: dict[str, Stream] = {}
        self._stopping = False

    def run(self, waves: Sequence[Sequence[Part]]) -> bool:
        """Do wave after wave; whether every part is done. A wave whose part failed is the last."""
        return all(self._wave(wave) for wave in waves)

    def redone(self) -> list[int]:
        """Return the numbers of the parts that were begun more than once."""
        counted = collections.Counter(attempt.part.number for attempt in self.attempts)
        return sorted(number for number, times in counted.items() if times > 1)

    def left(self) -> list[Attempt]:
        """Return the last attempts of parts whose node was lost and which nobody did again: their hosts are locked."""
        last = {attempt.part.number: attempt for attempt in self.attempts}
        return [attempt for attempt in last.values() if attempt.outcome.end == "lost"]

    def _wave(self, parts: Sequence[Part]) -> bool:
        """Do the parts of a wave. A node ends with the wave and not with the queue: another's part may come back."""
        self._waiting, self._under_way = collections.deque(parts), 0
        nodes = [node for node in self.nodes if node.name not in self._lost]
        with concurrent.futures.ThreadPoolExecutor(max(1, len(nodes))) as pool:
            working = [pool.submit(self._work, node) for node in nodes]
            try:
                for one in concurrent.futures.as_completed(working):
                    one.result()
            except BaseException:
                self._stop()
                raise
        numbers = {part.number for part in parts}
        done = {attempt.part.number for attempt in self.attempts if attempt.outcome.end == "done"}
        return numbers <= done

    def _stop(self) -> None:
        with self._change:
            self._stopping = True
            streams = list(self._streams.values())
        for stream in streams:
            stream.stop()

    def _work(self, node: Node) -> None:
        while True:
            with self._change:
                while not self._waiting and self._under_way and not self._stopping:
                    self._change.wait(0.5)
                if not self._waiting or self._stopping:
                    return
                part = self._waiting.popleft()
                self._under_way += 1
            attempt = self._attempt(node, part)
            with self._change:
                self._under_way -= 1
                self.attempts.append(attempt)
                if attempt.outcome.end == "lost" and not self._stopping:
                    self._lost.add(node.name)
                    self._waiting.append(part)
                self._change.notify_all()
            self._tell(attempt)
            if attempt.outcome.end == "lost":
                return

    def _attempt(self, node: Node, part: Part) -> Attempt:
        before = [attempt.run for attempt in self.attempts if attempt.part == part]
        run = f"{self.verb}-{self._whole.token}-{part.number}-{len(before) + 1}"
        stream = Stream(node.runner, self.parcel, self._job(part, run, before), self.silent_s)
        with self._change:
            self._streams[node.name] = stream
        hosts = f"{len(part.hosts)} host{'' if len(part.hosts) == 1 else 's'}"
        again = ", again" if before else ""
        self.say(f"{node.name}: part {part.number} ({hosts}: {_named(part.hosts)}) begins{again}")
        began = time.monotonic()
        outcome = stream.run()
        return Attempt(part, node.name, run, outcome, round(time.monotonic() - began, 1))

    def _job(self, part: Part, run: str, before: Sequence[str]) -> dict[str, Any]:
        """Return what ansible-runner is to run: under the lock of its own hosts, taken over from its last attempt."""
        taken = {"trainyard_take_over": ",".join(before)} if before else {}
        return {
            "playbook": playbook_of(self.verb),
            "inventory": INVENTORY,
            "limit": ",".join(part.hosts),
            "extravars": {**self.extra_vars, **taken},
            "cmdline": "--check" if self.check else None,
            "envvars": {
                "ANSIBLE_CONFIG": "ansible.cfg",
                **OneRun(self.verb, run.partition("-")[2], self._whole.pid).end,
            },
        }

    def _tell(self, attempt: Attempt) -> None:
        end = {"done": "is done", "failed": "failed", "lost": "is lost with the node"}[attempt.outcome.end]
        self.say(f"{attempt.node}: part {attempt.part.number} {end} after {attempt.took_s:.0f} s")
        for line in attempt.outcome.why:
            self.say(f"  {line}")


def _named(hosts: Sequence[str], most: int = 3) -> str:
    return ", ".join([*hosts[:most], *(["..."] if len(hosts) > most else [])])
