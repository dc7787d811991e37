# SPDX-License-Identifier: Apache-2.0
"""The schema of a benchmark's result, after the llm-d Benchmark Report 0.2, and what makes one out of a run's records.

Names follow llm-d's where it has one (`run`, `scenario.load`, `results.request_performance`-like groups, time to first
token, time per output token, inter-token latency); every number carries its unit in its name. What llm-d has no place
for stands beside it: provenance, artifact digests, the Neuron SDK, the servers' own counters and the flags.

A report says what was measured and, in `flags`, what about it cannot be trusted. Errors make `sound` false.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator

from trainyard.settings_file import FileError, read_json

VERSION: Literal["1"] = "1"
#: No report is larger, bytes: samples of a day over a hundred replicas are a tenth of it.
REPORT_BYTES = 512 << 20
#: How far vLLM's counters may be from the client's before the run is flagged.
COUNTER_TOLERANCE = 0.02
#: In-flight requests of the busiest replica over the mean of all, beyond which the balance is flagged.
IMBALANCE_LIMIT = 1.15
#: Samples under load below which a replica's mean in flight says nothing about the balance.
BALANCE_SAMPLES = 20
#: Share of one processor that the busiest client process may use: beyond it, its own work shows in the latencies.
CLIENT_CPU_LIMIT = 0.85
#: Share of a load host's processor time that must be free.
IDLE_LIMIT = 0.05
#: Share of the asked-for streams that must be in flight on average, in closed loop, start and tail left out.
STREAMS_LIMIT = 0.9
#: Two-sided 95 % points of Student's t by degrees of freedom; beyond the table the normal one.
_T95 = (math.inf, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145)
_PROVENANCE = re.compile(r"cpu|simulated|measured on [a-z0-9-]+\.[a-z0-9-]+")

Record = dict[str, Any]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True, allow_inf_nan=False)


class Statistics(_Model):
    """A quantity over many requests, in the unit that its field's name gives."""

    count: int = Field(ge=1)
    mean: float
    stddev: float = Field(ge=0)
    min: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float


class Interval(_Model):
    """The mean over repeats and the half-width of its 95 % confidence interval (Student's t)."""

    mean: float
    half_width: float = Field(ge=0)
    repeats: int = Field(ge=2)


class Run(_Model):
    """Which run this is."""

    id: str
    """Name of the run and of its directory."""
    started_at: AwareDatetime
    ended_at: AwareDatetime
    duration_s: float = Field(ge=0)
    """Time under load, all repeats together, without warm-up."""
    repeats: int = Field(ge=1)
    trainyard_version: str
    git_commit: str | None = None
    """Commit of the toolkit, where it ran from a checkout."""


class Replica(_Model):
    """One vLLM server as the plan had it."""

    id: str
    url: str
    host: str | None = None
    deployment: str | None = None
    cores: str | None = None
    """Logical NeuronCores, such as 0-31."""
    core_count: int | None = None
    artifact: str | None = None
    """Digest of the compiled artifact."""
    release: str | None = None
    """Digest of the replica's complete configuration."""
    sdk_release: str | None = None
    generation: str | None = None
    runtime: str | None = None
    max_num_seqs: int | None = None
    max_model_len: int | None = None


class Scenario(_Model):
    """What was measured."""

    model: str
    """The name under which the router serves it."""
    weights: str | None = None
    """Repository and revision of the weights."""
    deployment: str | None = None
    instance_type: str | None = None
    logical_nc_config: int | None = None
    tensor_parallel_size: int | None = None
    """Cores of one replica."""
    data_parallel_size: int
    """Replicas behind the router."""
    hosts: int
    cores: int | None = None
    """Cores of all replicas."""
    router_url: str
    router_policy: str | None = None
    replicas: list[Replica]
    price_per_host_hour_usd: float | None = Field(default=None, ge=0)


class Length(_Model):
    """A length in tokens as it was asked for."""

    mean: float = Field(ge=1)
    stddev: float = Field(ge=0)


class Load(_Model):
    """What was sent, and by what."""

    tool: Literal["llmeter", "llmperf", "vllm_bench"]
    tool_version: str
    tool_reason: str = ""
    """Why this client and not another."""
    source: Literal["random", "dataset"]
    target: Literal["router", "replicas"]
    loop: Literal["closed", "open"]
    concurrency: int | None = Field(default=None, ge=1)
    """Streams kept in flight (closed loop), or the most allowed (open loop)."""
    rate_per_s: float | None = Field(default=None, gt=0)
    arrival: Literal["poisson", "constant"] | None = None
    requests: int = Field(ge=1)
    """Requests of one repeat."""
    warmup_requests: int = Field(ge=0)
    input_tokens: Length
    output_tokens: Length
    ignore_eos: bool
    sampling: dict[str, Any]
    request_timeout_s: float
    seed: int
    commands: list[list[str]]
    """The client's command lines, a key left out."""


