# SPDX-License-Identifier: Apache-2.0
"""The report says what the records and the counters say, and flags what cannot be believed."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ansible_collections.trainyard.neuron.plugins.plugin_utils.collection import HOME, collection_version
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report import reading
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.figures import statistics_of
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.schema import Objective, json_schema
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.text import cost_within_objective, table
from ansible_collections.trainyard.neuron.tests.unit.plugins.plugin_utils.report.runs import (
    built,
    codes,
    record,
    summary_of,
)
from pydantic import ValidationError


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
    assert provenance in table(built(provenance=provenance)).splitlines()[0]


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


def test_a_run_is_unsound_where_the_busiest_replica_served_more_than_the_limit() -> None:
    summary = summary_of(20)
    counters = summary["repeats"][0]["counters"]
    for name, served in (("lab-1:tiny-0", 12), ("lab-1:tiny-1", 8)):
        counters[name]["after"]["requests"] = counters[name]["before"]["requests"] + served

    def severities(limit: float) -> list[str]:
        report = built(summary, balance_limit=limit)
        assert report.servers.requests_max_over_mean == 1.2
        assert report.sound == ("error" not in {flag.severity for flag in report.flags})
        return [flag.severity for flag in report.flags if flag.code == "imbalance"]

    assert severities(1.19) == ["error"]
    assert severities(1.2) == []
    assert severities(0.0) == []
    # One that served nothing is no less a breach of the limit.
    after = counters["lab-1:tiny-1"]
    after["after"]["requests"] = after["before"]["requests"]
    assert [flag.severity for flag in built(summary, balance_limit=1.5).flags if flag.code == "imbalance"] == ["error"]


def test_a_run_too_short_to_watch_is_judged_by_its_requests() -> None:
    def flagged(first: int, second: int) -> bool:
        summary = summary_of(20)
        del summary["repeats"][0]["samples"][3:]
        counters = summary["repeats"][0]["counters"]
        for name, served in (("lab-1:tiny-0", first), ("lab-1:tiny-1", second)):
            counters[name]["after"]["requests"] = counters[name]["before"]["requests"] + served
        return "imbalance" in codes(built(summary))

    assert flagged(32, 8)
    assert not flagged(21, 19)
    assert not flagged(12, 8), "chance does that one time in four"


def test_a_figure_says_of_how_many_it_is() -> None:
    shown = table(built(summary_of(20)))
    (heads,) = [line.split() for line in shown.splitlines() if "p50" in line]
    assert heads[-1] == "of"
    ttft = next(line for line in shown.splitlines() if line.startswith("TTFT"))
    assert ttft.split()[-1] == str(built(summary_of(20)).results.latency.time_to_first_token_ms.count)  # type: ignore[union-attr]


def test_a_client_at_its_limit_is_flagged() -> None:
    busy = summary_of(20)
    for row in busy["repeats"][0]["samples"]:
        row |= {"client_cores": 1.1, "client_busiest": 0.95}
    assert built(busy).load_host.client_cpu_cores == pytest.approx(1.1)
    assert "client_limited" in codes(built(busy))
    crowded = summary_of(20)
    for wanted, flagged in ((0.6, False), (0.97, True)):
        for row in crowded["repeats"][0]["samples"]:
            row |= {"client_cores": 0.5, "client_busiest": 0.5, "client_wanted": wanted}
        assert ("client_limited" in codes(built(crowded))) is flagged
    assert any("wanted 0.97 of a processor and got 0.50" in flag.message for flag in built(crowded).flags)
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


@pytest.mark.parametrize(
    ("price", "limit_ms", "said"),
    [
        (None, 300, "not known: benchmark_price_per_host_hour_usd says"),
        (3.6, None, "not known: benchmark_objective says"),
        (3.6, 1, "none: no request kept the objective"),
        (3.6, 300, "19.00 USD a million output tokens within the objective"),
    ],
)
def test_each_report_says_what_tokens_within_the_objective_cost_or_what_is_missing(
    price: float | None, limit_ms: float | None, said: str
) -> None:
    objective = None if limit_ms is None else Objective(time_to_first_token_ms=limit_ms)
    report = built(objective=objective, scenario={"price_per_host_hour_usd": price})
    assert cost_within_objective(report).startswith(said)
    assert f"within objective  {said}" in table(report)


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
    found = statistics_of([10.0, 20.0, 30.0, 40.0])
    assert (found.p50, found.p90, found.max) == (25.0, 37.0, 40.0)


def test_a_report_is_valid_by_its_schema_and_reads_back(tmp_path: Path) -> None:
    report = built(objective=Objective(time_to_first_token_ms=300), scenario={"price_per_host_hour_usd": 3.6})
    document = report.model_dump_json()
    jsonschema.validate(json.loads(document), json_schema())
    (tmp_path / "report.json").write_text(document)
    assert reading.load(tmp_path) == report


def test_what_is_no_report_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{"version": "7"}')
    with pytest.raises(reading.ReportError, match=r"report\.json has schema version '7'"):
        reading.load(tmp_path)


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


def test_the_report_names_the_version_of_the_collection_installed_or_in_its_checkout(tmp_path: Path) -> None:
    assert built().run.trainyard_version == collection_version(HOME)
    (tmp_path / "galaxy.yml").write_text("version: 1.2.3\n")
    assert collection_version(tmp_path) == "1.2.3"
    (tmp_path / "MANIFEST.json").write_text('{"collection_info": {"version": "1.2.4"}}')
    assert collection_version(tmp_path) == "1.2.4"
