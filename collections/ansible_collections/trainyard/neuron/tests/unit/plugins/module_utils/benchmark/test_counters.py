# SPDX-License-Identifier: Apache-2.0
"""A replica's counters, as vLLM prints them."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.benchmark import counters

PAGE = """
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="tiny"} 2.0
vllm:num_requests_waiting{engine="0",model_name="tiny"} 1.0
vllm:request_success_total{engine="0",finished_reason="stop",model_name="tiny"} 3.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="a \\"quoted\\" {name}"} 4.0
vllm:prompt_tokens_total{engine="0",model_name="tiny"} 1.5e+03
vllm:generation_tokens_total{engine="0",model_name="tiny"} 700.0
vllm:time_to_first_token_seconds_bucket{le="+Inf",model_name="tiny"} 7.0
vllm:gpu_cache_usage_perc{model_name="tiny"} NaN
process_start_time_seconds 1.7e+09
"""


def test_counters_are_summed_over_their_labels() -> None:
    snap = counters.snapshot_of(PAGE)
    assert (snap.requests, snap.prompt_tokens, snap.generation_tokens) == (7, 1500, 700)
    assert (snap.running, snap.waiting, snap.process_started_at) == (2, 1, 1.7e9)


def test_a_fresh_server_without_any_answer_yet_counts_zero() -> None:
    assert counters.snapshot_of("vllm:num_requests_running 0.0\n").requests == 0


def test_a_page_of_another_program_is_refused() -> None:
    with pytest.raises(counters.UnreachableError, match="none of vLLM's counters"):
        counters.snapshot_of("node_cpu_seconds_total 5\n")


def test_a_server_that_does_not_listen_is_named() -> None:
    with pytest.raises(counters.UnreachableError, match=r"http://127\.0\.0\.1:9"):
        counters.read("http://127.0.0.1:9", timeout_s=1)


def looks(monkeypatch: pytest.MonkeyPatch, *snaps: counters.Snapshot) -> list[counters.Snapshot]:
    """Have a replica show these, one a look, and the last from then on; returns those that are still to be shown."""
    left = list(snaps)
    monkeypatch.setattr(counters, "read", lambda _url: left.pop(0) if len(left) > 1 else left[0])
    return left


def test_a_replica_is_settled_when_two_looks_agree_and_nothing_runs_or_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = counters.Snapshot(requests=1, waiting=1)
    left = looks(monkeypatch, waits, waits, counters.Snapshot(requests=1), counters.Snapshot(requests=2))
    assert counters.settled({"a": "http://a"}, 60, pause_s=0) == {"a": counters.Snapshot(requests=2)}
    assert len(left) == 1


def test_a_replica_that_only_waits_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    looks(monkeypatch, counters.Snapshot(waiting=3))
    with pytest.raises(counters.UnreachableError, match="a runs 0, 3 wait"):
        counters.settled({"a": "http://a"}, 0, pause_s=0)


def test_a_client_s_processes_are_found_when_their_parent_is_gone() -> None:
    burn = "import sys, time\nwhile time.process_time() < 0.2: pass\nsys.stdin.read()"
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {burn!r}], start_new_session=True)"
    environment = {**os.environ, counters.RUN_VARIABLE: "run-1"}
    mine = counters.Processes("run-1")
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, env=environment) as process:
        process.wait(timeout=30)  # the child reads the pipe on
        found: dict[int, float] = {}
        deadline = time.monotonic() + 60
        while max(found.values(), default=0.0) < 0.05:
            assert time.monotonic() < deadline, found
            found = mine.seconds()
        assert process.pid not in found
        assert len(found) == 1
        assert counters.Processes("run-2").seconds() == {}