class Failure(_Model):
    """Requests that failed alike."""

    outcome: Literal["failed", "timed_out"]
    http_status: int | None = None
    message: str
    count: int = Field(ge=1)


class Requests(_Model):
    """Every request accounted for."""

    asked: int
    sent: int
    succeeded: int
    failed: int
    timed_out: int
    failures: list[Failure]
    input_tokens: Statistics | None
    """Tokens of the prompts, as the server counted them where the client records that."""
    output_tokens: Statistics | None


class Latency(_Model):
    """Of the requests that succeeded. Milliseconds."""

    time_to_first_token_ms: Statistics | None
    time_per_output_token_ms: Statistics | None
    """Of each request: (end - first token) / (output tokens - 1)."""
    inter_token_latency_ms: Statistics | None
    """Of all gaps between the pieces of a stream; a piece may hold several tokens. None where the client keeps none."""
    request_latency_ms: Statistics | None


class Throughput(_Model):
    """Of the requests that succeeded, over the time from the first one's start to the last one's end."""

    output_tokens_per_s: float
    total_tokens_per_s: float
    requests_per_s: float
    output_tokens_per_s_per_user: Statistics | None
    """Of each request: output tokens after the first, over the time after the first token."""
    output_tokens_per_s_per_host: float
    output_tokens_per_s_per_core: float | None = None


class Objective(_Model):
    """A service-level objective; a request is good when it keeps every limit that is set."""

    time_to_first_token_ms: float | None = Field(default=None, gt=0)
    time_per_output_token_ms: float | None = Field(default=None, gt=0)
    request_latency_ms: float | None = Field(default=None, gt=0)
    percentile: float = Field(default=99, gt=0, le=100)
    """Share of requests that must be good for a configuration to keep the objective, in per cent."""


class Goodput(_Model):
    """What kept the objective. Requests that failed are not good."""

    objective: Objective
    good_requests: int
    good_ratio: float = Field(ge=0, le=1)
    requests_per_s: float
    output_tokens_per_s: float
    kept: bool
    """Whether at least the objective's percentile of the requests was good."""


class Cost(_Model):
    """What the tokens cost on hosts at this price, if the load were always this one."""

    price_per_host_hour_usd: float
    fleet_price_per_hour_usd: float
    usd_per_million_output_tokens: float
    usd_per_million_total_tokens: float


class Repeat(_Model):
    """One repeat's own figures."""

    index: int
    started_at: datetime
    duration_s: float
    sent: int
    succeeded: int
    output_tokens_per_s: float
    requests_per_s: float
    time_to_first_token_p50_ms: float | None
    time_to_first_token_p99_ms: float | None
    time_per_output_token_p50_ms: float | None
    mean_in_flight: float


class Server(_Model):
    """One replica's own account of the load."""

    id: str
    requests: int | None
    """By its counter; None where it could not be read afterwards."""
    prompt_tokens: int | None
    generation_tokens: int | None
    in_flight_mean: float | None
    """Requests that it ran or held, on average over the samples under load."""
    in_flight_max: float | None
    waiting_max: float | None
    restarted: bool
    """Its counters began anew, or its process did, during the run."""


class Agreement(_Model):
    """How the client's account and the servers' compare; (servers - client) / client."""

    requests_difference_ratio: float | None
    output_tokens_difference_ratio: float | None
    agree: bool
    """Both within the tolerance of 2 %."""


class Sample(_Model):
    """How busy each replica was at one moment: [running, waiting]."""

    at_s: float
    """Seconds since the repeat's start."""
    repeat: int
    replicas: dict[str, tuple[float, float] | None]


class LoadShare(_Model):
    """One of several machines that sent the load, by its own processes' account."""

    name: str
    requests: int
    client_processes: int
    client_cpu_cores: float
    """Processors that its processes used on average under load."""
    busiest_process_cores: float
    """Share of one processor that its busiest process used while it had a request in flight."""
    idle_ratio_mean: float | None
    """Share of its processor time that was free."""


class LoadHost(_Model):
    """The machine that sent the load, or on which it was begun."""

    name: str
    processors: int
    client_processes: int
    client_cpu_cores: float
    """Processors that the client used on average under load."""
    busiest_process_cores: float | None = None
    """Share of one processor that the client's busiest process used under load; an interpreter can use one at most."""
    idle_ratio_mean: float | None = None
    """Share of the machine's processor time that was free."""
    late_start_p99_ms: float | None = None
    """Open loop: how long after its time a request started."""
    shares: list[LoadShare] = Field(default_factory=list)
    """Each machine's part where several sent; empty where this one sent everything."""


class Servers(_Model):
    """The servers' side of the run."""

    replicas: list[Server]
    agreement: Agreement
    imbalance_ratio: float | None
    """Mean in-flight requests of the busiest replica over the mean of all replicas; None with fewer than 20 samples."""
    samples: list[Sample]


