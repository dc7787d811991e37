# SPDX-License-Identifier: Apache-2.0
"""Runs whose figures can be worked out by hand."""

from __future__ import annotations

from typing import Any

from ansible_collections.trainyard.neuron.plugins.plugin_utils.report import building
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.schema import BenchmarkReport

START = 1_800_000_000.0


def record(index: int, **changed: Any) -> dict[str, Any]:
    """A request of 10 tokens: first after 200 ms, then one each 20 ms; two streams, back to back."""
    row = {
        "index": index,
        "repeat": 0,
        "outcome": "succeeded",
        "http_status": 200,
        "error": None,
        "started_at": START + (index // 2) * 0.38,
        "late_s": None,
        "requested_output_tokens": 10,
        "input_tokens": 100,
        "output_tokens": 10,
        "ttft_s": 0.2,
        "e2e_s": 0.38,
        "gaps_ms": [20.0] * 9,
    }
    return {**row, **changed}


def counted(requests: int, tokens: int, **more: float) -> dict[str, Any]:
    row = {
        "requests": requests,
        "prompt_tokens": requests * 100,
        "generation_tokens": tokens,
        "process_started_at": 5.0,
    }
    return {**row, "running": 0, "waiting": 0, **more}


def summary_of(requests: int) -> dict[str, Any]:
    """What the load host leaves of one repeat over two replicas that share the load evenly."""
    half = requests // 2
    replicas = {"lab-1:tiny-0": "http://10.0.0.1:8000", "lab-1:tiny-1": "http://10.0.0.1:8001"}
    return {
        "version": 1,
        "run_id": "20270115-080000-tiny-0001",
        "started_at": START - 2,
        "ended_at": START + 100,
        "client": {"name": "llmeter", "version": "0.2.0"},
        "load_host": {"name": "lab-1", "processors": 2},
        "fleet": {"url": "http://10.0.0.1:8080", "model": "tiny", "replicas": replicas},
        "load": {
            "requests": requests,
            "concurrency": 2,
            "request_rate_per_s": 0.0,
            "arrival": "poisson",
            "mean_input_tokens": 100,
            "stddev_input_tokens": 0,
            "mean_output_tokens": 10,
            "stddev_output_tokens": 0,
            "sampling": {},
            "ignore_eos": True,
            "warmup_requests": 2,
            "timeout_s": 60,
            "seed": 1,
            "dataset": "",
            "target": "router",
            "repeats": 1,
        },
        "repeats": [
            {
                "index": 0,
                "started_at": START,
                "ended_at": START + half * 0.38,
                "exit_status": [0],
                "client_processes": 1,
                "client_cpu_cores": 0.1,
                "client_argv": [["python"]],
                "log_tail": "",
                "counters": {
                    name: {"before": counted(7, 70), "after": counted(7 + half, 70 + half * 10)} for name in replicas
                },
                "samples": [
                    {"at": START + at, "host_idle_ratio": 0.8, "replicas": {name: [1.0, 0.0] for name in replicas}}
                    for at in (-1.0, *(0.1 * step for step in range(1, 31)))
                ],
            }
        ],
    }


REPLICAS = [
    {"id": "lab-1:tiny-0", "url": "http://10.0.0.1:8000", "host": "lab-1", "cores": "0-31", "core_count": 32},
    {"id": "lab-1:tiny-1", "url": "http://10.0.0.1:8001", "host": "lab-1", "cores": "32-63", "core_count": 32},
]


def built(
    summary: dict[str, Any] | None = None, rows: list[dict[str, Any]] | None = None, **more: Any
) -> BenchmarkReport:
    given = {"provenance": "simulated", "replicas": REPLICAS, **more}
    return building.build(summary or summary_of(20), rows or [record(i) for i in range(20)], **given)


def codes(report: BenchmarkReport) -> set[str]:
    return {flag.code for flag in report.flags}
