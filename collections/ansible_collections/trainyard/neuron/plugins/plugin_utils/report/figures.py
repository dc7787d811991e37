# SPDX-License-Identifier: Apache-2.0
"""The figures of a run by its records of requests: latencies, throughput, goodput and cost."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import Any

from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.reading import Record
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.schema import (
    Cost,
    Failure,
    Goodput,
    Interval,
    Latency,
    ModelShare,
    Objective,
    Repeat,
    Requests,
    Statistics,
    Throughput,
)

#: Two-sided 95 % points of Student's t by degrees of freedom; beyond the table the normal one.
_T95 = (math.inf, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145)


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


def milliseconds(seconds: float | None) -> float | None:
    """Seconds as milliseconds; None stays None."""
    return None if seconds is None else seconds * 1000


def window(rows: Sequence[Record], summary: dict[str, Any]) -> tuple[float, float]:
    """Start and end of a repeat's load, wall clock: its first request's start and its last answer's end."""
    starts = [r["started_at"] for r in rows if r["started_at"] is not None]
    ends = [r["started_at"] + r["e2e_s"] for r in rows if r["started_at"] is not None and r["e2e_s"] is not None]
    return (min(starts, default=summary["started_at"]), max(ends, default=summary["ended_at"]))


def latency_of(good: Sequence[Record]) -> Latency:
    """The latencies of requests that succeeded."""
    gaps = [gap for row in good for gap in row.get("gaps_ms") or []]
    return Latency(
        time_to_first_token_ms=statistics_of(milliseconds(r["ttft_s"]) for r in good),
        time_per_output_token_ms=statistics_of(time_per_output_token_ms(r) for r in good),
        inter_token_latency_ms=statistics_of(gaps),
        request_latency_ms=statistics_of(milliseconds(r["e2e_s"]) for r in good),
    )


def shares_of(rows: Sequence[Record], names: Sequence[str]) -> list[ModelShare]:
    """What became of the requests for each of the names that a load took in turn; nothing where it is one."""
    found = []
    for name in dict.fromkeys(names) if len(set(names)) > 1 else ():
        mine = [row for row in rows if row.get("model") == name]
        good = [row for row in mine if row["outcome"] == "succeeded"]
        latency = latency_of(good)
        share = ModelShare(
            name=name,
            sent=len(mine),
            succeeded=len(good),
            output_tokens=sum(row["output_tokens"] or 0 for row in good),
            time_to_first_token_ms=latency.time_to_first_token_ms,
            time_per_output_token_ms=latency.time_per_output_token_ms,
            request_latency_ms=latency.request_latency_ms,
        )
        found.append(share)
    return found


def repeat_of(summary: dict[str, Any], rows: Sequence[Record]) -> Repeat:
    """One repeat's own figures, from its part of the summary and its records."""
    good = [r for r in rows if r["outcome"] == "succeeded"]
    start, end = window(rows, summary)
    duration_s = max(end - start, 1e-9)
    ttft = statistics_of(milliseconds(r["ttft_s"]) for r in good)
    tpot = statistics_of(time_per_output_token_ms(r) for r in good)
    return Repeat(
        index=summary["index"],
        started_at=datetime.fromtimestamp(start, timezone.utc),
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


def requests_of(rows: Sequence[Record], asked: int) -> Requests:
    """Every request accounted for, of `asked` ones; the failures that are alike together, the most frequent first."""
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


def throughput_of(good: Sequence[Record], duration_s: float, hosts: int, cores: int | None) -> Throughput:
    """Tokens and requests a second, from the requests that succeeded within `duration_s` seconds."""
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
        (objective.time_to_first_token_ms, milliseconds(row["ttft_s"])),
        (objective.time_per_output_token_ms, time_per_output_token_ms(row)),
        (objective.request_latency_ms, milliseconds(row["e2e_s"])),
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


def cost_of(
    price: float | None, hosts: int, throughput: Throughput, duration_s: float, goodput: Goodput | None = None
) -> Cost | None:
    """What the tokens cost, and what a run of this length did, at `price` USD an hour of each host.

    `goodput` adds what the tokens within its objective cost. None without a price or without a token.
    """
    if price is None or throughput.output_tokens_per_s <= 0:
        return None
    fleet = price * hosts
    per_million = fleet / 3600 * 1e6
    return Cost(
        price_per_host_hour_usd=price,
        fleet_price_per_hour_usd=fleet,
        usd_per_million_output_tokens=per_million / throughput.output_tokens_per_s,
        usd_per_million_total_tokens=per_million / throughput.total_tokens_per_s,
        run_usd=fleet * duration_s / 3600,
        usd_per_million_output_tokens_within_objective=(
            per_million / goodput.output_tokens_per_s
            if goodput is not None and goodput.output_tokens_per_s > 0
            else None
        ),
    )


def confidence_of(repeats: Sequence[Repeat]) -> dict[str, Interval]:
    """The confidence interval of each figure over the repeats, by its name; empty for a single repeat."""
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
