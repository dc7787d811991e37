# SPDX-License-Identifier: Apache-2.0
"""Runs as a page (one HTML file that needs nothing else), as Markdown and as CSV, each with its provenance."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import jinja2

from trainyard.paths import called
from trainyard.report import analysis
from trainyard.report.analysis import Measured
from trainyard.report.charts import FRONTIER, Chart, Limit, Mark, Series, cumulative, nice_step

from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.figures import (  # isort: skip
    goodput_of,
    time_per_output_token_ms,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.text import cost_within_objective  # isort: skip
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.schema import (  # isort: skip
    BenchmarkReport,
    Flag,
    Length,
    LoadShare,
    ModelShare,
    Objective,
    Statistics,
)

#: Intervals of a run over which its tokens are counted, at most.
INTERVALS = 60

#: What a page says of itself in its first lines.
GENERATOR = b'<meta name="generator" content="trainyard report">'

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
    "tokens/s/user p50",
    "tokens/s/host",
    "TTFT p50 ms",
    "TTFT p99 ms",
    "per token p50 ms",
    "per token p99 ms",
    "USD per M output tokens",
    "USD per M within the objective",
    "busiest replica / mean",
    "flags",
)


def provenance_of(runs: Sequence[Measured]) -> str:
    """The one provenance of all runs, or all that there are: different kinds are not to be mixed silently."""
    return ", ".join(sorted({run.report.provenance for run in runs}))


def _mark(values: Statistics | None, name: str) -> str:
    return NONE if values is None else f"{getattr(values, name):.1f}"


def _of(values: Statistics | None) -> str:
    """Of how many: a p99 of fewer than a hundred is the slowest one of them."""
    return "" if values is None else f" of {values.count}"


def _usd(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"


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
        _mark(throughput.output_tokens_per_s_per_user, "p50"),
        f"{throughput.output_tokens_per_s_per_host:.1f}",
        _mark(latency.time_to_first_token_ms, "p50"),
        _mark(latency.time_to_first_token_ms, "p99"),
        _mark(latency.time_per_output_token_ms, "p50"),
        _mark(latency.time_per_output_token_ms, "p99"),
        NONE if cost is None else f"{cost.usd_per_million_output_tokens:.2f}",
        _usd(None if cost is None else cost.usd_per_million_output_tokens_within_objective),
        NONE if report.servers.requests_max_over_mean is None else f"{report.servers.requests_max_over_mean:.2f}",
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


def made(begins: bytes) -> bool:
    """Return whether a file that begins so is a report of this module's."""
    heads = ("Benchmark runs (", ",".join(COLUMNS) + "\n")
    return begins.startswith(tuple(head.encode("utf-8") for head in heads)) or GENERATOR in begins[:1000]


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
    # On a page the eye looks for the configuration; the run's name is for looking it up.
    columns = [*columns[1:], columns[0]]
    picked = [COLUMNS.index(name) for name in columns]
    ordered = sorted(runs, key=lambda run: (_natural(run.parallelism), run.batch or 0, _offered(run)))
    return environment.get_template("report.html.j2").render(
        title=", ".join(sorted(names)),
        provenance=provenance_of(runs),
        subtitle=_subtitle(runs),
        runs=runs,
        first=first,
        standing=_standing(first),
        tiles=_tiles(first) if len(runs) == 1 else _fleet_tiles(runs),
        flagged=_flagged(runs),
        objective_text=objective_text(objective) if objective else "",
        recommended=analysis.overrides(best) if best else "",
        verdict=_verdict(runs[0], objective) if objective and len(runs) == 1 else "",
        key=_key(runs) if len(runs) > 1 else [],
        best=best,
        recommended_figures=_recommended_figures(best, runs) if best else [],
        differences=analysis.compare(runs[0], runs[1]) if pair else [],
        site=called("site"),
        compared=f"{runs[1].report.run.id} against {runs[0].report.run.id}" if pair else "",
        charts=drawn,
        columns=columns,
        rows=[([row_of(run)[index] for index in picked], run is best) for run in ordered],
        cores={replica.id: replica.cores for replica in first.scenario.replicas},
        facts=_facts(first),
    )


