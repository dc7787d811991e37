# SPDX-License-Identifier: Apache-2.0
"""What a load makes of a configuration, and the ranges that the model's errors make of it."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.calibration import published
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.figures import (
    Load,
    Setup,
    forecast,
    highest_rate,
    kept,
    run,
    usd_per_million,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.queueing import Job, closed_loop, open_loop
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.schema import Objective
from ansible_collections.trainyard.neuron.tests.unit.plugins.plugin_utils.forecast.test_latency import LLAMA_70B, speed

GIB = 1 << 30


def setup(cores: int = 32, batch: int = 4, replicas: int = 2, length: int = 8192) -> Setup:
    return Setup(speed(LLAMA_70B, length, batch, cores), batch, replicas, 1, 200 * GIB, 768 * GIB, 141 * 10**9)


def test_one_stream_has_the_times_of_the_model_itself() -> None:
    one = setup()
    jobs = closed_loop(one.speed, 4, [Job(1000, 20) for _ in range(3)], 1)
    assert [job.ttft_s for job in jobs] == pytest.approx([one.speed.prefill_seconds(1000)] * 3)
    assert [job.tpot_s for job in jobs] == pytest.approx([one.speed.step_seconds(1000)] * 3)
    assert jobs[1].arrived_s == jobs[0].ended_s


def test_a_request_without_a_slot_waits_and_a_prefill_delays_every_decode() -> None:
    one = setup()
    first, step = one.speed.prefill_seconds(1), one.speed.step_seconds(1)
    waiting = closed_loop(one.speed, 1, [Job(1, 3), Job(1, 3)], 2)
    assert waiting[1].ttft_s == pytest.approx(2 * first + 2 * step)
    both = closed_loop(one.speed, 2, [Job(1, 3), Job(1, 3)], 2)
    assert both[0].latency_s == pytest.approx(2 * first + 2 * step)


def test_a_longer_sequence_takes_its_longer_graph_when_it_is_reached() -> None:
    one = replace(setup().speed, decode_buckets=(128, 8192))
    (job,) = closed_loop(one, 1, [Job(120, 20)], 1)
    short, long = one.step_seconds(128), one.step_seconds(129)
    # The first token comes with the prefill; sequences of 121 to 128 tokens take the short graph.
    assert job.ended_s - job.first_s == pytest.approx(8 * short + 11 * long)


def test_requests_go_to_the_replica_with_the_least_in_flight() -> None:
    one = setup()
    jobs = [Job(1000, 50) for _ in range(40)]
    many = open_loop(one.speed, 4, 4, jobs, 3.0, random.Random(1))  # noqa: S311 - seeded on purpose
    alone = open_loop(one.speed, 4, 1, [Job(1000, 50) for _ in range(40)], 3.0, random.Random(1))  # noqa: S311 - seeded on purpose
    assert sum(job.ttft_s for job in many) < sum(job.ttft_s for job in alone) / 4


def test_throughput_is_that_of_all_replicas_even_where_streams_do_not_divide() -> None:
    even, odd = run(setup(), Load(1000, 100, streams=4)), run(setup(), Load(1000, 100, streams=3))
    assert even.output_tokens_per_s > odd.output_tokens_per_s > 0.6 * even.output_tokens_per_s
    many = run(setup(replicas=200), Load(1000, 100))
    assert many.output_tokens_per_s == pytest.approx(100 * run(setup(), Load(1000, 100)).output_tokens_per_s)


def test_the_highest_rate_keeps_the_objective_and_a_higher_one_does_not() -> None:
    objective, load = Objective(time_to_first_token_ms=3000, percentile=90), Load(4000, 100)
    rate = highest_rate(setup(), load, objective)
    assert kept(run(setup(), replace(load, rate_per_s=rate)).jobs, objective)
    assert not kept(run(setup(), replace(load, rate_per_s=1.1 * rate)).jobs, objective)
    assert highest_rate(setup(), load, Objective(time_to_first_token_ms=1)) == 0.0


def test_a_range_holds_its_figure_and_widens_with_the_errors() -> None:
    objective = Objective(time_to_first_token_ms=3000, percentile=90)
    narrow = published()
    wide = narrow.model_copy(
        update={"errors": narrow.errors.model_copy(update={"prefill_factor": 2.0, "decode_factor": 2.0})}
    )
    for name, figure in forecast(setup(), Load(4000, 100), narrow, objective, 35.0).items():
        if not isinstance(figure, dict):
            continue
        assert figure["low"] <= figure["value"] <= figure["high"], name
        if name not in ("start_s", "compile_s"):
            wider = forecast(setup(), Load(4000, 100), wide, objective, 35.0)[name]
            assert wider["low"] < figure["low"] < figure["high"] < wider["high"], name


def test_a_forecast_is_called_one_and_says_where_its_constants_are_from() -> None:
    found = forecast(setup(), Load(4000, 100), published())
    assert (found["called"], found["provenance"]) == ("forecast", "fitted to published points")
    assert found["usd_per_million_output_tokens"] is None and found["highest_rate_within_objective_per_s"] is None


def test_a_price_is_that_of_all_hosts_over_the_tokens() -> None:
    assert usd_per_million(36.0, 2, 100.0) == pytest.approx(36 * 2 / 3600 * 1e4)
    assert usd_per_million(36.0, 2, 0.0) is None
    found = forecast(setup(), Load(4000, 100), published(), None, 36.0)
    assert found["usd_per_million_output_tokens"]["value"] == pytest.approx(
        36 / 3600 * 1e6 / found["output_tokens_per_s"]["value"], rel=1e-3
    )


def test_weights_that_are_cut_already_load_faster_and_take_longer_to_compile() -> None:
    plain, cut = (forecast(replace(setup(), presharded=one), Load(10, 10), published()) for one in (False, True))
    assert cut["start_s"]["value"] < plain["start_s"]["value"]
    assert cut["compile_s"]["value"] > plain["compile_s"]["value"]


def test_the_tutorials_law_up_to_twice_the_throughput_at_a_later_first_token() -> None:
    """AWS's tutorial on data parallelism: TP 64 / DP 1 to TP 16 / DP 4 at batch 1 and 4."""
    load = Load(7936, 256, 30, 30)
    for batch in (1, 4):
        wide, narrow = run(setup(64, batch, 1, 9216), load), run(setup(16, batch, 4, 9216), load)
        assert 1.7 < narrow.output_tokens_per_s / wide.output_tokens_per_s < 2.4
        assert 1.1 < narrow.ttft_ms(50) / wide.ttft_ms(50) < 3