class Results(_Model):
    """What came out."""

    requests: Requests
    latency: Latency
    throughput: Throughput
    goodput: Goodput | None = None
    cost: Cost | None = None
    repeats: list[Repeat]
    confidence: dict[str, Interval]
    """By the name of a figure of `repeats`; empty for a single repeat."""


class Flag(_Model):
    """Something about the run that a reader must know."""

    code: Literal[
        "unaccounted_requests",
        "failed_requests",
        "no_success",
        "client_error",
        "counters_disagree",
        "counters_missing",
        "replica_restarted",
        "replica_idle",
        "imbalance",
        "client_limited",
        "load_not_reached",
        "short_answers",
    ]
    severity: Literal["error", "warning"]
    message: str


class BenchmarkReport(_Model):
    """One benchmark run, complete and self-contained."""

    version: Literal["1"]
    provenance: str
    """Where the figures come from: cpu, simulated, or measured on an instance type. Never shown without it."""
    run: Run
    scenario: Scenario
    load: Load
    results: Results
    servers: Servers
    load_host: LoadHost
    flags: list[Flag]
    sound: bool
    """No flag is an error."""

    @field_validator("provenance")
    @classmethod
    def _known_provenance(cls, value: str) -> str:
        if not _PROVENANCE.fullmatch(value):
            raise ValueError(f"{value!r} must be 'cpu', 'simulated' or 'measured on <instance type>'")
        return value


class ReportError(Exception):
    """A report or a run's directory cannot be read; the text names the file and the cause."""


def json_schema() -> dict[str, Any]:
    """The JSON schema of a report, as docs/schemas/benchmark.schema.json publishes it."""
    schema = BenchmarkReport.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def load(path: Path) -> BenchmarkReport:
    """The report at `path`, a report.json or a run's directory. Older versions of the schema are read here, too."""
    file = path / "report.json" if path.is_dir() else path
    try:
        data = read_json(file, REPORT_BYTES)
    except FileError as error:
        raise ReportError(f"{file} is no benchmark report: {error}") from error
    if not isinstance(data, dict):
        raise ReportError(f"{file} is no benchmark report: it holds a {type(data).__name__} and no mapping")
    if data.get("version") != VERSION:
        raise ReportError(f"{file} has schema version {data.get('version')!r}; this trainyard reads {VERSION}")
    try:
        return BenchmarkReport.model_validate(data)
    except ValidationError as error:
        raise ReportError(f"{file} is no benchmark report: {_wrong(error)}") from error


class _Row(BaseModel):
    """What a record has in any case; clients add to it."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    index: int
    outcome: Literal["succeeded", "failed", "timed_out"]
    http_status: int | None
    error: str | None
    started_at: float | None = Field(ge=0, le=1e11)
    ttft_s: float | None = Field(ge=0, le=1e9)
    e2e_s: float | None = Field(ge=0, le=1e9)
    input_tokens: float | None = Field(ge=0, le=1e12)
    output_tokens: float | None = Field(ge=0, le=1e12)
    gaps_ms: list[Annotated[float, Field(ge=0, le=1e12)]] | None = None
    client: dict[str, Any] | None = None


def records_of(run_directory: Path) -> list[Record]:
    """Every request's record of a run, with its repeat, in the order of the repeats.

    Raises:
        ReportError: naming the file and the line that is no record, as one that was cut off is not.
    """
    rows: list[Record] = []
    for file in sorted(run_directory.glob("repeat-*/requests.jsonl")):
        repeat = file.parent.name.removeprefix("repeat-")
        if not re.fullmatch(r"[0-9]{1,6}", repeat):
            raise ReportError(f"{file.parent} is no repeat of a run: its name has no number")
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise ReportError(f"{file} cannot be read: {error}") from error
        rows += [{**_record(file, number, line), "repeat": int(repeat)} for number, line in enumerate(lines, 1)]
    return rows


def _record(file: Path, number: int, line: str) -> Record:
    try:
        row: Record = json.loads(line)
        _Row.model_validate(row)
    except ValidationError as error:
        raise ReportError(f"{file}, line {number}, is no record of a request: {_wrong(error)}") from error
    except (ValueError, RecursionError) as error:
        fix = "bring the run's archive again, or remove that line and know that a request is missing"
        raise ReportError(f"{file}, line {number}, is no record of a request ({error}): {fix}") from error
    return row


def _wrong(error: ValidationError) -> str:
    """Say in one line what a model refuses, without the values."""
    found = [f"{'.'.join(map(str, one['loc'])) or 'it'}: {one['msg']}" for one in error.errors(include_url=False)[:5]]
    more = error.error_count() - len(found)
    return "; ".join(found) + (f"; and {more} more" if more > 0 else "")


def percentile(ordered: Sequence[float], per_cent: float) -> float:
    """The percentile of an ascending sequence, linear between its neighbours."""
    place = (len(ordered) - 1) * per_cent / 100
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def statistics_of(values: Iterable[float | None]) -> Statistics | None:
    """Statistics of the values that are there, or None without any."""
    ordered = sorted(float(value) for value in values if value is not None)
    if not ordered:
        return None
    marks = {f"p{mark}": round(percentile(ordered, mark), 4) for mark in (50, 90, 95, 99)}
    spread = statistics.stdev(ordered) if len(ordered) > 1 else 0.0
    mean = round(statistics.fmean(ordered), 4)
    return Statistics(count=len(ordered), mean=mean, stddev=round(spread, 4), min=ordered[0], max=ordered[-1], **marks)


def interval_of(values: Sequence[float]) -> Interval | None:
    """The 95 % confidence interval of the mean of repeats; None with fewer than two."""
    if len(values) < 2:
        return None
    t = _T95[len(values) - 1] if len(values) <= len(_T95) else 1.96
    half = t * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean=statistics.fmean(values), half_width=half, repeats=len(values))


def time_per_output_token_ms(row: Record) -> float | None:
    """(end - first token) / (tokens - 1) of one request in ms; None for a single token, which has no time between."""
    if row["ttft_s"] is None or row["e2e_s"] is None or (row["output_tokens"] or 0) < 2:
        return None
    return float((row["e2e_s"] - row["ttft_s"]) * 1000 / (row["output_tokens"] - 1))


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


def _window(rows: Sequence[Record], summary: dict[str, Any]) -> tuple[float, float]:
    """Start and end of a repeat's load, wall clock: its first request's start and its last answer's end."""
    starts = [r["started_at"] for r in rows if r["started_at"] is not None]
    ends = [r["started_at"] + r["e2e_s"] for r in rows if r["started_at"] is not None and r["e2e_s"] is not None]
    return (min(starts, default=summary["started_at"]), max(ends, default=summary["ended_at"]))


