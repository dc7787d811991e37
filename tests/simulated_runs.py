# SPDX-License-Identifier: Apache-2.0
"""Benchmark runs of the stand-in's engine in its own time: its scheduler and its latency model, with no second waited.

What comes out is a run's directory as the benchmark leaves one (report.json, records), simulated.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.known_models import known_config
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report import building
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.schema import BenchmarkReport

from lab.neuron_sim import latency
from lab.neuron_sim.engine import Request, Scheduler

START = 1_800_000_000.0
CORES, CORES_PER_DEVICE = 64, 4


@dataclass(frozen=True)
class Configuration:
    """What is served on a trn2.48xlarge: cores of a replica, sequences, tokens; replicas fill the host."""

    cores: int
    batch: int
    length: int

    @property
    def replicas(self) -> int:
        return CORES // self.cores


@dataclass(frozen=True)
class Sent:
    """What is sent: tokens, streams in flight (0: one for each sequence), requests."""

    input_tokens: int
    output_tokens: int
    streams: int = 0
    requests: int = 200


def changed(seed: int, spread: float = 0.35) -> latency.Constants:
    """The engine's constants, each changed by chance by up to so much (of its logarithm)."""
    chance = random.Random(seed)  # noqa: S311 - seeded on purpose
    values = asdict(latency.Constants())
    drafts = ("guess_right", "guess_cost")
    moved = {name: value * math.exp(chance.uniform(-spread, spread)) for name, value in values.items()}
    moved |= {name: values[name] for name in drafts}
    return latency.Constants(**{**moved, "collective_floor": min(0.95, moved["collective_floor"])})


def records(
    repo: str, given: Configuration, sent: Sent, constants: latency.Constants, noise: float = 0.0, seed: int = 1
) -> list[dict[str, Any]]:
    """Every request of a run, its times scattered by `noise` (standard deviation of their logarithms)."""
    chance = random.Random(seed)  # noqa: S311 - seeded on purpose
    shape = latency.Shape.of(dict(known_config(repo) or {}))
    lengths = (given.length,)
    speed = latency.Modelled(
        shape, "trn2", given.cores, CORES_PER_DEVICE, given.batch, lengths, lengths, constants=constants
    )
    streams = sent.streams or given.batch * given.replicas
    rows: list[dict[str, Any]] = []
    alike: dict[tuple[int, int], list[tuple[float, float, float]]] = {}
    for replica in range(given.replicas):
        share = streams // given.replicas + (replica < streams % given.replicas)
        count = round(sent.requests * share / streams)
        if (share, count) not in alike:
            alike[share, count] = _served(speed, given.batch, sent, share, count)
        for arrived, first, ended in alike[share, count]:
            scattered = [math.exp(chance.gauss(0, noise)) for _ in range(2)]
            ttft = (first - arrived) * scattered[0]
            rows.append(
                {
                    "index": len(rows), "repeat": 0, "outcome": "succeeded", "http_status": 200, "error": None,
                    "started_at": START + arrived, "late_s": None, "requested_output_tokens": sent.output_tokens,
                    "input_tokens": sent.input_tokens, "output_tokens": sent.output_tokens, "ttft_s": ttft,
                    "e2e_s": ttft + (ended - first) * scattered[1], "gaps_ms": [],
                }
            )  # fmt: skip
    return rows


def _served(
    speed: latency.Latency, slots: int, sent: Sent, streams: int, count: int
) -> list[tuple[float, float, float]]:
    """When each request of one replica arrived, had its first token and ended, seconds."""
    scheduler, arrived, first, ended = Scheduler(slots, speed), {}, {}, {}  # type: ignore[var-annotated]
    left = count

    def send(now: float) -> None:
        nonlocal left
        if left:
            left -= 1
            key = str(left)
            arrived[key] = now
            scheduler.add(Request(key, sent.input_tokens, sent.output_tokens), now)

    for _ in range(streams):
        send(0.0)
    now: float | None = 0.0
    while now is not None:
        for request, reason in scheduler.advance(now)[0]:
            first.setdefault(request.key, now)
            if reason:
                ended[request.key] = now
                send(now)
        scheduler.advance(now)
        now = scheduler.due()
    return [(arrived[key], first[key], ended[key]) for key in arrived]


def report_of(
    repo: str, given: Configuration, sent: Sent, rows: list[dict[str, Any]], name: str, **more: Any
) -> BenchmarkReport:
    """The report of a run, as the benchmark's module builds it."""
    ends = max(row["started_at"] + row["e2e_s"] for row in rows)
    names = {f"h:m-{index}": f"http://h:{8000 + index}" for index in range(given.replicas)}
    streams = sent.streams or given.batch * given.replicas
    summary = {
        "version": 1, "run_id": name, "started_at": START, "ended_at": ends,
        "client": {"name": "llmeter", "version": "0.2.0"}, "load_host": {"name": "h", "processors": 2},
        "fleet": {"url": "http://h:8080", "model": repo, "replicas": names},
        "load": {
            "requests": len(rows), "concurrency": streams, "request_rate_per_s": 0.0, "arrival": "poisson",
            "mean_input_tokens": sent.input_tokens, "stddev_input_tokens": 0, "mean_output_tokens": sent.output_tokens,
            "stddev_output_tokens": 0, "sampling": {}, "ignore_eos": True, "warmup_requests": 0, "timeout_s": 600,
            "seed": 1, "dataset": "", "target": "router", "repeats": 1,
        },
        "repeats": [{
            "index": 0, "started_at": START, "ended_at": ends, "exit_status": [0], "client_processes": 1,
            "client_cpu_cores": 0.1, "client_argv": [["python"]], "log_tail": "", "samples": [],
            "counters": {
                one: {
                    "before": _counted(0, sent), "after": _counted(len(rows) / given.replicas, sent),
                } for one in names
            },
        }],
    }  # fmt: skip
    plan = [
        {
            "id": one, "url": url, "host": "h", "core_count": given.cores, "deployment": "m", "weights": "m-1",
            "max_num_seqs": given.batch, "max_model_len": given.length, "instance_type": "trn2.48xlarge",
            "logical_nc_config": 2, "compiled": {"enable_bucketing": False},
        }
        for one, url in names.items()
    ]  # fmt: skip
    return building.build(summary, rows, provenance="simulated", replicas=plan, **more)


def _counted(requests: float, sent: Sent) -> dict[str, Any]:
    tokens = {"prompt_tokens": requests * sent.input_tokens, "generation_tokens": requests * sent.output_tokens}
    return {"requests": requests, "process_started_at": 1.0, "running": 0, "waiting": 0, **tokens}


def write_run(directory: Path, report: BenchmarkReport, rows: list[Mapping[str, Any]] | list[dict[str, Any]]) -> Path:
    """Leave a run's directory as the benchmark does."""
    (directory / "repeat-0").mkdir(parents=True)
    (directory / "repeat-0/requests.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (directory / "report.json").write_text(report.model_dump_json())
    return directory
