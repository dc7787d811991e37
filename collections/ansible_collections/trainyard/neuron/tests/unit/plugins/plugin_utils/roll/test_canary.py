# SPDX-License-Identifier: Apache-2.0
"""Canary against peers: what is found worse, what is not, and what is said when nothing can be said."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.roll.metrics import (
    Histogram,
    Reading,
    answers_load,
    read,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.canary import (
    Thresholds,
    Watched,
    agreement,
    compare,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.state import RollError

GOLDEN = {"Count:": "one two three four five six", "Say hello.": "hello there my friend"}


def watched(
    requests: int = 100, ttft: float = 0.2, per_token: float = 0.02, length: float = 128, **more: Any
) -> Watched:
    reading = Reading(
        ttft=Histogram(((1.0, requests),), ttft * requests, requests),
        per_token=Histogram(((1.0, requests),), per_token * requests, requests),
        output_tokens=Histogram(((1024, requests),), length * requests, requests),
    )
    return Watched(**{"reading": reading, "requests": requests, "golden": GOLDEN, **more})


def test_an_equal_replica_passes_and_says_what_was_compared() -> None:
    verdict = compare(watched(), [watched(), watched(300)], Thresholds(), same_weights=True)
    assert verdict.ok
    assert len(verdict.seen) == 5
    assert verdict.seen[0] == "failed requests 0 of 100 (0.00%), peers 0 of 400 (0.00%), margin 1.00%"
    assert verdict.notes == ()


@pytest.mark.parametrize(
    ("canary", "finding"),
    [
        (watched(errors=2), "failed requests 2 of 100 (2.00%)"),
        (watched(ttft=0.4), "mean time to first token 400.0 ms, peers 200.0 ms"),
        (watched(per_token=0.04), "mean time per token 40.0 ms, peers 20.0 ms"),
        (watched(length=300), "mean output length 300.0 tokens, peers 128.0"),
        (watched(length=5), "mean output length 5.0 tokens, peers 128.0"),
        (watched(golden=dict.fromkeys(GOLDEN, "zq zq zq zq")), "golden completions agree for 0% of their length"),
        (watched(golden={**GOLDEN, "Count:": " "}), "empty completion of 1 of 2 golden prompts"),
    ],
)
def test_a_worse_replica_is_found_and_only_for_what_it_is_worse_at(canary: Watched, finding: str) -> None:
    verdict = compare(canary, [watched(), watched()], Thresholds(), same_weights=True)
    assert [text for text in verdict.worse if finding in text], verdict
    assert len(verdict.worse) == 1


def test_a_better_replica_passes() -> None:
    peer = watched(ttft=0.4, per_token=0.04, errors=5)
    assert compare(watched(), [peer], Thresholds(), same_weights=True).ok


def test_small_differences_of_fast_engines_are_not_worse() -> None:
    """1 ms against 3 ms is a ratio of 3 and means nothing."""
    assert compare(watched(ttft=0.003), [watched(ttft=0.001)], Thresholds(), same_weights=True).ok


def lengths(*tokens: int) -> Histogram:
    """A histogram of output lengths with the buckets of vLLM."""
    bounds = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
    return Histogram(tuple((b, sum(t <= b for t in tokens)) for b in bounds), sum(tokens), len(tokens))


def test_a_few_short_answers_by_chance_are_not_worse() -> None:
    """Seen in a lab: streams of 5 to 80 tokens, of which a short watch caught four short ones."""
    few = Watched(Reading(output_tokens=lengths(6, 9, 14, 15)), 4, 0, GOLDEN)
    many = Watched(Reading(output_tokens=lengths(*[5, 9, 14, 22, 35, 70] * 6)), 36, 0, GOLDEN)
    limits = Thresholds(min_requests=3)
    assert compare(few, [many], limits, same_weights=True).ok
    always_short = Watched(Reading(output_tokens=lengths(*[6, 9, 10, 11] * 15)), 60, 0, GOLDEN)
    verdict = compare(always_short, [many], limits, same_weights=True)
    assert [text for text in verdict.worse if "mean output length 9.0 tokens" in text]


def test_many_tokens_of_one_request_are_one_observation() -> None:
    """Seen with the real engine on a busy machine: one stream in a hiccup, and a sound replica was taken back."""
    one = Reading(ttft=Histogram(((1.0, 1),), 0.2, 1), per_token=Histogram(((1.0, 200),), 200 * 0.1, 200))
    verdict = compare(Watched(one, 1, 0, GOLDEN), [watched()], Thresholds(), same_weights=True)
    assert verdict.ok
    assert "time per token not compared: 1 requests here and 100 at the peers, 20 wanted of each" in verdict.notes


def test_too_little_traffic_is_said_and_golden_completions_still_count() -> None:
    bad = watched(3, ttft=9, golden={"Count:": "noise", "Say hello.": "noise"})
    verdict = compare(bad, [watched()], Thresholds(), same_weights=True)
    assert [text.split(":")[0] for text in verdict.notes] == [
        "time to first token not compared",
        "time per token not compared",
        "output length not compared",
    ]
    assert len(verdict.worse) == 1
    assert "noise" in verdict.worse[0]


def test_peers_with_too_little_traffic_are_no_measure() -> None:
    slow = watched(ttft=9, per_token=9, length=9)
    verdict = compare(slow, [watched(3)], Thresholds(), same_weights=True)
    assert verdict.ok
    assert "time to first token not compared: 100 requests here and 3 at the peers, 20 wanted of each" in verdict.notes


def test_other_weights_may_answer_otherwise() -> None:
    other = watched(golden={"Count:": "uno dos tres", "Say hello.": "hola amigo"})
    verdict = compare(other, [watched()], Thresholds(), same_weights=False)
    assert verdict.ok
    assert any("the weights changed" in note for note in verdict.notes)


def test_without_peers_only_errors_count() -> None:
    assert compare(watched(ttft=9), [], Thresholds(), same_weights=True).ok
    assert not compare(watched(errors=2), [], Thresholds(), same_weights=True).ok


def test_silence_is_noted() -> None:
    verdict = compare(Watched(), [watched()], Thresholds(), same_weights=True)
    assert any("no request reached it" in note for note in verdict.notes)


def test_agreement_is_the_common_beginning() -> None:
    assert agreement("a b c d", "a b c d e f") == 1.0
    assert agreement("a b c d", "a b x d") == 0.5
    assert agreement("", "") == 1.0
    assert agreement("a", "") == 0.0


def test_thresholds_are_checked() -> None:
    with pytest.raises(RollError, match=r"trainyard_canary.ttft = 1: is no field here"):
        Thresholds.from_dict({"ttft": 1})
    with pytest.raises(RollError, match=r"trainyard_canary.ttft_ratio = \"big\": must be a number"):
        Thresholds.from_dict({"ttft_ratio": "big"})


EXPOSITION = """\
# HELP vllm:num_requests_running Number of requests currently running.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
vllm:request_success_total{finished_reason="stop",model_name="m"} 7.0
vllm:request_success_total{finished_reason="length",model_name="m"} 5.0
vllm:time_to_first_token_seconds_bucket{le="0.1",model_name="m"} 6.0
vllm:time_to_first_token_seconds_bucket{le="0.5",model_name="m"} 10.0
vllm:time_to_first_token_seconds_bucket{le="+Inf",model_name="m"} 12.0
vllm:time_to_first_token_seconds_sum{model_name="m"} 3.6
vllm:time_to_first_token_seconds_count{model_name="m"} 12.0
vllm:time_per_output_token_seconds_bucket{le="+Inf",model_name="m"} 100.0
vllm:time_per_output_token_seconds_sum{model_name="m"} 2.0
vllm:time_per_output_token_seconds_count{model_name="m"} 100.0
"""


def test_metrics_of_an_engine_are_read() -> None:
    reading = read(EXPOSITION)
    assert reading.in_flight == 5
    assert reading.finished == {"stop": 7, "length": 5}
    assert reading.ttft.mean == pytest.approx(0.3)
    assert reading.per_token.mean == pytest.approx(0.02)
    assert reading.ttft.quantile(0.5) == pytest.approx(0.1)
    assert reading.ttft.quantile(0.99) == pytest.approx(0.5), "the open bucket says no more than its lower bound"
    assert answers_load(EXPOSITION)
    assert not answers_load("go_goroutines 7\n")


def test_a_reading_survives_json() -> None:
    reading = read(EXPOSITION)
    assert Reading.from_dict(reading.to_dict()) == reading


def test_a_window_is_the_difference_of_two_readings() -> None:
    before = read(EXPOSITION)
    after = read(
        EXPOSITION.replace('_sum{model_name="m"} 3.6', '_sum{model_name="m"} 4.6')
        .replace('_count{model_name="m"} 12.0', '_count{model_name="m"} 14.0')
        .replace('"stop",model_name="m"} 7.0', '"stop",model_name="m"} 9.0')
    )
    window = after.since(before)
    assert window.ttft.count == 2
    assert window.ttft.mean == pytest.approx(0.5)
    assert window.finished == {"stop": 2, "length": 0}


def test_an_engine_that_restarted_meanwhile_counts_from_zero() -> None:
    window = read(EXPOSITION.replace("12.0", "4.0").replace("3.6", "0.4").replace("7.0", "1.0")).since(read(EXPOSITION))
    assert window.ttft.count == 4
    assert window.finished["stop"] == 1


def test_readings_of_peers_add_up() -> None:
    both = read(EXPOSITION).plus(read(EXPOSITION))
    assert both.ttft.count == 24
    assert both.finished["length"] == 10
    assert both.ttft.mean == pytest.approx(0.3)
