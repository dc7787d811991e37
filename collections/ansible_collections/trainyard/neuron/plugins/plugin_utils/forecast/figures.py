# SPDX-License-Identifier: Apache-2.0
"""The forecast of one configuration under one load: each figure a range that follows from the model's own errors."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.calibration import Calibration, Time
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.latency import Speed
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.queueing import (
    Job,
    closed_loop,
    lengths,
    open_loop,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.figures import percentile
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.schema import Objective

#: Replicas that are worked through for a rate; a larger fleet has the same rate for each.
MOST_REPLICAS = 4
#: Requests of a replica that are worked through, and so many rounds of its slots at least.
LEAST_REQUESTS, ROUNDS = 48, 6
#: The search for the highest rate ends where two rates are this near.
RATE_TOLERANCE = 0.02


@dataclass(frozen=True)
class Range:
    """A figure with what it may be by the model's own errors."""

    low: float
    value: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """Return the JSON-ready form, four significant digits each."""
        return {name: float(f"{getattr(self, name):.4g}") for name in ("low", "value", "high")}


@dataclass(frozen=True)
class Load:
    """What is sent. Lengths in tokens; `streams` 0 is one for each sequence; a rate makes it an open loop."""

    input_tokens: float
    output_tokens: float
    input_deviation: float = 0.0
    output_deviation: float = 0.0
    streams: int = 0
    rate_per_s: float = 0.0
    seed: int = 11111


@dataclass(frozen=True)
class Setup:
    """One configuration of a deployment.

    Attributes:
        speed: a replica's times.
        slots: sequences that a replica works on at once.
        replicas: their number.
        hosts: hosts that they are on.
        hbm_bytes_needed: estimate for one replica, all its cores together; None where the model's size is not known.
        hbm_bytes_available: what these cores have.
        load_bytes: of the checkpoint that a start reads.
        presharded: whether the artifact holds the weights, cut for each core.
        native: whether the native plugin compiles.
    """

    speed: Speed
    slots: int
    replicas: int
    hosts: int
    hbm_bytes_needed: int | None
    hbm_bytes_available: int
    load_bytes: int
    presharded: bool = False
    native: bool = False


@dataclass(frozen=True)
class Run:
    """What a load made of a configuration, for all its replicas."""

    jobs: Sequence[Job]
    requests_per_s: float
    output_tokens_per_s: float
    duration_s: float

    def ttft_ms(self, per_cent: float) -> float:
        """Return a percentile of the time to the first token."""
        return percentile(sorted(job.ttft_s for job in self.jobs), per_cent) * 1000

    def tpot_ms(self, per_cent: float) -> float:
        """Return a percentile of the time of a further token; 0 where every answer has one token."""
        times = sorted(time for job in self.jobs if (time := job.tpot_s) is not None)
        return percentile(times, per_cent) * 1000 if times else 0.0


def good(job: Job, objective: Objective) -> bool:
    """Return whether a request keeps every limit."""
    tpot_s = job.tpot_s
    pairs = (
        (objective.time_to_first_token_ms, job.ttft_s),
        (objective.time_per_output_token_ms, tpot_s),
        (objective.request_latency_ms, job.latency_s),
    )
    return all(limit is None or seconds is None or seconds * 1000 <= limit for limit, seconds in pairs)


def kept(jobs: Sequence[Job], objective: Objective) -> bool:
    """Return whether enough of the requests are good."""
    return sum(good(job, objective) for job in jobs) * 100 >= objective.percentile * len(jobs)