def _latency(good: Sequence[Record]) -> Latency:
    gaps = [gap for row in good for gap in row.get("gaps_ms") or []]
    return Latency(
        time_to_first_token_ms=statistics_of(_ms(r["ttft_s"]) for r in good),
        time_per_output_token_ms=statistics_of(time_per_output_token_ms(r) for r in good),
        inter_token_latency_ms=statistics_of(gaps),
        request_latency_ms=statistics_of(_ms(r["e2e_s"]) for r in good),
    )


def _repeat(summary: dict[str, Any], rows: Sequence[Record]) -> Repeat:
    good = [r for r in rows if r["outcome"] == "succeeded"]
    start, end = _window(rows, summary)
    duration_s = max(end - start, 1e-9)
    ttft = statistics_of(_ms(r["ttft_s"]) for r in good)
    tpot = statistics_of(time_per_output_token_ms(r) for r in good)
    return Repeat(
        index=summary["index"],
        started_at=datetime.fromtimestamp(start, UTC),
        duration_s=duration_s,
        sent=len(rows),
        succeeded=len(good),
        output_tokens_per_s=sum(r["output_tokens"] or 0 for r in good) / duration_s,
        requests_per_s=len(good) / duration_s,
        time_to_first_token_p50_ms=ttft.p50 if ttft else None,
        time_to_first_token_p99_ms=ttft.p99 if ttft else None,
        time_per_output_token_p50_ms=tpot.p50 if tpot else None,
        mean_in_flight=sum(r["e2e_s"] or 0.0 for r in rows) / duration_s,
    )


def _requests(rows: Sequence[Record], asked: int) -> Requests:
    counts = Counter(row["outcome"] for row in rows)
    alike = Counter((r["outcome"], r["http_status"], r["error"] or "") for r in rows if r["outcome"] != "succeeded")
    good = [r for r in rows if r["outcome"] == "succeeded"]
    return Requests(
        asked=asked,
        sent=len(rows),
        succeeded=counts["succeeded"],
        failed=counts["failed"],
        timed_out=counts["timed_out"],
        failures=[
            Failure(outcome=kind, http_status=status, message=message, count=count)
            for (kind, status, message), count in alike.most_common(20)
        ],
        input_tokens=statistics_of(r["input_tokens"] for r in good),
        output_tokens=statistics_of(r["output_tokens"] for r in good),
    )


def _throughput(good: Sequence[Record], duration_s: float, hosts: int, cores: int | None) -> Throughput:
    output = sum(r["output_tokens"] or 0 for r in good) / duration_s
    total = output + sum(r["input_tokens"] or 0 for r in good) / duration_s
    per_user = (1000 / ms for ms in map(time_per_output_token_ms, good) if ms)
    return Throughput(
        output_tokens_per_s=output,
        total_tokens_per_s=total,
        requests_per_s=len(good) / duration_s,
        output_tokens_per_s_per_user=statistics_of(per_user),
        output_tokens_per_s_per_host=output / max(1, hosts),
        output_tokens_per_s_per_core=output / cores if cores else None,
    )


