# SPDX-License-Identifier: Apache-2.0
"""What several runs say together: curves, the best configuration for an objective, and whether two runs differ."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from trainyard.paths import ROOT  # noqa: F401 - makes the collection importable

# Before Ansible's loader knows the collection: it does not find the rest of a package that it did not load itself.
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.figures import (  # isort: skip
    goodput_of,
    percentile,
    time_per_output_token_ms,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.reading import Record, load, records_of  # isort: skip
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.schema import BenchmarkReport, Objective  # isort: skip
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.text import names_text  # isort: skip

#: Resamples of the bootstrap: enough for the second digit of a 95 % interval.
_RESAMPLES = 1000


@dataclass(frozen=True)
class Measured:
    """A run: its report, and its requests' records where its directory still has them."""

    report: BenchmarkReport
    records: list[Record] = field(default_factory=list)
    path: Path | None = None

    @property
    def parallelism(self) -> str:
        """How the cores are divided, such as `TP 32 x DP 2`."""
        scenario = self.report.scenario
        return f"TP {scenario.tensor_parallel_size or '?'} x DP {scenario.data_parallel_size}"

    @property
    def batch(self) -> int | None:
        """Sequences that each replica runs at once; None where they differ or it is not known."""
        batches = {replica.max_num_seqs for replica in self.report.scenario.replicas}
        return batches.pop() if len(batches) == 1 else None

    @property
    def configuration(self) -> str:
        """The served configuration as one label, such as `TP 32 x DP 2, batch 4`."""
        return self.parallelism if self.batch is None else f"{self.parallelism}, batch {self.batch}"

    @property
    def short(self) -> str:
        """The same in a chart, such as `TP 32, batch 4`."""
        degree = f"TP {self.report.scenario.tensor_parallel_size or '?'}"
        return degree if self.batch is None else f"{degree}, batch {self.batch}"

    @property
    def offered(self) -> str:
        """The load as one label."""
        load = self.report.load
        offered = f"{load.rate_per_s:g}/s" if load.loop == "open" else f"{load.concurrency} streams"
        return f"{offered}, {names_text(load)}" if load.models else offered

    def keeps(self, objective: Objective) -> bool:
        """Whether the run kept the objective: by its records, or by percentiles where those are gone."""
        if not self.report.sound:
            return False
        if self.records:
            duration_s = self.report.run.duration_s
            return goodput_of(self.records, duration_s, objective).kept
        return _kept_by_percentiles(self.report, objective)


def _kept_by_percentiles(report: BenchmarkReport, objective: Objective) -> bool:
    latency = report.results.latency
    marks = {50: "p50", 90: "p90", 95: "p95", 99: "p99"}
    mark = next((name for limit, name in marks.items() if objective.percentile <= limit), "max")
    for limit, values in (
        (objective.time_to_first_token_ms, latency.time_to_first_token_ms),
        (objective.time_per_output_token_ms, latency.time_per_output_token_ms),
        (objective.request_latency_ms, latency.request_latency_ms),
    ):
        if limit is not None and (values is None or getattr(values, mark) > limit):
            return False
    return True


def read(paths: Sequence[Path]) -> list[Measured]:
    """The runs at `paths` (directories or report.json files), by time. `ReportError` names what is none."""
    runs = []
    for path in paths:
        directory = path if path.is_dir() else path.parent
        runs.append(Measured(load(path), records_of(directory), directory))
    return sorted(runs, key=lambda run: run.report.run.started_at)


@dataclass(frozen=True)
class Point:
    """One run in a plane: per-user speed against what a host makes."""

    run: Measured
    tokens_per_s_per_user: float
    tokens_per_s_per_host: float
    best: bool = False


def pareto(runs: Sequence[Measured]) -> list[Point]:
    """Every run that says something, those that no other beats in both directions marked as best."""
    points = []
    for run in runs:
        user = run.report.results.throughput.output_tokens_per_s_per_user
        if user is not None:
            points.append(Point(run, user.p50, run.report.results.throughput.output_tokens_per_s_per_host))
    return [
        Point(
            point.run,
            point.tokens_per_s_per_user,
            point.tokens_per_s_per_host,
            best=point.run.report.sound and not any(_beats(other, point) for other in points),
        )
        for point in points
    ]


