# SPDX-License-Identifier: Apache-2.0
"""Runs a sweep point by point, and can be killed at any time: what the journal names is done and is not done again."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from trainyard.report import analysis
from trainyard.report.analysis import Measured
from trainyard.sweep.guide import Guide
from trainyard.sweep.spec import Point, Search, Spec, key_of

from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.reading import ReportError  # isort: skip


class StepError(Exception):
    """A configuration could not be served or measured; the sweep goes on with the next one."""


class Driver(Protocol):
    """What a sweep needs of the fleet."""

    def serve(self, fields: Mapping[str, Any]) -> None:
        """Have the deployment served with these fields changed; `StepError` when that fails."""

    def measure(self, fields: Mapping[str, Any], load: Mapping[str, Any], name: str) -> Path:
        """Send this load in a run of this name and return the run's directory; `StepError` when there is no report.

        A run of this name that an attempt began which was killed is waited for, or reported where it is complete.
        """


@dataclass(frozen=True)
class Budget:
    """Where a sweep stops by itself. Times are wall-clock seconds."""

    seconds: float | None = None
    usd: float | None = None
    stop_at: float | None = None
    leaves_at: Callable[[], float | None] = lambda: None
    """Asked before each step: when hosts leave because their capacity block ends."""

    def refuses(self, spent_s: float, price_per_hour: float, next_s: float, now: float) -> str:
        """Why the next step, expected to take `next_s`, must not start; empty when it may."""
        if self.seconds is not None and spent_s + next_s > self.seconds:
            return f"the time budget of {self.seconds / 3600:.2f} h would be exceeded"
        if self.usd is not None and (spent_s + next_s) * price_per_hour / 3600 > self.usd:
            return f"the budget of {self.usd:.2f} USD would be exceeded"
        if self.stop_at is not None and now + next_s > self.stop_at:
            return "it would not end before the time to stop"
        leaves_at = self.leaves_at()
        if leaves_at is not None and now + next_s >= leaves_at:
            moment = datetime.fromtimestamp(leaves_at, UTC)
            return f"it would not end before hosts leave with their capacity block, at {moment:%Y-%m-%d %H:%M} UTC"
        return ""


class BusyError(Exception):
    """Another sweep works in this directory."""


def identity(directory: Path) -> str:
    """Six digits of the sweep in this directory, the same in every attempt and no other sweep's."""
    file = directory / "id"
    if not file.exists():
        directory.mkdir(parents=True, exist_ok=True)
        partial = file.with_name("id.partial")
        partial.write_text(secrets.token_hex(3), encoding="ascii")
        partial.replace(file)
    return file.read_text(encoding="ascii").strip()


@contextlib.contextmanager
def alone(directory: Path) -> Iterator[None]:
    """No other sweep works in this directory meanwhile; `BusyError` where one does. A killed one holds nothing."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(
                f"another sweep works in {directory}: wait for its end, or give another --output"
            ) from error
        yield


class Journal:
    """What is done, a line each, on disk before it counts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, dict[str, Any]] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue  # the last line of an attempt that was killed while it wrote
                self.entries[entry["key"]] = entry

    def add(self, key: str, **entry: Any) -> None:
        """Record a finished measurement."""
        self.entries[key] = {"key": key, **entry}
        whole = not self.path.exists() or self.path.read_bytes()[-1:] in (b"", b"\n")
        with self.path.open("a", encoding="utf-8") as file:
            file.write(("" if whole else "\n") + json.dumps(self.entries[key], default=str) + "\n")
            file.flush()
            os.fsync(file.fileno())

    @property
    def spent_s(self) -> float:
        """Seconds that all finished measurements took, with the serving before them."""
        return sum(float(entry.get("seconds", 0)) for entry in self.entries.values())


@dataclass
class Progress:
    """How far a sweep is."""

    done: int
    total: int
    spent_s: float
    cost_usd: float
    left_s: float | None
    text: str