def _flagged(runs: Sequence[Measured]) -> list[tuple[str, str, str]]:
    """What readers must know, the worst first: severity, message, and of several runs those that it is about."""
    found: dict[str, list[tuple[Measured, Flag]]] = {}
    for run in runs:
        for flag in run.report.flags:
            found.setdefault(flag.code, []).append((run, flag))
    rows = []
    for some in found.values():
        severity = "error" if any(flag.severity == "error" for _, flag in some) else "warning"
        about = "" if len(runs) == 1 else f"{some[0][0].configuration}, {some[0][0].offered}"
        if len(some) > 1:
            about = f"{about}, and {len(some) - 1} further run{'s' if len(some) > 2 else ''} alike"
        rows.append((severity, some[0][1].message, about))
    return sorted(rows, key=lambda row: row[0])


def _standing(report: BenchmarkReport) -> tuple[str, str]:
    """The class and the words of a run's seal: only one without any flag looks good."""
    if not report.sound:
        return "bad", "not sound"
    return ("warn", "with reservations") if report.flags else ("good", "sound")


def _verdict(run: Measured, objective: Objective) -> str:
    """How many requests of one run kept an objective."""
    if not run.records:
        return "kept" if run.keeps(objective) else "not kept"
    found = goodput_of(run.records, run.report.run.duration_s, objective)
    return f"{'kept' if found.kept else 'not kept'}: {found.good_requests} of {len(run.records)} requests"


def _key(runs: Sequence[Measured]) -> list[tuple[str, int | None, int]]:
    """What colours and shapes mean on the whole page: name, colour (None: any), shape."""
    style = Style.of(runs)
    colours: list[tuple[str, int | None, int]] = [(name, place, 0) for place, name in enumerate(style.colours)]
    shapes = [(f"batch {batch}", None, place) for place, batch in enumerate(style.batches) if batch is not None]
    return colours + (shapes if len(shapes) > 1 else [])


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
        (_mark(throughput.output_tokens_per_s_per_user, "p50"), "tokens/s for a user, p50"),
        (f"{_mark(latency.time_to_first_token_ms, 'p50')} ms", "time to first token, p50"),
        (
            f"{_mark(latency.time_to_first_token_ms, 'p99')} ms",
            f"time to first token, p99{_of(latency.time_to_first_token_ms)}",
        ),
        (f"{_mark(latency.time_per_output_token_ms, 'p50')} ms", "time per token, p50"),
        (f"{requests.succeeded} of {requests.sent}", "requests succeeded"),
    ]
    goodput, cost = report.results.goodput, report.results.cost
    if goodput is not None:
        tiles.append((f"{goodput.good_ratio:.1%}", "kept the objective"))
    if cost is not None:
        tiles.append((f"{cost.usd_per_million_output_tokens:,.2f} USD", "per million output tokens"))
        within = cost.usd_per_million_output_tokens_within_objective
        if within is not None:
            tiles.append((f"{within:,.2f} USD", "per million output tokens within the objective"))
        if cost.run_usd is not None:
            tiles.append((f"{cost.run_usd:,.2f} USD", "the hosts cost during this run"))
    busiest = report.servers.requests_max_over_mean
    if busiest is not None and report.scenario.data_parallel_size > 1:
        tiles.append((f"{busiest:.2f} x", "the mean's requests at the busiest replica"))
    return tiles


def _fleet_tiles(runs: Sequence[Measured]) -> list[tuple[str, str]]:
    best = max(runs, key=lambda run: run.report.results.throughput.output_tokens_per_s_per_host)
    throughput = best.report.results.throughput
    tiles = [
        (str(len({run.configuration for run in runs})), f"configurations in {len(runs)} runs"),
        (f"{throughput.output_tokens_per_s_per_host:,.0f}", f"most tokens/s a host ({best.configuration})"),
    ]
    quick = [run for run in runs if run.report.results.latency.time_to_first_token_ms]
    if quick:
        place = attrgetter("report.results.latency.time_to_first_token_ms.p50")
        first = min(quick, key=place)
        tiles.append((f"{place(first):,.0f} ms", f"least time to first token, p50 ({first.configuration})"))
    bad = sum(not run.report.sound for run in runs)
    return [*tiles, (str(bad), "not sound")] if bad else tiles


