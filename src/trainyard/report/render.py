# SPDX-License-Identifier: Apache-2.0
"""Runs as a page (one HTML file that needs nothing else), as Markdown and as CSV, each with its provenance."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import jinja2

from trainyard import benchmark_report
from trainyard.benchmark_report import BenchmarkReport, Objective, Statistics
from trainyard.report import analysis
from trainyard.report.analysis import Measured
from trainyard.report.charts import COLOURS, Chart, Limit, Mark, Series, cumulative

#: A cell without a value.
NONE = "-"

COLUMNS = (
    "run",
    "provenance",
    "configuration",
    "load",
    "requests",
    "failed",
    "output tokens/s",
    "tokens/s/user",
    "tokens/s/host",
    "TTFT p50 ms",
    "TTFT p99 ms",
    "per token p50 ms",
    "per token p99 ms",
    "USD per M output tokens",
    "flags",
)


def provenance_of(runs: Sequence[Measured]) -> str:
    """The one provenance of all runs, or all that there are: different kinds are not to be mixed silently."""
    return ", ".join(sorted({run.report.provenance for run in runs}))


def _mark(values: Statistics | None, name: str) -> str:
    return NONE if values is None else f"{getattr(values, name):.1f}"


def row_of(run: Measured) -> list[str]:
    """A run as cells under `COLUMNS`."""
    report = run.report
    requests, throughput, latency = report.results.requests, report.results.throughput, report.results.latency
    cost = report.results.cost
    return [
        report.run.id,
        report.provenance,
        run.configuration,
        run.offered,
        str(requests.sent),
        str(requests.failed + requests.timed_out),
        f"{throughput.output_tokens_per_s:.1f}",
        _mark(throughput.output_tokens_per_s_per_user, "mean"),
        f"{throughput.output_tokens_per_s_per_host:.1f}",
        _mark(latency.time_to_first_token_ms, "p50"),
        _mark(latency.time_to_first_token_ms, "p99"),
        _mark(latency.time_per_output_token_ms, "p50"),
        _mark(latency.time_per_output_token_ms, "p99"),
        NONE if cost is None else f"{cost.usd_per_million_output_tokens:.2f}",
        " ".join(flag.code for flag in report.flags) or NONE,
    ]


def markdown(runs: Sequence[Measured], objective: Objective | None = None) -> str:
    """A table of the runs, the recommendation below where there is an objective."""
    lines = [
        f"Benchmark runs ({provenance_of(runs)})",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|---" * len(COLUMNS) + "|",
    ]
    lines += ["| " + " | ".join(row_of(run)) + " |" for run in runs]
    if objective is not None:
        best = analysis.recommend(runs, objective)
        text = "no run kept it" if best is None else f"{best.configuration} at {best.offered} ({best.report.run.id})"
        lines += ["", f"Best for {objective_text(objective)}: {text}"]
    return "\n".join(lines) + "\n"


def as_csv(runs: Sequence[Measured]) -> str:
    """The runs as comma-separated values."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(["" if cell == NONE else cell for cell in row_of(run)] for run in runs)
    return out.getvalue()


def objective_text(objective: Objective) -> str:
    """An objective in words."""
    parts = [
        f"{name} at most {limit:g} ms"
        for name, limit in (
            ("TTFT", objective.time_to_first_token_ms),
            ("time per token", objective.time_per_output_token_ms),
            ("a request", objective.request_latency_ms),
        )
        if limit is not None
    ]
    return f"{' and '.join(parts)} for {objective.percentile:g} % of requests"


