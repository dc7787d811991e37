# SPDX-License-Identifier: Apache-2.0
"""The schema of a benchmark's result, after the llm-d Benchmark Report 0.2.

Names follow llm-d's where it has one (`run`, `scenario.load`, `results.request_performance`-like groups, time to first
token, time per output token, inter-token latency); every number carries its unit in its name. What llm-d has no place
for stands beside it: provenance, artifact digests, the Neuron SDK, the servers' own counters and the flags.

A report says what was measured and, in `flags`, what about it cannot be trusted. Errors make `sound` false.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator

VERSION: Literal["1"] = "1"
_PROVENANCE = re.compile(r"cpu|simulated|measured on [a-z0-9-]+\.[a-z0-9-]+")


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
    bucketing: bool | None = None
    """Whether graphs of several lengths are compiled in."""


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
    models: list[str] = Field(default_factory=list)
    """Names that the requests asked for in turn (the model, its aliases, its adapters); empty is the model's own."""
    loop: Literal["closed", "open"]
    concurrency: int | None = Field(default=None, ge=1)
    """Streams kept in flight (closed loop), or the most allowed (open loop)."""
    rate_per_s: float | None = Field(default=None, gt=0)
    arrival: Literal["poisson", "constant"] | None = None
    requests: int = Field(ge=1)
    """Requests of one repeat."""
    turns: int = Field(default=1, ge=1)
    """Requests of a conversation; 1 is none. The length of the first is `input_tokens`."""
    turn_tokens: int = Field(default=0, ge=0)
    """What each later one adds, of its client."""
    think_s: float = Field(default=0.0, ge=0)
    """Mean time between an answer and the next request."""
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


class ModelShare(_Model):
    """The requests that asked for one name of a model, where a load asked for several."""

    name: str
    sent: int
    succeeded: int
    output_tokens: int
    time_to_first_token_ms: Statistics | None
    time_per_output_token_ms: Statistics | None
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
    run_usd: float | None = None
    """What the hosts cost while the load ran; None in reports of earlier versions."""
    usd_per_million_output_tokens_within_objective: float | None = None
    """The same price over the tokens of requests that kept the objective; None without one, or where none did."""


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
    wanted_process_cores: float | None = None
    """Share of one processor that one of the client's processes used or waited for under load, where others took it."""
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
    requests_max_over_mean: float | None = None
    """Requests of the replica that served most over the mean of all, by their counters; None where one is unread."""
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
    models: list[ModelShare] = Field(default_factory=list)
    """Each name's part where the requests asked for several."""


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


def json_schema() -> dict[str, Any]:
    """The JSON schema of a report, as docs/schemas/benchmark.schema.json publishes it."""
    schema = BenchmarkReport.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