def _recommended_figures(best: Measured, runs: Sequence[Measured]) -> list[tuple[str, str]]:
    """What speaks for the recommended run."""
    host = attrgetter("report.results.throughput.output_tokens_per_s_per_host")
    latency, cost = best.report.results.latency, best.report.results.cost
    found = [(f"{host(best):,.0f}", "output tokens/s a host")]
    most: dict[str, float] = {}
    for run in runs:
        most[run.configuration] = max(most.get(run.configuration, 0.0), host(run))
    slowest = min(most, key=lambda name: most[name])
    if 0 < most[slowest] < host(best):
        found.append((f"{host(best) / most[slowest]:.1f} x", f"what {slowest} makes"))
    found.append((f"{_mark(latency.time_to_first_token_ms, 'p50')} ms", "time to first token, p50"))
    found.append((f"{_mark(latency.time_per_output_token_ms, 'p50')} ms", "time per token, p50"))
    if cost is not None:
        found.append((f"{cost.usd_per_million_output_tokens:,.2f} USD", "per million output tokens"))
    return found


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
        *[(f"asked for {one.name}", _part(one)) for one in report.results.models],
        ("tokens asked for", f"{_length(load.input_tokens)} in, {_length(load.output_tokens)} out"),
        ("cost within the objective", cost_within_objective(report)),
        ("sampling", f"{load.sampling or 'default'}; end of sequence {'ignored' if load.ignore_eos else 'heeded'}"),
        ("load host", f"{host.name}, {host.processors} processors, the client used {host.client_cpu_cores:.2f}"),
        ("processor free on it", None if host.idle_ratio_mean is None else f"{host.idle_ratio_mean:.0%}"),
        *[(f"sent from {one.name}", _share(one)) for one in host.shares],
        ("toolkit", f"{report.run.trainyard_version} at {report.run.git_commit or 'an unknown commit'}"),
        (
            "run",
            f"{report.run.id}, {report.run.started_at:%Y-%m-%d %H:%M:%S} UTC, {report.run.duration_s:.0f} s",
        ),
        ("measure it again", _again(scenario.deployment)),
    ]
    return [(name, str(value)) for name, value in facts if value not in (None, "")]


def _again(deployment: str | None) -> str:
    """Return the command that measures the same deployment of an inventory."""
    one = f" -e trainyard_benchmark={deployment}" if deployment else ""
    return f"ansible-playbook {called('benchmark')} -i INVENTORY{one}"


def _part(one: ModelShare) -> str:
    ttft, pace = _mark(one.time_to_first_token_ms, "p50"), _mark(one.time_per_output_token_ms, "p50")
    return f"{one.succeeded} of {one.sent} requests succeeded, TTFT p50 {ttft} ms, {pace} ms a token"


def _share(share: LoadShare) -> str:
    free = "" if share.idle_ratio_mean is None else f", {share.idle_ratio_mean:.0%} of its processors free"
    return f"{share.requests} requests, busiest process {share.busiest_process_cores:.2f} of a processor{free}"


def _length(length: Length) -> str:
    return f"{length.mean:g} ± {length.stddev:g}" if length.stddev else f"{length.mean:g}"


def charts(runs: Sequence[Measured], objective: Objective | None) -> list[Chart]:
    """The charts of one run, or of several together."""
    if len(runs) == 1:
        return _run_charts(runs[0], objective)
    return (_pair_charts(runs, objective) if len(runs) == 2 else []) + _sweep_charts(runs, objective)


def _pair_charts(runs: Sequence[Measured], objective: Objective | None) -> list[Chart]:
    """Both runs' latencies, one curve upon the other; none where the requests' records are gone."""
    found = []
    for title, name, limit in (
        ("Time to first token", "ttft_s", objective.time_to_first_token_ms if objective else None),
        ("Time per output token", "tpot", objective.time_per_output_token_ms if objective else None),
        ("Time of a request", "e2e_s", objective.request_latency_ms if objective else None),
    ):
        both = [cumulative(run.report.run.id, analysis.values_of(run.records, name)) for run in runs]
        note = "share of requests at or below"
        found.append(Chart(title, note, "ms", "% of requests", both, _vertical(limit), paired=True))
    return found


