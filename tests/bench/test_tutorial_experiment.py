# SPDX-License-Identifier: Apache-2.0
"""AWS's data-parallel tutorial by its sweep file: what it says, beside the forecast and a simulated run of each point.

Its words: "up to 2x" the throughput from TP 64 / DP 1 to TP 16 / DP 4, with batch 1 and 4, and a higher time to first
token. It publishes no table, so the words are all there is to hold.
"""

from __future__ import annotations

from functools import cache

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.benchmark.presets import PRESETS
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.calibration import published
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.figures import Load, Setup, run
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.latency import PEAKS, Speed, Work
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.fit import ModelShape
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.known_models import known_config

from lab.neuron_sim import latency
from tests.bench.seeded_truths import LARGE
from tests.simulated_runs import CORES, CORES_PER_DEVICE, Configuration, Sent, records, report_of
from trainyard.paths import ROOT
from trainyard.sweep import spec

FILE = ROOT / "sweeps/llama-3-3-70b.yml"
#: Tokens that graphs are compiled for, as the tutorial's source has it.
LENGTH = 8192
#: Up to twice, and what the model's own errors may add (docs/lab.md has 2.1 and 2.2).
LEAST, MOST = 1.5, 2.3


@cache
def simulated(cores: int, batch: int) -> tuple[float, float]:
    """Tokens/s of the host and median time to first token, ms, of a run of the simulated engine."""
    load = PRESETS["llama-3-3-70b"]
    given = Configuration(cores, batch, LENGTH)
    sent = Sent(load["mean_input_tokens"], load["mean_output_tokens"], 0, 4 * batch * CORES // cores)
    report = report_of(LARGE, given, sent, records(LARGE, given, sent, latency.Constants()), f"{cores}-{batch}")
    first = report.results.latency.time_to_first_token_ms
    assert first is not None and report.provenance == "simulated"
    return report.results.throughput.output_tokens_per_s, first.p50


@cache
def foretold(cores: int, batch: int) -> tuple[float, float]:
    """The same as the forecast has it, by the published constants."""
    load = PRESETS["llama-3-3-70b"]
    work = Work.of(ModelShape.from_config(known_config(LARGE) or {}))
    lengths = (LENGTH,)
    speed = Speed(work, published().values, PEAKS["trn2"], cores, CORES_PER_DEVICE, batch, lengths, lengths)
    setup = Setup(speed, batch, CORES // cores, 1, None, 0, 0)
    ran = run(setup, Load(load["mean_input_tokens"], load["mean_output_tokens"]))
    return ran.output_tokens_per_s, ran.ttft_ms(50)


def test_the_file_has_the_tutorials_points() -> None:
    points = {(one["tensor_parallel_size"], one["max_num_seqs"]) for one in spec.combinations(spec.read(FILE))}
    assert points == {(cores, batch) for cores in (64, 32, 16) for batch in (1, 4)}
    assert "up to twice the throughput, and a later first token" in FILE.read_text()


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("figures", [simulated, foretold])
def test_up_to_twice_the_throughput_at_a_later_first_token(figures: object, batch: int) -> None:
    assert callable(figures)
    (before, first), (after, later) = figures(64, batch), figures(16, batch)
    assert LEAST <= after / before <= MOST
    assert later > first
    middle, between = figures(32, batch)
    assert before < middle < after and first < between < later


@pytest.mark.parametrize("batch", [1, 4])
def test_forecast_and_simulated_run_have_the_same_law(batch: int) -> None:
    for index in (0, 1):
        law = [figures(16, batch)[index] / figures(64, batch)[index] for figures in (simulated, foretold)]
        assert law[0] == pytest.approx(law[1], rel=0.1)