def is_good(row: Record, objective: Objective) -> bool:
    """Whether a request succeeded and kept every limit of the objective."""
    pairs = (
        (objective.time_to_first_token_ms, _ms(row["ttft_s"])),
        (objective.time_per_output_token_ms, time_per_output_token_ms(row)),
        (objective.request_latency_ms, _ms(row["e2e_s"])),
    )
    return row["outcome"] == "succeeded" and all(
        limit is None or measured is None or measured <= limit for limit, measured in pairs
    )


def goodput_of(rows: Sequence[Record], duration_s: float, objective: Objective) -> Goodput:
    """What of the records kept the objective, over the time under load."""
    good = [row for row in rows if is_good(row, objective)]
    ratio = len(good) / len(rows) if rows else 0.0
    return Goodput(
        objective=objective,
        good_requests=len(good),
        good_ratio=ratio,
        requests_per_s=len(good) / duration_s,
        output_tokens_per_s=sum(r["output_tokens"] or 0 for r in good) / duration_s,
        kept=bool(rows) and ratio * 100 >= objective.percentile,
    )


def _cost(price: float | None, hosts: int, throughput: Throughput) -> Cost | None:
    if price is None or throughput.output_tokens_per_s <= 0:
        return None
    fleet = price * hosts
    per_million = fleet / 3600 * 1e6
    return Cost(
        price_per_host_hour_usd=price,
        fleet_price_per_hour_usd=fleet,
        usd_per_million_output_tokens=per_million / throughput.output_tokens_per_s,
        usd_per_million_total_tokens=per_million / throughput.total_tokens_per_s,
    )


def _server(name: str, repeats: Sequence[dict[str, Any]], samples: Sequence[Sample]) -> Server:
    totals: dict[str, int | None] = {"requests": 0, "prompt_tokens": 0, "generation_tokens": 0}
    restarted = False
    for repeat in repeats:
        before, after = repeat["counters"][name]["before"], repeat["counters"][name]["after"]
        if after is None:
            totals = dict.fromkeys(totals)
            break
        same_process = before["process_started_at"] == after["process_started_at"]
        restarted |= not same_process or after["generation_tokens"] < before["generation_tokens"]
        for key, total in totals.items():
            totals[key] = (total or 0) + round(after[key] - (0 if restarted else before[key]))
    seen = [pair for sample in samples if (pair := sample.replicas.get(name)) is not None]
    loads = [running + waiting for running, waiting in seen]
    return Server(
        id=name,
        requests=totals["requests"],
        prompt_tokens=totals["prompt_tokens"],
        generation_tokens=totals["generation_tokens"],
        in_flight_mean=statistics.fmean(loads) if loads else None,
        in_flight_max=max(loads, default=None),
        waiting_max=max((waiting for _, waiting in seen), default=None),
        restarted=restarted,
    )


def _samples(repeats: Sequence[dict[str, Any]], windows: dict[int, tuple[float, float]]) -> list[Sample]:
    """The samples taken under load; those before the first request and after the last answer would only add zeros."""
    found = []
    for repeat in repeats:
        start, end = windows[repeat["index"]]
        for row in repeat["samples"]:
            if start <= row["at"] <= end:
                at_s = round(row["at"] - start, 3)
                found.append(Sample(at_s=at_s, repeat=repeat["index"], replicas=row["replicas"]))
    return found


def _agreement(servers: Sequence[Server], rows: Sequence[Record]) -> Agreement:
    def ratio(theirs: Sequence[int | None], ours: int) -> float | None:
        known = [value for value in theirs if value is not None]
        return None if len(known) < len(theirs) or not ours else (sum(known) - ours) / ours

    good = [r for r in rows if r["outcome"] == "succeeded"]
    requests = ratio([s.requests for s in servers], len(good))
    tokens = ratio([s.generation_tokens for s in servers], sum(r["output_tokens"] or 0 for r in good))
    both = [value for value in (requests, tokens) if value is not None]
    agree = len(both) == 2 and all(abs(value) <= COUNTER_TOLERANCE for value in both)
    return Agreement(requests_difference_ratio=requests, output_tokens_difference_ratio=tokens, agree=agree)


def _imbalance(servers: Sequence[Server], samples: int) -> float | None:
    if samples < BALANCE_SAMPLES:
        return None
    means = [s.in_flight_mean for s in servers if s.in_flight_mean is not None]
    overall = statistics.fmean(means) if means else 0.0
    return max(means) / overall if len(means) > 1 and overall > 0 else None


