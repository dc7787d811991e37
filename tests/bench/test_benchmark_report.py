# SPDX-License-Identifier: Apache-2.0
"""The report says what the records and the counters say, and flags what cannot be believed."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from trainyard import benchmark_report
from trainyard.benchmark_report import BenchmarkReport, Objective

ROOT = Path(__file__).parents[2]
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
    return benchmark_report.build(summary or summary_of(20), rows or [record(i) for i in range(20)], **given)


def codes(report: BenchmarkReport) -> set[str]:
    return {flag.code for flag in report.flags}


def test_figures_follow_from_the_records() -> None:
    report = built()
    # Ten rounds of two requests, 0.38 s each: 200 tokens in 3.8 s.
    assert report.results.throughput.output_tokens_per_s == pytest.approx(200 / 3.8)
    assert report.results.throughput.total_tokens_per_s == pytest.approx(2200 / 3.8)
    assert report.results.throughput.output_tokens_per_s_per_core == pytest.approx(200 / 3.8 / 64)
    assert report.results.latency.time_to_first_token_ms.p50 == pytest.approx(200)
    assert report.results.latency.time_per_output_token_ms.p99 == pytest.approx(20)
    assert report.results.latency.inter_token_latency_ms.count == 180
    assert report.results.throughput.output_tokens_per_s_per_user.mean == pytest.approx(50)
    assert [server.requests for server in report.servers.replicas] == [10, 10]
    assert report.servers.imbalance_ratio == 1.0
    assert len(report.servers.samples) == 30  # the one before the load is left out
    assert report.sound
    assert not report.flags


def test_scenario_comes_from_the_plan_and_the_inventory() -> None:
    scenario = built(scenario={"instance_type": "trn2.48xlarge", "price_per_host_hour_usd": 36.0}).scenario
    assert (scenario.hosts, scenario.cores, scenario.tensor_parallel_size, scenario.data_parallel_size) == (
        1,
        64,
        32,
        2,
    )
    assert scenario.instance_type == "trn2.48xlarge"


@pytest.mark.parametrize("provenance", ["", "trn2", "measured", "measured on", "measured on Mars", "CPU"])
def test_provenance_is_one_of_three(provenance: str) -> None:
    with pytest.raises(ValidationError, match="provenance"):
        built(provenance=provenance)


@pytest.mark.parametrize("provenance", ["cpu", "simulated", "measured on trn2.48xlarge"])
def test_provenance_stands_in_the_title_of_the_table(provenance: str) -> None:
    assert provenance in benchmark_report.table(built(provenance=provenance)).splitlines()[0]


def test_a_missing_record_makes_the_run_unsound() -> None:
    report = built(rows=[record(i) for i in range(19)])
    assert "unaccounted_requests" in codes(report)
    assert not report.sound


def test_failures_are_counted_and_keep_out_of_the_latencies() -> None:
    bad = {
        "outcome": "failed",
        "http_status": 500,
        "error": "injected",
        "ttft_s": None,
        "e2e_s": None,
        "output_tokens": None,
    }
    rows = [record(i, **bad) if i < 2 else record(i) for i in range(20)]
    rows[5] = record(
        5, outcome="timed_out", error="no answer", http_status=None, ttft_s=None, e2e_s=None, output_tokens=0
    )
    report = built(rows=rows)
    requests = report.results.requests
    assert (requests.sent, requests.succeeded, requests.failed, requests.timed_out) == (20, 17, 2, 1)
    assert requests.failures[0].count == 2
    assert requests.failures[0].http_status == 500
    assert report.results.latency.time_to_first_token_ms.count == 17
    assert not report.sound
    assert built(rows=rows, failed_limit=0.2).sound is True
    assert "failed_requests" in codes(built(rows=rows, failed_limit=0.2))


def test_counters_that_differ_by_more_than_two_per_cent_are_flagged() -> None:
    summary = summary_of(100)
    rows = [record(i) for i in range(100)]
    summary["repeats"][0]["counters"]["lab-1:tiny-0"]["after"]["generation_tokens"] += 15  # 1.5 %
    assert built(summary, rows).servers.agreement.agree
    summary["repeats"][0]["counters"]["lab-1:tiny-0"]["after"]["generation_tokens"] += 10  # 2.5 %
    report = built(summary, rows)
    assert codes(report) == {"counters_disagree"}
    assert report.servers.agreement.output_tokens_difference_ratio == pytest.approx(0.025)


def test_a_replica_that_restarted_died_or_idled_is_flagged() -> None:
    for change, code in (
        (
            lambda counters: counters["after"].update(process_started_at=9.0, requests=3, generation_tokens=30),
            "replica_restarted",
        ),
        (lambda counters: counters.update(after=None), "counters_missing"),
        (lambda counters: counters.update(after=copy.deepcopy(counters["before"])), "replica_idle"),
    ):
        summary = summary_of(20)
        change(summary["repeats"][0]["counters"]["lab-1:tiny-1"])
        assert code in codes(built(summary))


def test_a_fleet_that_is_loaded_unevenly_is_flagged() -> None:
    summary = summary_of(20)
    for row in summary["repeats"][0]["samples"]:
        row["replicas"] = {"lab-1:tiny-0": [2.0, 0.0], "lab-1:tiny-1": [0.0, 0.0]}
    report = built(summary)
    assert report.servers.imbalance_ratio == 2.0
    assert "imbalance" in codes(report)
    del summary["repeats"][0]["samples"][15:]  # too few to say anything
    assert built(summary).servers.imbalance_ratio is None


def test_a_client_at_its_limit_is_flagged() -> None:
    busy = summary_of(20)
    for row in busy["repeats"][0]["samples"]:
        row |= {"client_cores": 1.1, "client_busiest": 0.95}
    assert built(busy).load_host.client_cpu_cores == pytest.approx(1.1)
    assert "client_limited" in codes(built(busy))
    starved = summary_of(20)
    for row in starved["repeats"][0]["samples"]:
        row["host_idle_ratio"] = 0.01
    assert "client_limited" in codes(built(starved))
    asked_for_more = summary_of(20)
    asked_for_more["load"]["concurrency"] = 8
    assert "load_not_reached" in codes(built(asked_for_more))


def test_an_answer_of_one_token_has_no_time_between_tokens() -> None:
    report = built(rows=[record(i, output_tokens=1, e2e_s=0.2, gaps_ms=[]) for i in range(20)])
    assert report.results.latency.time_per_output_token_ms is None
    assert report.results.latency.inter_token_latency_ms is None
    assert report.results.throughput.output_tokens_per_s > 0


def test_goodput_counts_requests_that_keep_every_limit() -> None:
    rows = [record(i, ttft_s=0.5) if i == 0 else record(i) for i in range(20)]
    goodput = built(rows=rows, objective=Objective(time_to_first_token_ms=300, percentile=95)).results.goodput
    assert (goodput.good_requests, goodput.kept) == (19, True)
    assert not built(rows=rows, objective=Objective(time_to_first_token_ms=300)).results.goodput.kept
    assert built(rows=rows, objective=Objective(time_per_output_token_ms=19)).results.goodput.good_requests < 2


def test_cost_is_the_fleet_s_price_over_its_tokens() -> None:
    cost = built(scenario={"price_per_host_hour_usd": 3.6}).results.cost
    # 3.6 USD an hour is 0.001 USD a second, for 200 / 3.8 tokens.
    assert cost.usd_per_million_output_tokens == pytest.approx(0.001 / (200 / 3.8) * 1e6)


def test_repeats_get_a_confidence_interval() -> None:
    summary = summary_of(20)
    second = copy.deepcopy(summary["repeats"][0]) | {"index": 1}
    summary["repeats"].append(second)
    rows = [record(i) for i in range(20)] + [record(i, repeat=1, ttft_s=0.21) for i in range(20)]
    interval = built(summary, rows).results.confidence["time_to_first_token_p50_ms"]
    assert interval.mean == pytest.approx(205)
    # Two values 10 apart: standard deviation 7.07, standard error 5, t of one degree of freedom 12.706.
    assert interval.half_width == pytest.approx(63.53, rel=1e-3)


def test_percentiles_are_linear_between_neighbours() -> None:
    found = benchmark_report.statistics_of([10.0, 20.0, 30.0, 40.0])
    assert (found.p50, found.p90, found.max) == (25.0, 37.0, 40.0)


def test_published_schema_is_the_model_s() -> None:
    published = json.loads((ROOT / "docs/schemas/benchmark.schema.json").read_text())
    assert published == benchmark_report.json_schema(), (
        "python -m trainyard.benchmark_report > docs/schemas/benchmark.schema.json"
    )


def test_a_report_is_valid_by_the_published_schema_and_reads_back(tmp_path: Path) -> None:
    report = built(objective=Objective(time_to_first_token_ms=300), scenario={"price_per_host_hour_usd": 3.6})
    document = report.model_dump_json()
    jsonschema.validate(json.loads(document), json.loads((ROOT / "docs/schemas/benchmark.schema.json").read_text()))
    (tmp_path / "report.json").write_text(document)
    assert benchmark_report.load(tmp_path) == report


def test_what_is_no_report_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{"version": "7"}')
    with pytest.raises(benchmark_report.ReportError, match=r"report\.json has schema version '7'"):
        benchmark_report.load(tmp_path)


def sent_from(index: int, host: str, cpu_s: float, idle: float) -> dict[str, Any]:
    use = {"host": host, "process": 100 + index % 2, "cpu_s": cpu_s, "host_idle_ratio": idle}
    return record(index, client=use)


def test_each_of_several_load_hosts_is_judged_by_itself() -> None:
    rows = [sent_from(i, "load-1", 0.038, 0.9) if i % 4 < 2 else sent_from(i, "load-2", 0.342, 0.5) for i in range(20)]
    report = built(rows=rows)
    first, second = report.load_host.shares
    assert (first.name, first.requests, first.client_processes) == ("load-1", 10, 2)
    assert first.busiest_process_cores == pytest.approx(0.1)
    assert second.client_cpu_cores == pytest.approx(10 * 0.342 / 3.8)
    (flag,) = report.flags
    assert flag.code == "client_limited"
    assert "on load-2 used 0.90 of a processor" in flag.message  # the first one, which was sampled, had time to spare


def test_one_load_host_needs_no_shares() -> None:
    assert built(rows=[sent_from(i, "load-1", 0.3, 0.9) for i in range(20)]).load_host.shares == []