def html(runs: Sequence[Measured], objective: Objective | None = None) -> str:
    """The page for one run or for several."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    first = runs[0].report
    best = analysis.recommend(runs, objective) if objective else None
    pair = len(runs) == 2
    drawn = [chart for chart in charts(runs, objective) if chart.svg()]
    names = {run.report.scenario.model for run in runs}
    columns = [name for name in COLUMNS if name != "provenance" or len(provenance_of(runs).split(",")) > 1]
    picked = [COLUMNS.index(name) for name in columns]
    return environment.get_template("report.html.j2").render(
        title=", ".join(sorted(names)),
        provenance=provenance_of(runs),
        subtitle=_subtitle(runs),
        runs=runs,
        first=first,
        tiles=_tiles(first) if len(runs) == 1 else _fleet_tiles(runs),
        flagged=[(run.report.run.id, flag) for run in runs for flag in run.report.flags],
        objective_text=objective_text(objective) if objective else "",
        recommended=analysis.overrides(best) if best else "",
        verdict=_verdict(runs[0], objective) if objective and len(runs) == 1 else "",
        shared_key=_shared_key(drawn) if len(runs) > 1 else [],
        recommended_text=f"{best.configuration} at {best.offered}, run {best.report.run.id}" if best else "",
        differences=analysis.compare(runs[0], runs[1]) if pair else [],
        compared=f"{runs[1].report.run.id} against {runs[0].report.run.id}" if pair else "",
        charts=drawn,
        columns=columns,
        rows=[[row_of(run)[index] for index in picked] for run in runs],
        cores={replica.id: replica.cores for replica in first.scenario.replicas},
        facts=_facts(first),
    )


def _verdict(run: Measured, objective: Objective) -> str:
    """How many requests of one run kept an objective."""
    if not run.records:
        return "kept" if run.keeps(objective) else "not kept"
    found = benchmark_report.goodput_of(run.records, run.report.run.duration_s, objective)
    return f"{'kept' if found.kept else 'not kept'}: {found.good_requests} of {len(run.records)} requests"


def _shared_key(drawn: Sequence[Chart]) -> list[tuple[str, int, bool]]:
    """The names of the first chart's series, which the others share: name, colour, whether it is dashed."""
    if not drawn:
        return []
    return [(one.name, index % COLOURS, index >= COLOURS) for index, one in enumerate(drawn[0].series)]


def _natural(name: str) -> list[int]:
    """Configurations in the order of their numbers, the largest tensor parallel degree first."""
    found = [int(part) for part in re.findall(r"\d+", name)]
    return [-found[0], *found[1:]] if found else [0]


def _subtitle(runs: Sequence[Measured]) -> str:
    first = runs[0].report
    when = first.run.started_at.strftime("%d %B %Y, %H:%M UTC")
    if len(runs) == 1:
        return f"{runs[0].configuration} · {runs[0].offered} · {first.load.tool} {first.load.tool_version} · {when}"
    return f"{len(runs)} runs since {when}"


def _tiles(report: BenchmarkReport) -> list[tuple[str, str]]:
    requests, latency = report.results.requests, report.results.latency
    throughput = report.results.throughput
    tiles = [
        (f"{throughput.output_tokens_per_s:,.0f}", "output tokens/s"),
        (_mark(throughput.output_tokens_per_s_per_user, "mean"), "tokens/s for a user"),
        (f"{_mark(latency.time_to_first_token_ms, 'p50')} ms", "time to first token, p50"),
        (f"{_mark(latency.time_to_first_token_ms, 'p99')} ms", "time to first token, p99"),
        (f"{_mark(latency.time_per_output_token_ms, 'p50')} ms", "time per token, p50"),
        (f"{requests.succeeded} of {requests.sent}", "requests succeeded"),
    ]
    goodput, cost = report.results.goodput, report.results.cost
    if goodput is not None:
        tiles.append((f"{goodput.good_ratio:.1%}", "kept the objective"))
    if cost is not None:
        tiles.append((f"{cost.usd_per_million_output_tokens:,.2f} USD", "per million output tokens"))
    return tiles


def _fleet_tiles(runs: Sequence[Measured]) -> list[tuple[str, str]]:
    best = max(runs, key=lambda run: run.report.results.throughput.output_tokens_per_s_per_host)
    throughput = best.report.results.throughput
    return [
        (str(len(runs)), "runs"),
        (str(len({run.configuration for run in runs})), "configurations"),
        (f"{throughput.output_tokens_per_s_per_host:,.0f}", f"most tokens/s a host ({best.configuration})"),
        (str(sum(not run.report.sound for run in runs)), "not sound"),
    ]