def _run_charts(run: Measured, objective: Objective | None) -> list[Chart]:
    good = [row for row in run.records if row["outcome"] == "succeeded" and row["started_at"] is not None]
    ttft = [row["ttft_s"] * 1000 for row in good if row["ttft_s"] is not None]
    tpot = [value for row in good if (value := time_per_output_token_ms(row)) is not None]
    gaps = [gap for row in good for gap in row.get("gaps_ms") or ()]
    report = run.report
    limit = objective or (report.results.goodput.objective if report.results.goodput else None)
    start = min((row["started_at"] for row in good), default=0.0)
    over_time = [
        Mark(row["started_at"] - start, row["ttft_s"] * 1000, f"request {row['index']}: {row['ttft_s'] * 1000:.0f} ms")
        for row in good
        if row["ttft_s"] is not None
    ]
    names = [server.id for server in report.servers.replicas]
    width_s, made = _tokens_over_time(good, start)
    busy = [Series(name, _in_flight(report, name), dots=False, step=True) for name in names]
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
            "Time between pieces of a stream",
            f"share of {len(gaps)} gaps at or below; a piece may hold several tokens",
            "ms",
            "% of gaps",
            [cumulative("between pieces", gaps)],
        ),
        Chart(
            "Output tokens over the run",
            f"of all answers together, each {width_s:g} s",
            "seconds since the load began",
            "tokens per second",
            [Series("output tokens", made, dots=False, step=True)],
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
        Chart(
            "Time per output token over the run",
            "each request at its start, the mean of its tokens after the first",
            "seconds since the load began",
            "ms",
            [Series("per token", _pace(good, start), line=False)],
        ),
    ]


def _tokens_over_time(good: Sequence[dict[str, Any]], start: float) -> tuple[float, list[Mark]]:
    """The width of an interval, and for each interval of the first repeat the output tokens per second that came in it.

    A piece counts as its share of an answer's tokens, when it came; of a client that keeps no gaps, pieces come evenly.
    """
    came: list[tuple[float, float]] = []
    for row in good:
        tokens, ttft_s = row["output_tokens"] or 0, row["ttft_s"]
        if row["repeat"] != 0 or ttft_s is None or row["e2e_s"] is None or not tokens:
            continue
        gaps_s = [gap / 1000 for gap in row.get("gaps_ms") or ()]
        gaps_s = gaps_s or [(row["e2e_s"] - ttft_s) / max(1, tokens - 1)] * (tokens - 1)
        times = itertools.accumulate(gaps_s, initial=row["started_at"] - start + ttft_s)
        came += [(time_s, tokens / (len(gaps_s) + 1)) for time_s in times]
    if not came:
        return 1.0, []
    width_s = max(1.0, nice_step(max(time_s for time_s, _ in came) / INTERVALS))
    counted = [0.0] * (int(max(time_s for time_s, _ in came) / width_s) + 1)
    for time_s, tokens in came:
        counted[int(time_s / width_s)] += tokens
    marks = [Mark(index * width_s, tokens / width_s) for index, tokens in enumerate(counted)]
    return width_s, [*marks, Mark(len(counted) * width_s, 0.0)]


def _pace(good: Sequence[dict[str, Any]], start: float) -> list[Mark]:
    """Each request's time per token, where it began."""
    found = [(row, value) for row in good if (value := time_per_output_token_ms(row)) is not None]
    return [Mark(row["started_at"] - start, ms, f"request {row['index']}: {ms:.1f} ms a token") for row, ms in found]


def _in_flight(report: BenchmarkReport, name: str) -> list[Mark]:
    first = [sample for sample in report.servers.samples if sample.repeat == 0]
    return [Mark(s.at_s, sum(pair)) for s in first if (pair := s.replicas.get(name)) is not None]


def _vertical(limit: float | None) -> tuple[Limit, ...]:
    return () if limit is None else (Limit(limit, f"objective {limit:g} ms", vertical=True),)


@dataclass(frozen=True)
class Style:
    """How a configuration looks in every chart of a page: TP x DP has a colour, the batch a shape and a dash."""

    colours: Sequence[str]
    batches: Sequence[int | None]

    @classmethod
    def of(cls, runs: Sequence[Measured]) -> Style:
        """The looks of these runs' configurations."""
        colours = sorted({run.parallelism for run in runs}, key=_natural)
        return cls(colours, sorted({run.batch for run in runs}, key=lambda batch: batch or 0))

    def series(self, name: str, one: Measured, marks: Sequence[Mark], *, line: bool = True) -> Series:
        """A configuration's curve."""
        place = self.colours.index(one.parallelism)
        return Series(name, marks, line, colour=place, dash=self.batches.index(one.batch))

    def shape(self, run: Measured) -> int:
        """The shape of a run's points."""
        return self.batches.index(run.batch)


