# SPDX-License-Identifier: Apache-2.0
"""What a sweep knows before it measures, and learns while it does: which point to try next, and which cannot win.

The forecast's constants begin as they are given, with an uncertainty, and are fitted anew to every run of the sweep. A
point is worth the tokens a second and host that the model has for it within the objective; at best it is worth what the
model has with both of its times shortened by what is still uncertain about them. What at best is worth less than the
best that was measured cannot win.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from trainyard.report.analysis import Measured
from trainyard.sweep.spec import Point, Spec, key_of

from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast import fitting  # isort: skip
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.calibration import Calibration  # isort: skip
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.figures import (  # isort: skip
    Load,
    Setup,
    highest_rate,
    kept,
    run,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.latency import Constants  # isort: skip
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.planned import load_in  # isort: skip

#: How far the constants may be from the given ones: standard deviation of their logarithms.
PRIOR = 0.4
#: How well the model follows a run at best, and before there are runs enough to tell: the same of its times.
LEAST_NOISE, NOISE = 0.02, 0.05
#: So many standard deviations are taken off a time for what it may be at best.
CAUTION = 2.0
#: Runs before a point is left out while none has kept the objective.
ENOUGH_RUNS = 3


@dataclass(frozen=True)
class Off:
    """How far the forecast was off at one run: the run's figures over the forecast's, which was made before any run."""

    point: str
    ttft: float
    tpot: float | None
    tokens_per_s: float

    def __str__(self) -> str:
        token = "" if self.tpot is None else f", tokens {self.tpot - 1:+.0%}"
        return f"{self.point}: first token {self.ttft - 1:+.0%}{token}, tokens/s {self.tokens_per_s - 1:+.0%}"


@dataclass
class Guide:
    """The forecast of a sweep.

    Attributes:
        spec: the sweep.
        calibration: the constants to begin with.
        off: how far the forecast was off at each run so far.
    """

    spec: Spec
    calibration: Calibration
    off: list[Off] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._constants = self.calibration.values
        self._points: list[fitting.Point] = []
        self._noise = NOISE
        self._spread: tuple[list[str], fitting.Matrix] | None = None
        self._heard: set[str] = set()
        self._worth: dict[tuple[str, float], float] = {}

    def next_of(self, points: Sequence[Point]) -> Point:
        """Return the point to try next: one of the artifact that serves best by the model, unknown ones last."""
        return max(points, key=lambda point: self.worth(point) if point.setup is not None else -1.0)

    def cannot_win(self, point: Point, best: float) -> str:
        """Return why a point cannot beat `best` tokens/s and host within the objective, empty where it may."""
        if self.spec.objective is None or point.setup is None or len(self._points) < (1 if best else ENOUGH_RUNS):
            return ""
        at_best = self.worth(point, CAUTION)
        if at_best >= best and at_best > 0:
            return ""
        if not at_best:
            return "forecast: it does not keep the objective even at best"
        return f"forecast: at best {at_best:.0f} tokens/s a host within the objective, and {best:.0f} were measured"

    def worth(self, point: Point, caution: float = 0.0) -> float:
        """Return the most tokens/s and host that the model has for a point within the objective, over the loads."""
        key = (key_of(point.fields, {}), caution)
        if key not in self._worth:
            self._worth[key] = self._worked_out(point, caution)
        return self._worth[key]

    def _worked_out(self, point: Point, caution: float) -> float:
        if point.setup is None:
            return 0.0
        setup = self._cautious(self._with(point.setup, self._constants), caution)
        found = [0.0]
        for load in self._loads():
            result = run(setup, load)
            if self.spec.objective is None or kept(result.jobs, self.spec.objective):
                found.append(result.output_tokens_per_s / setup.hosts)
        if self.spec.search is not None and self.spec.objective is not None:
            given = load_in({**self.spec.load, "request_rate_per_s": self.spec.search.low_per_s})
            rate = min(highest_rate(setup, given, self.spec.objective), self.spec.search.high_per_s)
            found.append(rate * given.output_tokens / setup.hosts)
        return max(found)

    def _loads(self) -> list[Load]:
        return [load_in({**self.spec.load, **load}) for load in self.spec.loads]

    def _with(self, setup: Setup, constants: Constants) -> Setup:
        return replace(setup, speed=replace(setup.speed, constants=constants))

    def _cautious(self, setup: Setup, caution: float) -> Setup:
        if not caution:
            return setup
        speed = setup.speed
        length = speed.decode_buckets[-1]
        first = self._deviation(setup, lambda one: one.speed.prefill_seconds(length))
        token = self._deviation(setup, lambda one: one.speed.step_seconds(length))
        return replace(
            setup,
            speed=replace(
                speed,
                prefill_factor=speed.prefill_factor * math.exp(-caution * first),
                step_factor=speed.step_factor * math.exp(-caution * token),
            ),
        )

    def _deviation(self, setup: Setup, time_of: Any) -> float:
        """Return how uncertain a time is, as a deviation of its logarithm: by the fit and by what that leaves over."""
        names, spread = self._spread or fitting.spread_of([], self._constants, PRIOR)
        here = math.log(time_of(setup))
        slopes = []
        for name in names:
            nudged = replace(self._constants, **{name: getattr(self._constants, name) * math.exp(fitting.NUDGE)})
            slopes.append((math.log(time_of(self._with(setup, nudged))) - here) / fitting.NUDGE)
        variance = sum(
            one * other * spread[row][column] for row, one in enumerate(slopes) for column, other in enumerate(slopes)
        )
        return math.sqrt(max(variance, 0.0) + self._noise**2)

    def learn(self, point: Point, key: str, load: Mapping[str, Any], measured: Measured) -> None:
        """Take a run into account; one that says nothing is passed over.

        Args:
            point: what was served.
            key: of the measurement, which is heard once.
            load: what was sent.
            measured: the run.
        """
        results = measured.report.results
        first, token = results.latency.time_to_first_token_ms, results.latency.time_per_output_token_ms
        if point.setup is None or key in self._heard or first is None or not measured.report.sound or not first.p50:
            return
        self._heard.add(key)
        given = load_in(load)
        sent, answered = results.requests.input_tokens, results.requests.output_tokens
        if sent is not None and answered is not None:
            given = replace(given, input_tokens=sent.mean, input_deviation=sent.stddev)
            given = replace(given, output_tokens=answered.mean, output_deviation=answered.stddev)
        tpot_ms = token.p50 if token is not None and token.p50 else None
        run_point = fitting.Point(point.name, point.setup, given, measured.report.load.requests, first.p50, tpot_ms)
        self.off.append(self._off(run_point, results.throughput.output_tokens_per_s))
        self._points.append(run_point)
        self._fit()

    def _off(self, point: fitting.Point, tokens_per_s: float) -> Off:
        before = run(self._with(point.setup, self.calibration.values), point.load, point.requests)
        token = None if point.tpot_ms is None or not before.tpot_ms(50) else point.tpot_ms / before.tpot_ms(50)
        return Off(point.name, point.ttft_ms / before.ttft_ms(50), token, tokens_per_s / before.output_tokens_per_s)

    def _fit(self) -> None:
        noisy = [replace(point, noise=LEAST_NOISE) for point in self._points]
        self._constants, _errors = fitting.search(noisy, self.calibration.values, PRIOR)
        left = [math.log(one.factor) for one in fitting.misses(self._points, self._constants)]
        root = math.sqrt(sum(value * value for value in left) / len(left))
        # A few runs are always followed well by so many constants.
        self._noise = max(LEAST_NOISE if len(self._points) > 2 else NOISE, 1.5 * root)
        noisy = [replace(point, noise=self._noise) for point in self._points]
        self._spread = fitting.spread_of(noisy, self._constants, PRIOR)
        self._worth.clear()
