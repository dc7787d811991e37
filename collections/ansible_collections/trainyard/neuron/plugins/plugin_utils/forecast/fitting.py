# SPDX-License-Identifier: Apache-2.0
"""Fits the latency model's constants to runs, and says how well that went at runs that it was not fitted to.

A Gauss-Newton search over the logarithms of the constants, damped, with the constants that it began with as a weak
prior: what no run tells about stays where it was. What a run says is the median time to the first token and of a token;
what the model says of the same load is worked through with the scheduler.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.calibration import (
    BOUNDS,
    Calibration,
    Errors,
    Fitted,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.figures import Load, Setup, run
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.latency import Constants

#: How far a constant may be from where it began, as a standard deviation of its logarithm: a weak prior.
PRIOR = 1.5
#: How far a run's figure is from the truth, the same way: where there are too few runs to tell, and at least.
NOISE, LEAST_NOISE = 0.01, 5e-4
STEPS, ENOUGH, NUDGE = 40, 1e-6, 1e-4
#: Rounds of its streams that are worked through of a run.
MOST_ROUNDS = 20
#: A constant whose standard error is above this was not told about by the runs.
UNTOLD = 0.5
#: Constants of a draft, which runs without one do not tell about.
DRAFT = ("guess_right", "guess_cost")

Matrix = list[list[float]]


@dataclass(frozen=True)
class Point:
    """A run as far as the model is concerned.

    Attributes:
        name: of the run, for people.
        setup: the configuration; the constants in its speed are not read.
        load: what was sent.
        requests: how many.
        ttft_ms: median time to the first token.
        tpot_ms: median time of a further token, None where there was none.
        noise: standard deviation of both figures' logarithms.
    """

    name: str
    setup: Setup
    load: Load
    requests: int
    ttft_ms: float
    tpot_ms: float | None
    noise: float = NOISE


@dataclass(frozen=True)
class Miss:
    """How far a figure is off: the model's over the run's."""

    point: str
    figure: str
    factor: float

    def __str__(self) -> str:
        return f"{self.point}: {self.figure} {self.factor - 1:+.1%}"


def expected(point: Point, constants: Constants) -> tuple[float, float]:
    """Return the medians that the model has for a run, ms: to the first token, and of a token."""
    setup = replace(point.setup, speed=replace(point.setup.speed, constants=constants))
    # Medians are there long before a long run is over.
    streams = max(setup.slots * setup.replicas, point.load.streams)
    found = run(setup, point.load, min(point.requests, MOST_ROUNDS * streams))
    return found.ttft_ms(50), found.tpot_ms(50)


def misses(points: Sequence[Point], constants: Constants) -> list[Miss]:
    """Return how far the model is off at each figure of some runs."""
    found = []
    for point in points:
        ttft_ms, tpot_ms = expected(point, constants)
        found.append(Miss(point.name, "TTFT", ttft_ms / point.ttft_ms))
        if point.tpot_ms:
            found.append(Miss(point.name, "TPOT", tpot_ms / point.tpot_ms))
    return found


def fit(points: Sequence[Point], begun: Constants) -> tuple[Constants, dict[str, float]]:
    """Return the constants that fit some runs best, and the standard error of each as a share of it.

    How noisy the runs are is what the first search leaves over, where there are more figures than constants.

    Args:
        points: the runs.
        begun: where to begin, and what a constant that no run tells about stays at.
    """
    careful = [replace(point, noise=LEAST_NOISE) for point in points]
    first, told = search(careful, begun, PRIOR)
    left = [math.log(one.factor) for one in misses(points, first)]
    free = len(left) - sum(error <= UNTOLD for error in told.values())
    noise = NOISE if free < 1 else max(LEAST_NOISE, math.sqrt(_square(left) / free))
    return search([replace(point, noise=noise) for point in points], begun, PRIOR, first)


def search(
    points: Sequence[Point], begun: Constants, prior: float, from_: Constants | None = None
) -> tuple[Constants, dict[str, float]]:
    """Return the constants that fit some runs of a known noise best, and the standard error of each as a share of it.

    Args:
        points: the runs.
        begun: where to begin, and what a constant that no run tells about stays at.
        prior: how far from there the constants may be, as a standard deviation of their logarithms.
        from_: where the search begins, if not there as well.
    """
    names = _told(points, begun)
    start, first = begun.to_dict(), (from_ or begun).to_dict()
    at = {name: math.log(first[name] / start[name]) for name in names}

    def constants(moved: dict[str, float]) -> Constants:
        values = {name: _within(name, start[name] * math.exp(moved[name])) for name in names}
        return replace(begun, **values)

    def residuals(moved: dict[str, float]) -> list[float]:
        found = []
        for point in points:
            ttft_ms, tpot_ms = expected(point, constants(moved))
            found.append(math.log(ttft_ms / point.ttft_ms) / point.noise)
            if point.tpot_ms:
                found.append(math.log(tpot_ms / point.tpot_ms) / point.noise)
        return found + [moved[name] / prior for name in names]

    damping, here = 1e-3, residuals(at)
    for _ in range(STEPS):
        slopes = _slopes(residuals, at, here, names)
        normal = _normal(slopes)
        pull = [
            sum(row[column] * value for row, value in zip(slopes, here, strict=True)) for column in range(len(names))
        ]
        while True:
            damped = [
                [value * (1 + damping * (row == column)) for column, value in enumerate(line)]
                for row, line in enumerate(normal)
            ]
            step = solve(damped, [-value for value in pull])
            tried = {name: at[name] + max(-1.0, min(1.0, move)) for name, move in zip(names, step, strict=True)}
            there = residuals(tried)
            if _square(there) <= _square(here) or damping > 1e8:
                break
            damping *= 10
        gained = _square(here) - _square(there)
        if gained < 0:
            break
        at, here, damping = tried, there, max(damping / 10, 1e-9)
        if gained <= ENOUGH * (1 + _square(here)):
            break
    found = constants(at)
    names, spread = spread_of(points, found, prior)
    return found, {name: math.sqrt(max(spread[index][index], 0.0)) for index, name in enumerate(names)}


def spread_of(points: Sequence[Point], found: Constants, prior: float) -> tuple[list[str], Matrix]:
    """Return how uncertain constants are after some runs: names, and the covariance of their logarithms.

    Args:
        points: the runs, their noise known.
        found: the constants that fit them.
        prior: as `search`.
    """
    names = _told(points, found)

    def figures(moved: dict[str, float]) -> list[float]:
        values = {name: getattr(found, name) * math.exp(moved[name]) for name in names}
        here = replace(found, **values)
        logs = []
        for point in points:
            ttft_ms, tpot_ms = expected(point, here)
            logs.append(math.log(ttft_ms) / point.noise)
            if point.tpot_ms:
                logs.append(math.log(tpot_ms) / point.noise)
        return logs + [moved[name] / prior for name in names]

    at = dict.fromkeys(names, 0.0)
    return names, inverse(_normal(_slopes(figures, at, figures(at), names)))


def _told(points: Sequence[Point], constants: Constants) -> list[str]:
    """Return the constants that runs can tell about: those of a draft only where there is one."""
    drafts = any(point.setup.speed.draft_tokens for point in points)
    return [name for name in constants.to_dict() if drafts or name not in DRAFT]


def _within(name: str, value: float) -> float:
    low, high = BOUNDS[name]
    return min(max(value, low), high)


def _square(values: Sequence[float]) -> float:
    return sum(value * value for value in values)


def _slopes(
    residuals: Callable[[dict[str, float]], list[float]],
    at: dict[str, float],
    here: Sequence[float],
    names: Sequence[str],
) -> Matrix:
    """Return the derivative of each residual by each constant's logarithm."""
    columns = []
    for name in names:
        there = residuals({**at, name: at[name] + NUDGE})
        columns.append([(new - old) / NUDGE for new, old in zip(there, here, strict=True)])
    return [list(row) for row in zip(*columns, strict=True)]