@dataclass
class Sweep:
    """A sweep in its directory: journal, runs, and in the end the report and the recommendation."""

    spec: Spec
    points: Sequence[Point]
    driver: Driver
    directory: Path
    budget: Budget = field(default_factory=Budget)
    on_progress: Callable[[Progress], None] = lambda _: None
    clock: Callable[[], float] = time.time
    retry: bool = False
    """Try again what failed in an earlier attempt."""
    guide: Guide | None = None
    """The forecast that orders the points and leaves out those that cannot win; None measures all as they stand."""

    def __post_init__(self) -> None:
        self.journal = Journal(self.directory / "journal.jsonl")
        self._retried: set[str] = set()
        self._served: Mapping[str, Any] | None = None
        self.stopped = ""
        self.left_out: dict[str, str] = {}
        """By a point's name, why it cannot win and is not measured."""

    def run(self) -> list[Measured]:
        """Measure what is not measured yet and return every run there is; `stopped` says why it ended early."""
        left = [point for point in self.points if point.possible]
        while left and not self.stopped:
            point = left[0] if self.guide is None else self.guide.next_of(left)
            left.remove(point)
            if self.guide is not None and (why := self.guide.cannot_win(point, self._best())):
                self.left_out[point.name] = why
                self._tell(f"{point.name}: left out, {why}")
                continue
            for load in self.spec.loads:
                self._measure(point, {**self.spec.load, **load})
            if self.spec.search is not None:
                self._search(point, self.spec.search)
        return self.measured()

    def _best(self) -> float:
        """The most tokens/s and host that a run made within the objective, 0 without one."""
        if self.spec.objective is None:
            return 0.0
        best = analysis.recommend(self.measured(), self.spec.objective)
        return 0.0 if best is None else best.report.results.throughput.output_tokens_per_s_per_host

    def _learn(self, point: Point, load: Mapping[str, Any], entry: Mapping[str, Any]) -> None:
        if self.guide is None or not entry.get("run"):
            return
        try:
            (run,) = analysis.read([self.directory / entry["run"]])
        except ReportError:
            return
        self.guide.learn(point, str(entry["key"]), load, run)

    def measured(self) -> list[Measured]:
        """The runs that the journal names, without those that failed."""
        found = []
        for entry in self.journal.entries.values():
            if entry.get("run"):
                try:
                    found += analysis.read([self.directory / entry["run"]])
                except ReportError:
                    continue
        return found

    def _search(self, point: Point, search: Search) -> None:
        def keeps(rate: float) -> bool | None:
            return self._keeps(point, {**self.spec.load, "request_rate_per_s": rate})

        highest_rate(keeps, search)

    def _keeps(self, point: Point, load: Mapping[str, Any]) -> bool | None:
        entry = self._measure(point, load)
        if entry is None or self.spec.objective is None:
            return None
        if not entry.get("run"):
            return False
        return analysis.read([self.directory / entry["run"]])[0].keeps(self.spec.objective)

    def _measure(self, point: Point, load: Mapping[str, Any]) -> dict[str, Any] | None:
        """The journal's entry of one measurement, made now where there is none; None when the budget ended it."""
        key = key_of(point.fields, load)
        known = self.journal.entries.get(key)
        again = known is not None and not known.get("run") and self.retry and key not in self._retried
        if known is not None and not again:
            self._learn(point, load, known)
            return known
        if self.stopped or self._over_budget(point):
            return None
        began = self.clock()
        self._retried.add(key)
        self._tell(f"{point.name}: serve")
        try:
            if self._served != point.fields:
                self._served = None
                self.driver.serve(point.fields)
                self._served = dict(point.fields)
            self._tell(f"{point.name}: measure {_text(load)}")
            attempt = int((known or {}).get("attempt", 0)) + 1
            name = f"sweep-{identity(self.directory)}-{key}" + (f"-{attempt}" if attempt > 1 else "")
            run = self.driver.measure(point.fields, load, name)
            outcome: dict[str, Any] = {"run": os.path.relpath(run, self.directory)}
        except StepError as error:
            outcome = {"run": "", "error": str(error)}
        outcome["seconds"] = self.clock() - began + float((known or {}).get("seconds", 0))
        outcome["attempt"] = int((known or {}).get("attempt", 0)) + 1
        self.journal.add(key, fields=dict(point.fields), load=dict(load), hosts=point.hosts, **outcome)
        self._learn(point, load, self.journal.entries[key])
        self._tell(f"{point.name}: {outcome.get('error') or 'done'}")
        return self.journal.entries[key]

    def _over_budget(self, point: Point) -> bool:
        done = [float(entry.get("seconds", 0)) for entry in self.journal.entries.values()]
        expected = max(done, default=0.0)
        price = (self.spec.price_per_host_hour_usd or 0.0) * point.hosts
        self.stopped = self.budget.refuses(self.journal.spent_s, price, expected, self.clock())
        return bool(self.stopped)

    def _tell(self, text: str) -> None:
        possible = [point for point in self.points if point.possible and point.name not in self.left_out]
        total = len(possible) * len(self.spec.loads)
        done = len(self.journal.entries)
        spent = self.journal.spent_s
        left = spent / done * max(0, total - done) if done and self.spec.search is None else None
        hosts = max((point.hosts for point in possible), default=1)
        cost = spent / 3600 * (self.spec.price_per_host_hour_usd or 0.0) * hosts
        self.on_progress(Progress(done, total, spent, cost, left, text))


def highest_rate(keeps: Callable[[float], bool | None], search: Search) -> float | None:
    """The highest rate known to keep the objective, within the tolerance; None when even the lowest does not.

    `keeps` may answer None: the budget is used up, and the search ends with what it knows.
    """
    low, high = search.low_per_s, search.high_per_s
    if not keeps(low):
        return None
    if keeps(high):
        return high
    while high / low > 1 + search.tolerance:
        middle = (low * high) ** 0.5
        verdict = keeps(middle)
        if verdict is None:
            break
        low, high = (middle, high) if verdict else (low, middle)
    return low


def _text(load: Mapping[str, Any]) -> str:
    if load.get("request_rate_per_s"):
        return f"{load['request_rate_per_s']:.3g} requests/s"
    return f"{load['concurrency']} streams" if load.get("concurrency") else "a stream for each sequence"
