# SPDX-License-Identifier: Apache-2.0
"""Truths by seed, of which calibration and a sweep know nothing: what `bench/forecast.py` measures and tests hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast import fitting
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.calibration import published
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.figures import Setup
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.latency import PEAKS, Speed, Work
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.runs import point_of
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.fit import ModelShape
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.known_models import known_config
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.schema import BenchmarkReport

from tests.simulated_runs import CORES, CORES_PER_DEVICE, Configuration, Sent, changed, records, report_of, write_run
from trainyard.report import analysis
from trainyard.sweep import spec
from trainyard.sweep.engine import Sweep
from trainyard.sweep.guide import Guide
from trainyard.sweep.spec import Point, Spec

SMALL, LARGE = "meta-llama/Llama-3.2-1B-Instruct", "meta-llama/Llama-3.3-70B-Instruct"
#: Runs that tell the constants apart: cores from 1 to 64, short and long sequences, one stream a replica.
SIX = [
    Configuration(*one) for one in ((1, 4, 128), (16, 1, 16384), (8, 1, 128), (2, 4, 128), (2, 1, 4096), (64, 1, 128))
]
#: Other cores, batches and lengths, under load: a stream for each sequence, and half as many again.
TWELVE = [
    (Configuration(cores, batch, length), Sent(int(length * 0.8), 24, int(batch * 64 / cores * more), 60 * 64 // cores))
    for cores, batch, length, more in (
        (4, 1, 512, 1), (4, 8, 2048, 1.5), (8, 4, 1024, 1), (8, 16, 512, 1.5), (16, 2, 8192, 1), (16, 8, 256, 1),
        (32, 4, 4096, 1.5), (32, 16, 1024, 1), (64, 4, 512, 1), (64, 8, 8192, 1.5), (1, 8, 1024, 1), (2, 16, 2048, 1),
    )
]  # fmt: skip


def run_of(
    seed: int, number: int, given: Configuration, sent: Sent, noise: float
) -> tuple[BenchmarkReport, list[dict[str, Any]]]:
    """A run of the small model under the seed's truth."""
    rows = records(SMALL, given, sent, changed(seed), noise, seed * 100 + number)
    return report_of(SMALL, given, sent, rows, f"run-{number}"), rows


def six(seed: int, noise: float) -> list[tuple[BenchmarkReport, list[dict[str, Any]]]]:
    """The runs that a calibration gets."""
    return [
        run_of(seed, number, given, Sent(given.length // 2, 16, given.replicas, 2000), noise)
        for number, given in enumerate(SIX)
    ]


def calibration(seed: int, noise: float = 0.0) -> dict[str, float]:
    """How far the furthest constant is off after six runs, and the furthest of twelve other forecasts, as shares."""
    begun = published().values
    found, _errors = fitting.fit([point_of(report, begun, {}) for report, _rows in six(seed, noise)], begun)
    truth = asdict(changed(seed))
    others = [run_of(seed, 50 + index, given, sent, noise)[0] for index, (given, sent) in enumerate(TWELVE)]
    off = fitting.misses([point_of(report, found, {}) for report in others], found)
    return {
        "constants_off": max(abs(getattr(found, name) / value - 1) for name, value in truth.items()),
        "forecasts_off": max(abs(one.factor - 1) for one in off),
    }


LENGTH, ROUNDS, SENT = 2048, 5, Sent(1900, 100)
GRID = {"tensor_parallel_size": [64, 32, 16, 8], "max_num_seqs": [1, 4, 8, 16]}
#: What a request must keep; by seed, so that each truth has its own best configuration.
OBJECTIVES = (
    {"time_to_first_token_ms": 3000, "time_per_output_token_ms": 100, "percentile": 90},
    {"time_to_first_token_ms": 1200, "time_per_output_token_ms": 60, "percentile": 90},
    {"time_to_first_token_ms": 6000, "time_per_output_token_ms": 250, "percentile": 90},
    {"request_latency_ms": 12000, "percentile": 90},
)


@dataclass
class SeededFleet:
    """A driver whose fleet is the stand-in's engine under a seed's truth; its clock is that of the load."""

    seed: int
    directory: Path
    clock_s: float = 0.0
    served: dict[str, Any] = field(default_factory=dict)

    def serve(self, fields: Mapping[str, Any]) -> None:
        self.served = dict(fields)

    def measure(self, fields: Mapping[str, Any], load: Mapping[str, Any], name: str) -> Path:
        assert load["rounds"] == ROUNDS
        given = Configuration(int(fields["tensor_parallel_size"]), int(fields["max_num_seqs"]), LENGTH)
        sent = Sent(SENT.input_tokens, SENT.output_tokens, 0, ROUNDS * given.batch * given.replicas)
        rows = records(LARGE, given, sent, changed(self.seed), 0.02, self.seed)
        report = report_of(LARGE, given, sent, rows, name)
        self.clock_s += report.run.duration_s
        return write_run(self.directory / "runs" / name, report, rows)

    def now(self) -> float:
        return self.clock_s


def sweep_spec(seed: int) -> Spec:
    """The sweep of a seed."""
    load = {"mean_input_tokens": SENT.input_tokens, "mean_output_tokens": SENT.output_tokens, "rounds": ROUNDS}
    return Spec.from_dict(
        {"deployment": "m", "grid": GRID, "load": load, "objective": OBJECTIVES[seed % len(OBJECTIVES)]}
    )


def points(given: Spec) -> list[Point]:
    """Its points with what a forecast takes of them; none is impossible."""
    work = Work.of(ModelShape.from_config(known_config(LARGE) or {}))
    found = []
    for fields in spec.combinations(given):
        cores, batch = int(fields["tensor_parallel_size"]), int(fields["max_num_seqs"])
        lengths = (LENGTH,)
        speed = Speed(work, published().values, PEAKS["trn2"], cores, CORES_PER_DEVICE, batch, lengths, lengths)
        setup = Setup(speed, batch, CORES // cores, 1, None, 0, 0)
        found.append(Point(fields, (f"{cores}-{batch}",), setup=setup))
    return found


def sweep(seed: int, directory: Path) -> dict[str, Any]:
    """The guided sweep of a seed against the exhaustive one: share of the time, distance from the optimum."""
    given = sweep_spec(seed)
    assert given.objective is not None
    times, best, measured = [], [], []
    for name, guide in (("exhaustive", None), ("guided", Guide(given, published()))):
        fleet = SeededFleet(seed, directory / name)
        made = Sweep(given, points(given), fleet, directory / name, clock=fleet.now, guide=guide)
        runs = made.run()
        won = analysis.recommend(runs, given.objective)
        times.append(made.journal.spent_s)
        measured.append(len(runs))
        best.append(0.0 if won is None else won.report.results.throughput.output_tokens_per_s_per_host)
    return {
        "share": times[1] / times[0],
        "distance": 1 - best[1] / best[0] if best[0] else 0.0,
        "measured": measured[1],
        "possible": measured[0],
    }