def _load_host(summary: dict[str, Any], rows: Sequence[Record], windows: dict[int, tuple[float, float]]) -> LoadHost:
    repeats = summary["repeats"]

    def under_load(name: str) -> float | None:
        """Mean of one of the samples' own figures over the time under load; None where no sample has it."""
        known = [
            row[name]
            for repeat in repeats
            for row in repeat["samples"]
            if windows[repeat["index"]][0] <= row["at"] <= windows[repeat["index"]][1] and row.get(name) is not None
        ]
        return statistics.fmean(known) if known else None

    sampled = under_load("client_cores")
    late = statistics_of(_ms(r.get("late_s")) for r in rows)
    return LoadHost(
        name=summary["load_host"]["name"],
        processors=summary["load_host"]["processors"] or 1,
        client_processes=max(repeat["client_processes"] for repeat in repeats),
        client_cpu_cores=max(repeat["client_cpu_cores"] for repeat in repeats) if sampled is None else sampled,
        busiest_process_cores=under_load("client_busiest"),
        idle_ratio_mean=under_load("host_idle_ratio"),
        late_start_p99_ms=late.p99 if late else None,
        shares=_shares(rows, sum(end - start for start, end in windows.values())),
    )


def _shares(rows: Sequence[Record], duration_s: float) -> list[LoadShare]:
    """Each machine's part by the records' own account; none where all came from one machine, which was sampled."""
    sent = [row for row in rows if (row.get("client") or {}).get("host")]
    names = sorted({row["client"]["host"] for row in sent})
    return [
        _share(name, [row for row in sent if row["client"]["host"] == name], duration_s) for name in names[1:] and names
    ]


def _share(name: str, rows: Sequence[Record], duration_s: float) -> LoadShare:
    used: dict[int, float] = defaultdict(float)
    busy: dict[int, float] = defaultdict(float)
    for row in rows:
        if row["e2e_s"]:  # nobody knows for how long one that failed was in flight
            used[row["client"]["process"]] += row["client"]["cpu_s"]
            busy[row["client"]["process"]] += row["e2e_s"]
    free = [row["client"]["host_idle_ratio"] for row in rows if row["client"]["host_idle_ratio"] is not None]
    return LoadShare(
        name=name,
        requests=len(rows),
        client_processes=len({row["client"]["process"] for row in rows}),
        client_cpu_cores=sum(used.values()) / max(duration_s, 1e-9),
        busiest_process_cores=max((used[key] / busy[key] for key in used), default=0.0),
        idle_ratio_mean=statistics.fmean(free) if free else None,
    )


def _request_flags(requests: Requests, failed_limit: float) -> list[tuple[str, str, str]]:
    found = []
    known = requests.succeeded + requests.failed + requests.timed_out
    if requests.sent != known or requests.sent != requests.asked:
        found.append(
            (
                "unaccounted_requests",
                "error",
                f"{requests.asked} asked for, {requests.sent} sent, {known} accounted for",
            )
        )
    bad = requests.failed + requests.timed_out
    if not requests.succeeded:
        found.append(("no_success", "error", "no request succeeded"))
    elif bad:
        severity = "error" if bad / requests.sent > failed_limit else "warning"
        first = requests.failures[0].message if requests.failures else ""
        text = f"{requests.failed} failed and {requests.timed_out} timed out of {requests.sent}; most often: {first}"
        found.append(("failed_requests", severity, text))
    return found


def _server_flags(servers: Servers) -> list[tuple[str, str, str]]:
    found = []
    silent = [s.id for s in servers.replicas if s.requests is None]
    if silent:
        found.append(("counters_missing", "error", f"no counters after the load from {', '.join(silent)}"))
    restarted = [s.id for s in servers.replicas if s.restarted]
    if restarted:
        found.append(("replica_restarted", "error", f"restarted under load: {', '.join(restarted)}"))
    both = servers.agreement
    if not both.agree and not silent:
        requests, tokens = (
            "unknown" if value is None else f"{value:+.1%}"
            for value in (both.requests_difference_ratio, both.output_tokens_difference_ratio)
        )
        text = f"the servers' counters are {requests} of the client's requests and {tokens} of its output tokens off"
        found.append(("counters_disagree", "warning", text))
    idle = [s.id for s in servers.replicas if s.requests == 0]
    if idle:
        found.append(("replica_idle", "warning", f"served nothing: {', '.join(idle)}"))
    elif servers.imbalance_ratio is not None and servers.imbalance_ratio > IMBALANCE_LIMIT:
        text = f"the busiest replica had {servers.imbalance_ratio:.2f} times the mean in flight"
        found.append(("imbalance", "warning", text))
    return found


def _limited_clients(host: LoadHost) -> list[str]:
    """What is said of each machine whose own processors are in the figures."""
    found = []
    senders: Sequence[LoadShare | LoadHost] = host.shares or [host]
    for one in senders:
        busiest, free = one.busiest_process_cores, one.idle_ratio_mean
        where = f" on {one.name}" if host.shares else ""
        if busiest is not None and busiest > CLIENT_CPU_LIMIT:
            text = f"the client's busiest process{where} used {busiest:.2f} of a processor"
            found.append(text + ": its own work is in the latencies")
        elif free is not None and free < IDLE_LIMIT:
            name = one.name if host.shares else "the load host"
            found.append(f"{name} had {free:.0%} of its processors free: client and servers may wait for them")
    return found