def run(setup: Setup, load: Load, requests: int = 0) -> Run:
    """Return what a load makes of a configuration.

    Args:
        setup: the configuration.
        load: the load.
        requests: of the whole run; 0 takes enough for a steady state.
    """
    chance = random.Random(load.seed)  # noqa: S311 - nothing is secret about it
    replicas = min(setup.replicas, MOST_REPLICAS)
    enough = max(LEAST_REQUESTS, ROUNDS * setup.slots)
    if load.rate_per_s:
        count = (requests * replicas // setup.replicas or 1) if requests else enough * replicas
        jobs = _jobs(load, count, chance)
        rate = load.rate_per_s * replicas / setup.replicas
        open_loop(setup.speed, setup.slots, replicas, jobs, rate, chance)
        return _run_of(jobs, setup.replicas / replicas)
    streams = load.streams or setup.slots * setup.replicas
    # The router gives each replica the same, so far as they divide: those with one more are worked through as well.
    shares = [streams // setup.replicas + (index < streams % setup.replicas) for index in range(setup.replicas)]
    found: list[Job] = []
    requests_per_s = tokens_per_s = 0.0
    for share in sorted({share for share in shares if share}):
        number = shares.count(share)
        count = max(1, round(requests * share / streams)) if requests else max(enough, ROUNDS * share)
        part = _run_of(closed_loop(setup.speed, setup.slots, _jobs(load, count, chance), share), number)
        found += part.jobs
        requests_per_s += part.requests_per_s
        tokens_per_s += part.output_tokens_per_s
    return Run(found, requests_per_s, tokens_per_s, max(job.ended_s for job in found))


def _jobs(load: Load, count: int, chance: random.Random) -> list[Job]:
    prompts = lengths(load.input_tokens, load.input_deviation, count, chance)
    answers = lengths(load.output_tokens, load.output_deviation, count, chance)
    return [Job(*both) for both in zip(prompts, answers, strict=True)]


def _run_of(jobs: Sequence[Job], times: float) -> Run:
    duration_s = max(job.ended_s for job in jobs) - min(job.arrived_s for job in jobs)
    rate, tokens = len(jobs) / duration_s * times, sum(job.output_tokens for job in jobs) / duration_s * times
    return Run(jobs, rate, tokens, duration_s)


def highest_rate(setup: Setup, load: Load, objective: Objective) -> float:
    """Return the highest rate, requests per second, that keeps an objective; 0 where not even a very low one does."""
    most = run(setup, replace(load, streams=2 * setup.slots * setup.replicas, rate_per_s=0)).requests_per_s * 1.05
    low, high = most / 200, most
    if not _keeps(setup, load, objective, low):
        return 0.0
    if _keeps(setup, load, objective, high):
        return high
    while high / low > 1 + RATE_TOLERANCE:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if _keeps(setup, load, objective, middle) else (low, middle)
    return low


def _keeps(setup: Setup, load: Load, objective: Objective, rate: float) -> bool:
    return kept(run(setup, replace(load, rate_per_s=rate)).jobs, objective)


def usd_per_million(price_per_host_hour_usd: float, hosts: int, tokens_per_s: float) -> float | None:
    """Return what a million tokens cost; None without a token."""
    return price_per_host_hour_usd * hosts / 3600 * 1e6 / tokens_per_s if tokens_per_s > 0 else None


def forecast(
    setup: Setup,
    load: Load,
    calibration: Calibration,
    objective: Objective | None = None,
    price_per_host_hour_usd: float | None = None,
) -> dict[str, Any]:
    """Return the forecast, JSON-ready: figures by name, each a range or None where it cannot be told.

    Args:
        setup: the configuration, its speed with the calibration's constants.
        load: what is sent.
        calibration: the constants' errors.
        objective: what a request must keep; None leaves out the rate within it.
        price_per_host_hour_usd: of one host; None leaves out costs.
    """
    errors = calibration.errors

    def ranged(figure: Callable[[Setup], float | None]) -> dict[str, float] | None:
        found = []
        for sign in (-1, 0, 1):
            speed = replace(
                setup.speed,
                prefill_factor=setup.speed.prefill_factor * errors.prefill_factor**sign,
                step_factor=setup.speed.step_factor * errors.decode_factor**sign,
            )
            found.append(figure(replace(setup, speed=speed)))
        if any(value is None for value in found):
            return None
        values = [value for value in found if value is not None]
        return Range(min(values), values[1], max(values)).to_dict()

    runs: dict[Speed, Run] = {}

    def ran(one: Setup) -> Run:
        if one.speed not in runs:
            runs[one.speed] = run(one, load)
        return runs[one.speed]

    rates: dict[Speed, float] = {}

    def rate(one: Setup, wanted: Objective) -> float:
        if one.speed not in rates:
            rates[one.speed] = highest_rate(one, load, wanted)
        return rates[one.speed]

    figures: dict[str, Any] = {
        "time_to_first_token_p50_ms": ranged(lambda one: ran(one).ttft_ms(50)),
        "time_to_first_token_p90_ms": ranged(lambda one: ran(one).ttft_ms(90)),
        "time_per_output_token_p50_ms": ranged(lambda one: ran(one).tpot_ms(50)),
        "output_tokens_per_s": ranged(lambda one: ran(one).output_tokens_per_s),
        "requests_per_s": ranged(lambda one: ran(one).requests_per_s),
        "highest_rate_within_objective_per_s": None,
        "usd_per_million_output_tokens": None,
        "usd_per_million_output_tokens_within_objective": None,
    }
    price = price_per_host_hour_usd
    if objective is not None:
        figures["highest_rate_within_objective_per_s"] = ranged(lambda one: rate(one, objective))
    if price is not None:
        figures["usd_per_million_output_tokens"] = ranged(
            lambda one: usd_per_million(price, setup.hosts, ran(one).output_tokens_per_s)
        )
    if price is not None and objective is not None:
        figures["usd_per_million_output_tokens_within_objective"] = ranged(
            lambda one: usd_per_million(price, setup.hosts, rate(one, objective) * load.output_tokens)
        )
    return {
        "called": "forecast",
        "provenance": calibration.provenance,
        **figures,
        "hbm_bytes_needed": setup.hbm_bytes_needed,
        "hbm_bytes_available": setup.hbm_bytes_available,
        **_times(setup, calibration),
    }


def _times(setup: Setup, calibration: Calibration) -> dict[str, dict[str, float]]:
    times = calibration.times
    compiles = times.native_compile_s if setup.native else times.compile_s
    starts = start_range(setup.load_bytes, calibration, cut=setup.presharded or setup.native).to_dict()
    cut = times.presharding_bytes_per_s
    parts = [(compiles, compiles.value)]
    parts += [(cut, setup.load_bytes / cut.value)] if setup.presharded else []
    return {"start_s": starts, "compile_s": _spread(*parts).to_dict()}


def start_range(load_bytes: int, calibration: Calibration, *, cut: bool) -> Range:
    """Return what a start takes, seconds.

    Args:
        load_bytes: of the checkpoint.
        calibration: the constants.
        cut: whether it is read as it is needed: its weights lie there cut for the cores, or the engine reads slices.
    """
    times = calibration.times
    pace = times.load_bytes_per_s if cut else times.shard_bytes_per_s
    return _spread((times.start_s, times.start_s.value), (pace, load_bytes / pace.value))


def _spread(*parts: tuple[Time, float]) -> Range:
    return Range(
        sum(seconds / time.error_factor for time, seconds in parts),
        sum(seconds for _time, seconds in parts),
        sum(seconds * time.error_factor for time, seconds in parts),
    )
