# SPDX-License-Identifier: Apache-2.0
"""The servers' own account of a run, and how it compares with the client's."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.reading import Record
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.schema import Agreement, Sample, Server

#: How far vLLM's counters may be from the client's before the run is flagged.
COUNTER_TOLERANCE = 0.02
#: Samples under load below which a replica's mean in flight says nothing about the balance.
BALANCE_SAMPLES = 20


def server_of(name: str, repeats: Sequence[dict[str, Any]], samples: Sequence[Sample]) -> Server:
    """A replica's own account: its counters after each repeat less those before, and its load by the samples."""
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


def samples_of(repeats: Sequence[dict[str, Any]], windows: dict[int, tuple[float, float]]) -> list[Sample]:
    """The samples taken under load; those before the first request and after the last answer would only add zeros."""
    found = []
    for repeat in repeats:
        start, end = windows[repeat["index"]]
        for row in repeat["samples"]:
            if start <= row["at"] <= end:
                at_s = round(row["at"] - start, 3)
                found.append(Sample(at_s=at_s, repeat=repeat["index"], replicas=row["replicas"]))
    return found


def agreement_of(servers: Sequence[Server], rows: Sequence[Record]) -> Agreement:
    """How far the servers' counters are from what the client recorded."""

    def ratio(theirs: Sequence[int | None], ours: int) -> float | None:
        known = [value for value in theirs if value is not None]
        return None if len(known) < len(theirs) or not ours else (sum(known) - ours) / ours

    good = [r for r in rows if r["outcome"] == "succeeded"]
    requests = ratio([s.requests for s in servers], len(good))
    tokens = ratio([s.generation_tokens for s in servers], sum(r["output_tokens"] or 0 for r in good))
    both = [value for value in (requests, tokens) if value is not None]
    agree = len(both) == 2 and all(abs(value) <= COUNTER_TOLERANCE for value in both)
    return Agreement(requests_difference_ratio=requests, output_tokens_difference_ratio=tokens, agree=agree)


def imbalance_of(servers: Sequence[Server], samples: int) -> float | None:
    """The busiest replica's mean load over the mean of all; None where there are too few samples to say."""
    if samples < BALANCE_SAMPLES:
        return None
    means = [s.in_flight_mean for s in servers if s.in_flight_mean is not None]
    overall = statistics.fmean(means) if means else 0.0
    return max(means) / overall if len(means) > 1 and overall > 0 else None


def busiest_of(servers: Sequence[Server]) -> float | None:
    """The requests of the replica that served most over the mean of all; None where one is unread or all are 0."""
    served = [server.requests for server in servers if server.requests is not None]
    if not served or len(served) < len(servers) or not sum(served):
        return None
    return max(served) / statistics.fmean(served)