def _sweep_charts(runs: Sequence[Measured], objective: Objective | None) -> list[Chart]:
    style = Style.of(runs)
    found = [_pareto_chart(runs, objective, style)] if len({run.configuration for run in runs}) > 1 else []
    for unit, some in (("requests/s", _looped(runs, "open")), ("streams", _looped(runs, "closed"))):
        # One load for each configuration makes no curve: the plane above and the table say it all.
        if len({_offered(run) for run in some if run.configuration == some[0].configuration}) > 1:
            found += _load_charts(some, unit, objective, style)
    timed = [run for run in runs if run.report.results.latency.time_to_first_token_ms]
    for title, note, y_name, place in (
        (
            "What a host makes, and the wait for it",
            "each run; higher and further left is better",
            "tokens/s a host",
            attrgetter("report.results.throughput.output_tokens_per_s_per_host"),
        ),
        (
            "What tokens cost",
            "each run, as if the load were always this one; lower and further left is better",
            "USD per million output tokens",
            attrgetter("report.results.cost.usd_per_million_output_tokens"),
        ),
    ):
        known = [run for run in timed if run.report.results.cost] if "cost" in title else timed
        if known:
            limit = objective.time_to_first_token_ms if objective else None
            series = _curves(known, attrgetter("report.results.latency.time_to_first_token_ms.p50"), place, style)
            found.append(Chart(title, note, "TTFT p50, ms", y_name, series, _vertical(limit)))
    return found


def _looped(runs: Sequence[Measured], loop: str) -> list[Measured]:
    return [run for run in runs if run.report.load.loop == loop]


def _offered(run: Measured) -> float:
    load = run.report.load
    return load.rate_per_s or float(load.concurrency or 0)


def _pareto_chart(runs: Sequence[Measured], objective: Objective | None, style: Style) -> Chart:
    best = analysis.recommend(runs, objective) if objective else None
    marks: dict[str, list[tuple[Measured, Mark]]] = {}
    several = len({run.configuration for run in runs}) < len(runs)
    points = sorted(analysis.pareto(runs), key=lambda point: -point.tokens_per_s_per_host)
    labelled: set[str] = set()
    for point in points:
        run = point.run
        text = (
            f"{run.configuration}, {run.offered}: {point.tokens_per_s_per_user:.1f} tokens/s a user, "
            f"{point.tokens_per_s_per_host:.0f} a host"
        )
        # A configuration has its name once, however many of its runs are among the best.
        named = (best is not None and run.configuration == best.configuration) or run.configuration in labelled
        label = f"recommended: {run.short}" if run is best else run.short if point.best and not named else ""
        labelled |= {run.configuration} if label else set()
        mark = Mark(
            point.tokens_per_s_per_user,
            point.tokens_per_s_per_host,
            text,
            strong=point.best or run is best,
            label=label,
            shape=style.shape(run),
        )
        # A curve is a configuration under several loads; with one load each, TP x DP over its batches.
        name = run.configuration if several else run.parallelism
        marks.setdefault(name, []).append((run, mark))
    series = [
        style.series(name, some[0][0], sorted((mark for _, mark in some), key=lambda mark: (mark.x, mark.y)))
        for name, some in sorted(marks.items(), key=lambda pair: _natural(pair[0]))
    ]
    if not several:
        series = [replace(one, dash=0) for one in series]
    note = "each run; filled and named where no other is better in both"
    x_name, y_name = "tokens/s a user", "tokens/s a host"
    frontier = sorted((point for point in points if point.best), key=lambda point: point.tokens_per_s_per_user)
    edge = [Mark(point.tokens_per_s_per_user, point.tokens_per_s_per_host) for point in frontier]
    shade = Series("the best of all", edge, dots=False, colour=FRONTIER)
    return Chart("Speed for a user against what a host makes", note, x_name, y_name, [shade, *series], wide=True)


def _curves(runs: Sequence[Measured], x: Any, y: Any, style: Style) -> list[Series]:
    curves: dict[str, list[Measured]] = {}
    for run in runs:
        curves.setdefault(run.configuration, []).append(run)
    found = []
    for name, some in sorted(curves.items(), key=lambda pair: _natural(pair[0])):
        marks = [
            Mark(x(run), y(run), f"{name}, {run.offered}: {y(run):.1f}", shape=style.shape(run))
            for run in sorted(some, key=_offered)
        ]
        found.append(style.series(name, some[0], marks))
    return found


def _load_charts(runs: Sequence[Measured], unit: str, objective: Objective | None, style: Style) -> list[Chart]:
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
            series = _curves(known, _offered, place, style)
            found.append(Chart(f"{title}, {mark}", f"against the load, {unit}", unit, "ms", series, lines))
    return found