def _beats(other: Point, point: Point) -> bool:
    user = other.tokens_per_s_per_user - point.tokens_per_s_per_user
    host = other.tokens_per_s_per_host - point.tokens_per_s_per_host
    return other.run.report.sound and min(user, host) >= 0 and max(user, host) > 0


def recommend(runs: Sequence[Measured], objective: Objective) -> Measured | None:
    """The sound run with the most output tokens/s a host that kept the objective; None when none did."""
    kept = [run for run in runs if run.keeps(objective)]
    return max(kept, key=lambda run: run.report.results.throughput.output_tokens_per_s_per_host, default=None)


def overrides(run: Measured) -> str:
    """The run's configuration as variables that site.yml takes with `-e @FILE`."""
    scenario = run.report.scenario
    first = scenario.replicas[0]
    fields: dict[str, Any] = {
        "tensor_parallel_size": scenario.tensor_parallel_size,
        "data_parallel_size": scenario.data_parallel_size // max(1, scenario.hosts),
        "max_num_seqs": first.max_num_seqs,
        "max_model_len": first.max_model_len,
    }
    known = {name: value for name, value in fields.items() if value is not None}
    name = scenario.deployment or scenario.model
    head = f"# {run.configuration}, measured in run {run.report.run.id} ({run.report.provenance})\n"
    return head + yaml.safe_dump({"trainyard_overrides": {name: known}}, sort_keys=False)


@dataclass(frozen=True)
class Difference:
    """One figure of two runs: values, change of the second against the first, and its 95 % interval."""

    name: str
    first: float
    second: float
    change: float
    low: float | None
    high: float | None

    @property
    def significant(self) -> bool | None:
        """Whether the interval of the change leaves out zero; None where there are no records to tell."""
        return None if self.low is None or self.high is None else not self.low <= 0 <= self.high


def values_of(rows: Sequence[Record], name: str) -> list[float]:
    """`ttft_s`, `e2e_s` or `tpot` of the requests that succeeded, in ms."""
    good = [row for row in rows if row["outcome"] == "succeeded"]
    if name == "tpot":
        return [value for row in good if (value := time_per_output_token_ms(row)) is not None]
    return [row[name] * 1000 for row in good if row[name] is not None]


def compare(first: Measured, second: Measured) -> list[Difference]:
    """How the second run differs from the first. Latencies by a bootstrap over requests, throughput over repeats.

    Requests of one run are not independent of each other (they share queues), so the bootstrap's intervals are somewhat
    too narrow; repeats are what shows a small difference beyond doubt.
    """
    found = [_throughput_difference(first, second)]
    figures: tuple[tuple[str, str, Callable[[Sequence[float]], float]], ...] = (
        ("TTFT p50 ms", "ttft_s", statistics.median),
        ("TTFT p99 ms", "ttft_s", lambda values: percentile(sorted(values), 99)),
        ("per token p50 ms", "tpot", statistics.median),
        ("per token p99 ms", "tpot", lambda values: percentile(sorted(values), 99)),
        ("request p50 ms", "e2e_s", statistics.median),
    )
    for title, name, figure in figures:
        one, other = values_of(first.records, name), values_of(second.records, name)
        if one and other:
            found.append(_bootstrap(title, one, other, figure))
    return found


def _throughput_difference(first: Measured, second: Measured) -> Difference:
    one, other = (run.report.results.throughput.output_tokens_per_s for run in (first, second))
    pair = [run.report.results.confidence.get("output_tokens_per_s") for run in (first, second)]
    low = high = None
    if pair[0] is not None and pair[1] is not None and one > 0:
        # The two half-widths are of independent means: their squares add.
        half = (pair[0].half_width ** 2 + pair[1].half_width ** 2) ** 0.5 / one
        low, high = other / one - 1 - half, other / one - 1 + half
    return Difference("output tokens/s", one, other, other / one - 1 if one else 0.0, low, high)


def _bootstrap(
    title: str, one: Sequence[float], other: Sequence[float], figure: Callable[[Sequence[float]], float]
) -> Difference:
    rng = random.Random(1)  # noqa: S311 - a repeatable interval, no secret
    base, now = figure(one), figure(other)
    changes = sorted(
        figure(rng.choices(other, k=len(other))) / figure(rng.choices(one, k=len(one))) - 1 for _ in range(_RESAMPLES)
    )
    low, high = (percentile(changes, mark) for mark in (2.5, 97.5))
    return Difference(title, base, now, now / base - 1, low, high)
