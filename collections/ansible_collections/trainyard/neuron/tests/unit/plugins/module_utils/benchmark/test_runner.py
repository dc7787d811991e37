# SPDX-License-Identifier: Apache-2.0
"""A load is checked before anything is sent; names and inputs of a run are what they should be."""

from __future__ import annotations

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.benchmark import runner


def test_everything_wrong_with_a_load_is_said_at_once() -> None:
    with pytest.raises(runner.RunError) as caught:
        runner.resolve_load({"requests": 0, "arrival": "bursty", "concurency": 4, "timeout_s": -1}, slots=0)
    text = str(caught.value)
    for part in (
        "requests: 0",
        "arrival: bursty",
        "concurency: 4, is no field here; did you mean 'concurrency'?",
        "timeout_s: -1",
        "concurrency: 0 means",
    ):
        assert part in text


def test_concurrency_is_batch_times_replicas_unless_said() -> None:
    slots = runner.slots_of([{"max_num_seqs": 4}, {"max_num_seqs": 4}])
    assert runner.resolve_load({}, slots)["concurrency"] == 8
    assert runner.resolve_load({"concurrency": 3}, slots)["concurrency"] == 3
    assert runner.resolve_load({"request_rate_per_s": 2.5}, slots)["concurrency"] == 0


def test_rounds_are_requests_for_each_stream() -> None:
    assert runner.resolve_load({"rounds": 4}, slots=8)["requests"] == 32
    assert runner.resolve_load({"preset": "llama-3-3-70b", "rounds": 2}, slots=4)["requests"] == 8
    with pytest.raises(runner.RunError, match="rounds: 4, an open loop"):
        runner.resolve_load({"rounds": 4, "request_rate_per_s": 1}, slots=8)


def test_a_preset_is_changed_by_the_fields_beside_it() -> None:
    load = runner.resolve_load({"preset": "qwen3-32b", "requests": 3}, slots=32)
    assert (load["requests"], load["mean_output_tokens"], load["concurrency"]) == (3, 512, 1)
    with pytest.raises(runner.RunError, match="preset: qwen, must be one of conversations, llama-3-3-70b, qwen3-32b"):
        runner.resolve_load({"preset": "qwen"}, slots=1)


def test_names_of_runs_never_repeat() -> None:
    names = {runner.new_id("Meta-Llama/Llama 3.3") for _ in range(20)}
    assert len(names) == 20
    assert all("-meta-llama-llama-3-3-" in name for name in names)


@pytest.mark.parametrize(
    "replicas", [[], [{"id": "a"}], [{"url": "http://a"}], [{"id": "a", "url": "x"}, {"id": "a", "url": "y"}]]
)
def test_replicas_need_an_id_of_their_own_and_a_url(replicas: list[dict[str, str]]) -> None:
    with pytest.raises(runner.RunError, match="benchmark_replicas"):
        runner.by_id(replicas)


def test_a_clock_of_the_client_s_own_is_moved_to_the_load_s_start() -> None:
    rows = [{"started_at": 5.0}, {"started_at": 7.5}, {"started_at": None}]
    moved = [row["started_at"] for row in runner.place_in_time(rows, 1_800_000_000.0)]
    assert moved == [1_800_000_000.0, 1_800_000_002.5, None]
    wall = [{"started_at": 1_800_000_001.0}]
    assert runner.place_in_time(wall, 1_800_000_000.0) == wall