def _facts(report: BenchmarkReport) -> list[tuple[str, str]]:
    scenario, load, host = report.scenario, report.load, report.load_host
    replicas = scenario.replicas
    stack = {f"{r.sdk_release} {r.generation} ({r.runtime})" for r in replicas if r.sdk_release}
    shape = "uniform" if load.source == "random" else "the user's prompts"
    facts: list[tuple[str, Any]] = [
        ("provenance", report.provenance),
        ("weights", scenario.weights),
        ("instance type", scenario.instance_type),
        ("Neuron SDK", ", ".join(sorted(stack))),
        ("replicas", f"{scenario.data_parallel_size} on {scenario.hosts} host(s), {scenario.cores or '?'} cores"),
        ("artifacts", ", ".join(sorted({r.artifact[:12] for r in replicas if r.artifact}))),
        ("releases", ", ".join(sorted({r.release for r in replicas if r.release}))),
        ("router", f"{scenario.router_url} {scenario.router_policy or ''}" if load.target == "router" else "not used"),
        ("client", f"{load.tool} {load.tool_version}: {load.tool_reason or 'no reason recorded'}"),
        ("load", f"{load.loop} loop, {load.requests} requests x {report.run.repeats}, prompts: {shape}"),
        ("tokens asked for", f"{_length(load.input_tokens)} in, {_length(load.output_tokens)} out"),
        ("sampling", f"{load.sampling or 'default'}; end of sequence {'ignored' if load.ignore_eos else 'heeded'}"),
        ("load host", f"{host.name}, {host.processors} processors, the client used {host.client_cpu_cores:.2f}"),
        ("processor free on it", None if host.idle_ratio_mean is None else f"{host.idle_ratio_mean:.0%}"),
        ("toolkit", f"{report.run.trainyard_version} at {report.run.git_commit or 'an unknown commit'}"),
        (
            "run",
            f"{report.run.id}, {report.run.started_at:%Y-%m-%d %H:%M:%S} UTC, {report.run.duration_s:.0f} s",
        ),
    ]
    return [(name, str(value)) for name, value in facts if value not in (None, "")]


def _length(length: benchmark_report.Length) -> str:
    return f"{length.mean:g} ± {length.stddev:g}" if length.stddev else f"{length.mean:g}"


def charts(runs: Sequence[Measured], objective: Objective | None) -> list[Chart]:
    """The charts of one run, or of several together."""
    return _run_charts(runs[0], objective) if len(runs) == 1 else _sweep_charts(runs, objective)


def _run_charts(run: Measured, objective: Objective | None) -> list[Chart]:
    good = [row for row in run.records if row["outcome"] == "succeeded"]
    ttft = [row["ttft_s"] * 1000 for row in good if row["ttft_s"] is not None]
    tpot = [value for row in good if (value := benchmark_report.time_per_output_token_ms(row)) is not None]
    report = run.report
    limit = objective or (report.results.goodput.objective if report.results.goodput else None)
    start = min((row["started_at"] for row in good), default=0.0)
    over_time = [
        Mark(row["started_at"] - start, row["ttft_s"] * 1000, f"request {row['index']}: {row['ttft_s'] * 1000:.0f} ms")
        for row in good
        if row["ttft_s"] is not None
    ]
    names = [server.id for server in report.servers.replicas]
    busy = [Series(name, _in_flight(report, name), dots=False) for name in names]
    return [
        Chart(
            "Time to first token",
            f"share of {len(ttft)} requests at or below",
            "ms",
            "% of requests",
            [cumulative("TTFT", ttft)],
            _vertical(limit.time_to_first_token_ms if limit else None),
        ),
        Chart(
            "Time per output token",
            f"share of {len(tpot)} requests at or below",
            "ms",
            "% of requests",
            [cumulative("per token", tpot)],
            _vertical(limit.time_per_output_token_ms if limit else None),
        ),
        Chart(
            "Requests at each replica",
            "running and waiting, as each replica counts them, first repeat",
            "seconds since the load began",
            "requests",
            busy,
        ),
        Chart(
            "Time to first token over the run",
            "each request at its start",
            "seconds since the load began",
            "ms",
            [Series("TTFT", over_time, line=False)],
        ),
    ]


