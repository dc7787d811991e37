# SPDX-License-Identifier: Apache-2.0
"""``/metrics`` under vLLM's own names, which moved between its lines.

Source: ``engine/metrics.py`` (V0) and ``v1/metrics/loggers.py`` (V1) of the vLLM versions that the SDK releases serve.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

_TTFT = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
_TTFT_V1 = (*_TTFT, 160.0, 640.0, 2560.0)
_ITL = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
_REQUEST = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0)
_REQUEST_TAIL = (960.0, 1920.0, 7680.0)
_FINISH = ("stop", "length", "abort")


def _token_buckets(longest: int) -> tuple[float, ...]:
    """1, 2, 5, 10, ... up to the longest sequence."""
    found: list[float] = []
    power = 1
    while True:
        for factor in (1, 2, 5):
            if factor * power > longest:
                return tuple(found)
            found.append(float(factor * power))
        power *= 10


@dataclass
class Histogram:
    """Counts by upper bound, in seconds or tokens."""

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0
    number: int = 0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times
        self.number += times

    def lines(self, name: str, labels: str) -> list[str]:
        """The histogram in the text format of Prometheus."""
        found = []
        running = 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            running += count
            text = "+Inf" if bound == float("inf") else repr(bound)
            found.append(f'{name}_bucket{{le="{text}",{labels}}} {float(running)}')
        return [*found, f"{name}_count{{{labels}}} {float(self.number)}", f"{name}_sum{{{labels}}} {self.total}"]


class Metrics:
    """The counters of one server.

    Args:
        model: the served model's name, a label of every series.
        vllm: version of vLLM, which decides about names.
        longest: tokens of the longest sequence.
    """

    def __init__(self, model: str, vllm: tuple[int, ...], longest: int) -> None:
        self._v1 = vllm >= (0, 10)
        engine = 'engine="0",' if self._v1 else ""
        self._labels = f'{engine}model_name="{model}"'
        self._vllm = vllm
        request = _REQUEST + (_REQUEST_TAIL if self._v1 else (960.0, 1920.0, 7680.0))
        tokens = _token_buckets(longest)
        self.running = self.waiting = 0
        self.cache_usage = 0.0
        self.prefix_queries = self.prefix_hits = 0
        self.prompt_tokens = self.generation_tokens = self.preemptions = 0
        self.success = dict.fromkeys(_FINISH, 0)
        self.ttft = Histogram(_TTFT_V1 if self._v1 else _TTFT)
        self.itl = Histogram(_ITL)
        self.tpot = Histogram(_ITL)
        self.e2e, self.queue, self.prefill, self.decode, self.inference = (Histogram(request) for _ in range(5))
        self.request_prompt, self.request_generation, self.request_max = (Histogram(tokens) for _ in range(3))

    def finish(self, reason: str, prompt: int, generated: int, limit: int) -> None:
        """A request ended."""
        self.success[reason] = self.success.get(reason, 0) + 1
        self.request_prompt.observe(prompt)
        self.request_generation.observe(generated)
        self.request_max.observe(limit)

    def _histograms(self) -> list[tuple[str, Histogram]]:
        found = [("time_to_first_token_seconds", self.ttft)]
        if self._vllm >= (0, 11):
            found.append(("inter_token_latency_seconds", self.itl))
        if self._vllm >= (0, 13):
            found.append(("request_time_per_output_token_seconds", self.tpot))
        if self._vllm < (0, 13):
            found.append(("time_per_output_token_seconds", self.itl))
        return [
            *found,
            ("e2e_request_latency_seconds", self.e2e),
            ("request_queue_time_seconds", self.queue),
            ("request_prefill_time_seconds", self.prefill),
            ("request_decode_time_seconds", self.decode),
            ("request_inference_time_seconds", self.inference),
            ("request_prompt_tokens", self.request_prompt),
            ("request_generation_tokens", self.request_generation),
            ("request_params_max_tokens", self.request_max),
        ]

    def _prefixes(self) -> list[tuple[str, int]]:
        """Tokens that were looked for in the prefix cache, and those that were there; V1 has the counters."""
        found = [("prefix_cache_queries_total", self.prefix_queries), ("prefix_cache_hits_total", self.prefix_hits)]
        return found if self._v1 else []

    def render(self) -> str:
        """The whole page."""
        labels = self._labels
        cache = "kv_cache_usage_perc" if self._v1 else "gpu_cache_usage_perc"
        lines: list[str] = []
        for name, value in (
            ("num_requests_running", self.running),
            ("num_requests_waiting", self.waiting),
            (cache, self.cache_usage),
            # V0's gauges of a cache that it does not have.
            *(() if self._v1 else (("cpu_prefix_cache_hit_rate", -1), ("gpu_prefix_cache_hit_rate", -1))),
        ):
            lines += [f"# TYPE vllm:{name} gauge", f"vllm:{name}{{{labels}}} {float(value)}"]
        for name, value in (
            ("num_preemptions_total", self.preemptions),
            ("prompt_tokens_total", self.prompt_tokens),
            ("generation_tokens_total", self.generation_tokens),
            *self._prefixes(),
        ):
            lines += [f"# TYPE vllm:{name.removesuffix('_total')} counter", f"vllm:{name}{{{labels}}} {float(value)}"]
        lines.append("# TYPE vllm:request_success counter")
        for reason, count in self.success.items():
            lines.append(f'vllm:request_success_total{{{labels},finished_reason="{reason}"}} {float(count)}')
        for name, histogram in self._histograms():
            lines += [f"# TYPE vllm:{name} histogram", *histogram.lines(f"vllm:{name}", labels)]
        return "\n".join(lines) + "\n"
