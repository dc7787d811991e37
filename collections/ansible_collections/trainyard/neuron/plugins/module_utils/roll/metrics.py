# SPDX-License-Identifier: Apache-2.0
"""What an engine's metrics say about a stretch of time: requests, latencies, lengths.

Prometheus counters and histograms only grow, so a window is the difference of two readings. Names differ between
engine versions; each measure lists the names it has had, newest first. Standard library only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.serving import exposition

TTFT = ("vllm:time_to_first_token_seconds",)
PER_TOKEN = (
    "vllm:inter_token_latency_seconds",
    "vllm:time_per_output_token_seconds",
    "vllm:request_time_per_output_token_seconds",
)
OUTPUT_TOKENS = ("vllm:request_generation_tokens",)
RUNNING = (exposition.RUNNING,)
WAITING = (exposition.WAITING,)
FINISHED = ("vllm:request_success_total", "vllm:request_success")


@dataclass(frozen=True)
class Histogram:
    """A Prometheus histogram: cumulative ``buckets`` as (upper bound, count), with their ``total`` and ``count``."""

    buckets: Tuple[Tuple[float, float], ...] = ()
    total: float = 0.0
    count: float = 0.0

    @property
    def mean(self) -> Optional[float]:
        """Mean of what was observed, exact; None if nothing was."""
        return self.total / self.count if self.count else None

    def quantile(self, share: float) -> Optional[float]:
        """Quantile by linear interpolation inside its bucket, so only as fine as the buckets are; None if empty."""
        if not self.count:
            return None
        rank = share * self.count
        low, below = 0.0, 0.0
        for bound, cumulative in self.buckets:
            if cumulative >= rank and cumulative > below:
                if math.isinf(bound):
                    return low
                return low + (bound - low) * (rank - below) / (cumulative - below)
            low, below = bound, cumulative
        return low

    @property
    def squared_spread(self) -> float:
        """Sum of squared distances from the mean, by the middle of each bucket.

        What lies in the open bucket counts as its lower bound, so a spread beyond it is underestimated.
        """
        if not self.count:
            return 0.0
        low, below, middles = 0.0, 0.0, []
        for bound, cumulative in self.buckets:
            middles.append((low if math.isinf(bound) else (low + bound) / 2, cumulative - below))
            low, below = bound, cumulative
        mean = sum(value * count for value, count in middles) / self.count
        return sum(count * (value - mean) ** 2 for value, count in middles)

    def since(self, earlier: Histogram) -> Histogram:
        """What was observed after ``earlier``. A histogram that shrank was restarted: then it is all new."""
        if self.count < earlier.count:
            return self
        before = dict(earlier.buckets)
        return Histogram(
            tuple((bound, count - before.get(bound, 0.0)) for bound, count in self.buckets),
            self.total - earlier.total,
            self.count - earlier.count,
        )

    def plus(self, other: Histogram) -> Histogram:
        """Both together; their buckets must be the same ones."""
        if not self.count:
            return other
        if not other.count:
            return self
        more = dict(other.buckets)
        return Histogram(
            tuple((bound, count + more.get(bound, 0.0)) for bound, count in self.buckets),
            self.total + other.total,
            self.count + other.count,
        )


@dataclass(frozen=True)
class Reading:
    """One look at an engine.

    Attributes:
        running: requests in the engine now.
        waiting: requests queued in the engine now.
        finished: requests by the reason they ended with, since the engine started.
        ttft: time to first token, seconds.
        per_token: time per output token, seconds.
        output_tokens: tokens generated per request.
    """

    running: float = 0.0
    waiting: float = 0.0
    finished: Mapping[str, float] = field(default_factory=dict)
    ttft: Histogram = field(default_factory=Histogram)
    per_token: Histogram = field(default_factory=Histogram)
    output_tokens: Histogram = field(default_factory=Histogram)

    @property
    def in_flight(self) -> float:
        """Requests that a stop would cut off."""
        return self.running + self.waiting

    def to_dict(self) -> Dict[str, Any]:
        """JSON-ready form, read back by `Reading.from_dict`."""
        return {
            "running": self.running,
            "waiting": self.waiting,
            "finished": dict(self.finished),
            **{
                name: {
                    # JSON has no infinity; the last bucket's bound is written as null.
                    "buckets": [[None if math.isinf(bound) else bound, count] for bound, count in shape.buckets],
                    "total": shape.total,
                    "count": shape.count,
                }
                for name, shape in (
                    ("ttft", self.ttft),
                    ("per_token", self.per_token),
                    ("output_tokens", self.output_tokens),
                )
            },
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Reading:
        """Read what `to_dict` wrote."""
        shapes = {
            name: Histogram(
                tuple((math.inf if bound is None else float(bound), float(count)) for bound, count in shape["buckets"]),
                float(shape["total"]),
                float(shape["count"]),
            )
            for name, shape in raw.items()
            if name in ("ttft", "per_token", "output_tokens")
        }
        return cls(float(raw["running"]), float(raw["waiting"]), dict(raw["finished"]), **shapes)

    def since(self, earlier: Reading) -> Reading:
        """The window between two looks; what runs and waits is as of the later one."""
        restarted = any(self.finished.get(reason, 0.0) < count for reason, count in earlier.finished.items())
        base = {} if restarted else earlier.finished
        return Reading(
            self.running,
            self.waiting,
            {reason: count - base.get(reason, 0.0) for reason, count in self.finished.items()},
            self.ttft.since(earlier.ttft),
            self.per_token.since(earlier.per_token),
            self.output_tokens.since(earlier.output_tokens),
        )

    def plus(self, other: Reading) -> Reading:
        """Two replicas as one."""
        reasons = {**self.finished, **other.finished}
        return Reading(
            self.running + other.running,
            self.waiting + other.waiting,
            {reason: self.finished.get(reason, 0.0) + other.finished.get(reason, 0.0) for reason in reasons},
            self.ttft.plus(other.ttft),
            self.per_token.plus(other.per_token),
            self.output_tokens.plus(other.output_tokens),
        )


Sample = Tuple[Dict[str, str], float]


def read(text: str) -> Reading:
    """Read an engine's ``/metrics``. Measures that it does not have stay empty."""
    by_name: Dict[str, List[Sample]] = {}
    for name, labels, value in exposition.samples(text):
        by_name.setdefault(name, []).append((labels, value))
    finished: Dict[str, float] = {}
    for labels, value in _first(by_name, FINISHED):
        reason = labels.get("finished_reason", "")
        finished[reason] = finished.get(reason, 0.0) + value
    return Reading(
        running=sum(value for _, value in _first(by_name, RUNNING)),
        waiting=sum(value for _, value in _first(by_name, WAITING)),
        finished=finished,
        ttft=_histogram(by_name, TTFT),
        per_token=_histogram(by_name, PER_TOKEN),
        output_tokens=_histogram(by_name, OUTPUT_TOKENS),
    )


def answers_load(text: str) -> bool:
    """True if a text has the gauges that a drain waits for: without them, zero in flight would be a guess."""
    names = {name for name, _, _ in exposition.samples(text)}
    return bool(names & set(RUNNING)) and bool(names & set(WAITING))


def _first(by_name: Mapping[str, List[Sample]], names: Sequence[str], suffix: str = "") -> List[Sample]:
    return next((by_name[name + suffix] for name in names if name + suffix in by_name), [])


def _histogram(by_name: Mapping[str, List[Sample]], names: Iterable[str]) -> Histogram:
    """A histogram summed over its label sets."""
    for name in names:
        if name + "_count" not in by_name:
            continue
        buckets: Dict[float, float] = {}
        for labels, value in by_name.get(name + "_bucket", []):
            try:
                bound = float(labels.get("le", "inf").replace("+Inf", "inf"))
            except ValueError:
                continue  # no bound is no bucket: the page is another program's, or was cut
            buckets[bound] = buckets.get(bound, 0.0) + value
        return Histogram(
            tuple(sorted(buckets.items())),
            sum(value for _, value in by_name.get(name + "_sum", [])),
            sum(value for _, value in by_name[name + "_count"]),
        )
    return Histogram()
