# SPDX-License-Identifier: Apache-2.0
"""A replica's counters, as vLLM prints them."""

from __future__ import annotations

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


def test_the_processor_time_of_a_process_is_told_with_that_of_its_children() -> None:
    burn = "import sys; x = sum(range(5_000_000)); sys.stdin.read()"
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {burn!r}]); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        children: list[float] = []
        while not any(seconds >= 0.05 for seconds in children):  # the child's, and not its parent's
            assert time.monotonic() < deadline
            found = counters.processor_seconds([process.pid])
            assert process.pid in found
            children = [seconds for pid, seconds in found.items() if pid != process.pid]
        process.stdin.close()
    assert counters.processor_seconds([process.pid]) == {}
    assert counters.processor_seconds([]) == {}