def _client_flags(
    host: LoadHost, load_: Load, repeats: Sequence[dict[str, Any]], results: Results
) -> list[tuple[str, str, str]]:
    found = []
    failed = [repeat for repeat in repeats if any(repeat["exit_status"])]
    if failed:
        text = f"the client exited with {failed[0]['exit_status']}: {failed[0]['log_tail'][-300:]}"
        found.append(("client_error", "error", text))
    found += [("client_limited", "warning", text) for text in _limited_clients(host)]
    if host.late_start_p99_ms is not None and host.late_start_p99_ms > 50:
        text = f"requests started up to {host.late_start_p99_ms:.0f} ms after their time (p99)"
        found.append(("load_not_reached", "warning", text))
    floor = min(repeat.mean_in_flight for repeat in results.repeats)
    asked = load_.concurrency or 0
    # The tail, when the last streams end, is in the mean: a load of few rounds cannot reach the full number.
    reachable = asked * (1 - min(1.0, asked / load_.requests))
    if load_.loop == "closed" and floor < STREAMS_LIMIT * reachable:
        text = f"{floor:.1f} requests in flight on average, {asked} were asked for"
        found.append(("load_not_reached", "warning", text))
    output = results.requests.output_tokens
    if output is not None and output.mean < 0.9 * load_.output_tokens.mean:
        text = f"answers had {output.mean:.0f} tokens on average, {load_.output_tokens.mean:.0f} were asked for"
        found.append(("short_answers", "warning", text))
    return found


def _load_section(summary: dict[str, Any], reason: str) -> Load:
    given = summary["load"]
    opened = bool(given["request_rate_per_s"])
    return Load(
        tool=summary["client"]["name"],
        tool_version=summary["client"]["version"],
        tool_reason=reason,
        source="dataset" if given["dataset"] else "random",
        target=given["target"],
        loop="open" if opened else "closed",
        concurrency=given["concurrency"] or None,
        rate_per_s=given["request_rate_per_s"] or None,
        arrival=given["arrival"] if opened else None,
        requests=given["requests"],
        warmup_requests=given["warmup_requests"],
        input_tokens=Length(mean=given["mean_input_tokens"], stddev=given["stddev_input_tokens"]),
        output_tokens=Length(mean=given["mean_output_tokens"], stddev=given["stddev_output_tokens"]),
        ignore_eos=given["ignore_eos"],
        sampling=given["sampling"],
        request_timeout_s=given["timeout_s"],
        seed=given["seed"],
        commands=summary["repeats"][0]["client_argv"],
    )


def scenario_of(summary: dict[str, Any], replicas: Sequence[dict[str, Any]], given: dict[str, Any]) -> Scenario:
    """The scenario from the plan's replicas; `given` adds or replaces fields, such as `price_per_host_hour_usd`."""
    kept = [Replica(**{key: row[key] for key in Replica.model_fields if key in row}) for row in replicas]
    counts = {replica.core_count for replica in kept}
    cores = [replica.core_count for replica in kept if replica.core_count]
    names = {replica.deployment for replica in kept if replica.deployment}
    derived: dict[str, Any] = {
        "model": summary["fleet"]["model"],
        "weights": next((row["weights"] for row in replicas if row.get("weights")), None),
        "deployment": names.pop() if len(names) == 1 else None,
        "tensor_parallel_size": counts.pop() if len(counts) == 1 else None,
        "data_parallel_size": len(kept),
        "hosts": len({replica.host or replica.id.split(":")[0] for replica in kept}),
        "cores": sum(cores) if len(cores) == len(kept) else None,
        "router_url": summary["fleet"]["url"],
    }
    return Scenario(replicas=kept, **{**derived, **given})