def _normal(slopes: Matrix) -> Matrix:
    size = range(len(slopes[0]))
    return [[sum(row[one] * row[other] for row in slopes) for other in size] for one in size]


def solve(matrix: Matrix, right: Sequence[float]) -> list[float]:
    """Return the solution of linear equations, by elimination with the largest pivot."""
    rows = [[*line, value] for line, value in zip(matrix, right, strict=True)]
    size = len(rows)
    for column in range(size):
        pivot = max(range(column, size), key=lambda row: abs(rows[row][column]))
        rows[column], rows[pivot] = rows[pivot], rows[column]
        for row in range(column + 1, size):
            factor = rows[row][column] / rows[column][column]
            rows[row] = [value - factor * above for value, above in zip(rows[row], rows[column], strict=True)]
    found = [0.0] * size
    for row in reversed(range(size)):
        rest = sum(rows[row][column] * found[column] for column in range(row + 1, size))
        found[row] = (rows[row][size] - rest) / rows[row][row]
    return found


def inverse(matrix: Matrix) -> Matrix:
    """Return the inverse of a matrix."""
    size = len(matrix)
    columns = [solve(matrix, [float(row == column) for row in range(size)]) for column in range(size)]
    return [list(row) for row in zip(*columns, strict=True)]


def left_out(points: Sequence[Point], begun: Constants) -> list[Miss]:
    """Return how far the model is off at each run when it is fitted to all the others."""
    found = []
    for index, point in enumerate(points):
        others = [*points[:index], *points[index + 1 :]]
        found += misses([point], fit(others, begun)[0])
    return found


def calibrate(
    points: Sequence[Point], begun: Calibration, provenance: str
) -> tuple[Calibration, list[Miss], list[Miss]]:
    """Return a calibration by some runs, and how far it is off at them: left out one by one, and fitted.

    With a single run nothing can be left out; the errors are then no smaller than those that it began with.

    Args:
        points: the runs, at least one.
        begun: the calibration to begin with.
        provenance: where the runs' figures come from.
    """
    values, spread = fit(points, begun.values)
    fitted = misses(points, values)
    validated = left_out(points, begun.values) if len(points) > 1 else []
    judged = validated or fitted
    constants = {}
    for name, old in begun.constants.items():
        error = spread.get(name, math.inf)
        if error > UNTOLD:
            constants[name] = old.model_copy(update={"value": getattr(values, name)})
        else:
            source = f"fitted to {len(points)} runs ({provenance})"
            constants[name] = Fitted(value=getattr(values, name), error_ratio=error, source=source)

    def factor(figure: str, before: float) -> float:
        found = max((math.exp(abs(math.log(one.factor))) for one in judged if one.figure == figure), default=before)
        return min(found if validated else max(found, before), 100.0)

    worst = max(judged, key=lambda one: abs(math.log(one.factor)))
    errors = Errors(
        prefill_factor=factor("TTFT", begun.errors.prefill_factor),
        decode_factor=factor("TPOT", begun.errors.decode_factor),
        worst_point=str(worst)[:400],
    )
    made = Calibration(
        version=1,
        provenance=f"fitted to runs: {provenance}",
        fitted_to=[point.name for point in points],
        constants=constants,
        errors=errors,
        times=begun.times,
    )
    return made, validated, fitted