def _in_flight(report: BenchmarkReport, name: str) -> list[Mark]:
    first = [sample for sample in report.servers.samples if sample.repeat == 0]
    return [Mark(s.at_s, sum(pair)) for s in first if (pair := s.replicas.get(name)) is not None]


def _vertical(limit: float | None) -> tuple[Limit, ...]:
    return () if limit is None else (Limit(limit, f"objective {limit:g} ms", vertical=True),)


def _sweep_charts(runs: Sequence[Measured], objective: Objective | None) -> list[Chart]:
    found = [_pareto_chart(runs)]
    opened = [run for run in runs if run.report.load.loop == "open"]
    found += [*_load_charts(opened, "requests/s", objective), *_load_charts(_closed(runs), "streams", objective)]
    priced = [run for run in runs if run.report.results.cost and run.report.results.latency.time_to_first_token_ms]
    if priced:
        marks = _curves(
            priced,
            attrgetter("report.results.latency.time_to_first_token_ms.p50"),
            attrgetter("report.results.cost.usd_per_million_output_tokens"),
        )
        note = "each run; lower and further left is better"
        found.append(Chart("What tokens cost", note, "TTFT p50, ms", "USD per million output tokens", marks))
    return found


def _closed(runs: Sequence[Measured]) -> list[Measured]:
    return [run for run in runs if run.report.load.loop == "closed"]


def _pareto_chart(runs: Sequence[Measured]) -> Chart:
    curves: dict[str, list[Mark]] = {}
    for point in analysis.pareto(runs):
        text = (
            f"{point.run.configuration}, {point.run.offered}: {point.tokens_per_s_per_user:.1f} tokens/s a user, "
            f"{point.tokens_per_s_per_host:.0f} a host"
        )
        mark = Mark(point.tokens_per_s_per_user, point.tokens_per_s_per_host, text, strong=point.best)
        curves.setdefault(point.run.configuration, []).append(mark)
    series = [
        Series(name, sorted(marks, key=lambda mark: mark.x))
        for name, marks in sorted(curves.items(), key=lambda pair: _natural(pair[0]))
    ]
    note = "each run; filled where no other is better in both"
    return Chart("Speed for a user against what a host makes", note, "tokens/s a user", "tokens/s a host", series)


def _curves(runs: Sequence[Measured], x: Any, y: Any) -> list[Series]:
    curves: dict[str, list[Mark]] = {}
    for run in runs:
        mark = Mark(x(run), y(run), f"{run.configuration}, {run.offered}: {y(run):.1f}")
        curves.setdefault(run.configuration, []).append(mark)
    return [
        Series(name, sorted(marks, key=lambda mark: mark.x))
        for name, marks in sorted(curves.items(), key=lambda pair: _natural(pair[0]))
    ]


def _load_charts(runs: Sequence[Measured], unit: str, objective: Objective | None) -> list[Chart]:
    def offered(run: Measured) -> float:
        load = run.report.load
        return load.rate_per_s or float(load.concurrency or 0)

    wanted = objective or Objective()
    found = []
    for title, name, limit in (
        ("Time to first token", "time_to_first_token_ms", wanted.time_to_first_token_ms),
        ("Time per output token", "time_per_output_token_ms", wanted.time_per_output_token_ms),
    ):
        known = [run for run in runs if getattr(run.report.results.latency, name) is not None]
        lines = () if limit is None else (Limit(limit, f"objective {limit:g} ms"),)
        for mark in ("p50", "p99"):
            place = attrgetter(f"report.results.latency.{name}.{mark}")
            series = _curves(known, offered, place)
            found.append(Chart(f"{title}, {mark}", f"against the load, {unit}", unit, "ms", series, lines))
    return found