def build(
    summary: dict[str, Any],
    rows: Sequence[Record],
    *,
    provenance: str,
    replicas: Sequence[dict[str, Any]],
    scenario: dict[str, Any] | None = None,
    objective: Objective | None = None,
    failed_limit: float = 0.0,
    tool_reason: str = "",
    git_commit: str | None = None,
) -> BenchmarkReport:
    """The report of a run from its `run.json` (`summary`), its records and the plan's replicas.

    `failed_limit` is the share of requests that may fail before that makes the run unsound. Raises pydantic's
    ValidationError for a provenance that is none of the three.
    """
    from trainyard import __version__

    by_repeat = {
        repeat["index"]: [r for r in rows if r.get("repeat", 0) == repeat["index"]] for repeat in summary["repeats"]
    }
    windows = {repeat["index"]: _window(by_repeat[repeat["index"]], repeat) for repeat in summary["repeats"]}
    duration_s = max(sum(end - start for start, end in windows.values()), 1e-9)
    context = scenario_of(summary, replicas, scenario or {})
    good = [row for row in rows if row["outcome"] == "succeeded"]
    throughput = _throughput(good, duration_s, context.hosts, context.cores)
    repeats = [_repeat(repeat, by_repeat[repeat["index"]]) for repeat in summary["repeats"]]
    results = Results(
        requests=_requests(rows, summary["load"]["requests"] * len(repeats)),
        latency=_latency(good),
        throughput=throughput,
        goodput=goodput_of(rows, duration_s, objective) if objective else None,
        cost=_cost(context.price_per_host_hour_usd, context.hosts, throughput),
        repeats=repeats,
        confidence=_confidence(repeats),
    )
    samples = _samples(summary["repeats"], windows)
    per_server = [_server(name, summary["repeats"], samples) for name in summary["fleet"]["replicas"]]
    servers = Servers(
        replicas=per_server,
        agreement=_agreement(per_server, rows),
        imbalance_ratio=_imbalance(per_server, len(samples)),
        samples=samples,
    )
    host = _load_host(summary, rows, windows)
    section = _load_section(summary, tool_reason)
    found = _request_flags(results.requests, failed_limit) + _server_flags(servers)
    found += _client_flags(host, section, summary["repeats"], results)
    flags = [Flag.model_validate({"code": code, "severity": level, "message": text}) for code, level, text in found]
    return BenchmarkReport(
        version=VERSION,
        provenance=provenance,
        run=Run(
            id=summary["run_id"],
            started_at=datetime.fromtimestamp(summary["started_at"], UTC),
            ended_at=datetime.fromtimestamp(summary["ended_at"], UTC),
            duration_s=duration_s,
            repeats=len(repeats),
            trainyard_version=__version__,
            git_commit=git_commit,
        ),
        scenario=context,
        load=section,
        results=results,
        servers=servers,
        load_host=host,
        flags=flags,
        sound=not any(flag.severity == "error" for flag in flags),
    )


def _confidence(repeats: Sequence[Repeat]) -> dict[str, Interval]:
    names = (
        "output_tokens_per_s",
        "requests_per_s",
        "time_to_first_token_p50_ms",
        "time_to_first_token_p99_ms",
        "time_per_output_token_p50_ms",
    )
    found = {}
    for name in names:
        values = [value for repeat in repeats if (value := getattr(repeat, name)) is not None]
        interval = interval_of(values)
        if interval is not None:
            found[name] = interval
    return found


def table(report: BenchmarkReport, width: int = 100) -> str:
    """The result for a terminal: one screen, the provenance in its title, flags below."""
    requests, latency = report.results.requests, report.results.latency
    throughput = report.results.throughput
    title = f"{report.scenario.model} · {report.provenance} · {report.run.id}"
    lines = [title, "-" * min(width, max(60, len(title)))]
    lines.append(f"client            {report.load.tool} {report.load.tool_version}  {_load_text(report.load)}")
    lines.append(
        f"requests          {requests.sent} sent, {requests.succeeded} succeeded, {requests.failed} failed, "
        f"{requests.timed_out} timed out"
    )
    lines.append(
        f"throughput        {throughput.output_tokens_per_s:.1f} output tokens/s, "
        f"{throughput.requests_per_s:.2f} requests/s"
    )
    lines.append(f"{'':17} {'p50':>10} {'p90':>10} {'p99':>10}")
    for name, value in (
        ("TTFT ms", latency.time_to_first_token_ms),
        ("per token ms", latency.time_per_output_token_ms),
        ("inter-token ms", latency.inter_token_latency_ms),
        ("request ms", latency.request_latency_ms),
    ):
        if value is not None:
            lines.append(f"{name:17} {value.p50:10.1f} {value.p90:10.1f} {value.p99:10.1f}")
    lines.append(f"{'replica':24} {'requests':>9} {'tokens':>9} {'in flight':>10}   by its own counters")
    for server in report.servers.replicas:
        counts = ("-" if value is None else str(value) for value in (server.requests, server.generation_tokens))
        in_flight = "-" if server.in_flight_mean is None else f"{server.in_flight_mean:.1f}"
        lines.append("{:24} {:>9} {:>9} {:>10}".format(server.id, *counts, in_flight))
    agreement = "agree within 2 %" if report.servers.agreement.agree else "DO NOT AGREE within 2 %"
    lines.append(f"counters of client and servers {agreement}")
    lines += [f"{flag.severity.upper()}: {flag.message} ({flag.code})" for flag in report.flags]
    return "\n".join(lines)


def _load_text(load_: Load) -> str:
    if load_.loop == "open":
        shape = f"{load_.rate_per_s:g} requests/s ({load_.arrival})"
    else:
        shape = f"{load_.concurrency} streams"
    return f"{shape}, {load_.input_tokens.mean:g} tokens in, {load_.output_tokens.mean:g} out"


if __name__ == "__main__":  # writes docs/schemas/benchmark.schema.json
    import sys

    sys.stdout.write(json.dumps(json_schema(), indent=1, sort_keys=True) + "\n")
