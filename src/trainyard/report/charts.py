# SPDX-License-Identifier: Apache-2.0
"""Charts as SVG text, so that a report is one file: no script, no font, no address. The page has the colours."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 640, 340
WIDE = 1080
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 16, 18, 46
#: As many series colours as the page defines (--s0 ...); further series take them again, dashed.
COLOURS = 8
#: The page's own colour for what is no series of its own, such as the edge of the best.
FRONTIER = -1


@dataclass(frozen=True)
class Mark:
    """A point of a series; `title` is what a pointer over it shows. A `strong` one is filled and larger."""

    x: float
    y: float
    title: str = ""
    strong: bool = False
    label: str = ""
    """A word beside the point."""
    shape: int = 0
    """Circle, square, triangle, diamond: a second thing that points may have in common."""


@dataclass(frozen=True)
class Series:
    """Points with a name, joined by a line where `line`, shown as dots where `dots`."""

    name: str
    marks: Sequence[Mark]
    line: bool = True
    dots: bool = True
    colour: int | None = None
    """Number of the page's colour; its own place in the chart unless said."""
    dash: int = 0
    """0 is a whole line; further numbers are dashed differently."""
    step: bool = False
    """Holds its value until the next point."""


@dataclass(frozen=True)
class Limit:
    """A straight line across the chart, such as an objective."""

    value: float
    name: str
    vertical: bool = False


@dataclass(frozen=True)
class Chart:
    """A chart's content; both axes begin at zero unless `from_zero` says otherwise."""

    title: str
    note: str
    x_name: str
    y_name: str
    series: Sequence[Series]
    limits: Sequence[Limit] = field(default_factory=tuple)
    x_from_zero: bool = True
    wide: bool = False
    """Takes the whole width of the page."""
    paired: bool = False
    """Its series are runs, not configurations, and have a legend of their own."""

    def svg(self) -> str:
        """The chart as an SVG element, or an empty text when it has no point."""
        marks = [mark for one in self.series for mark in one.marks]
        if not marks:
            return ""
        xs = [mark.x for mark in marks] + [limit.value for limit in self.limits if limit.vertical]
        ys = [mark.y for mark in marks] + [limit.value for limit in self.limits if not limit.vertical]
        size = (WIDE, HEIGHT + 60) if self.wide else (WIDTH, HEIGHT)
        frame = _Frame(Axis.of(xs, from_zero=self.x_from_zero), Axis.of(ys, from_zero=True), *size)
        parts = [
            f'<svg viewBox="0 0 {size[0]} {size[1]}" role="img" aria-label="{escape(self.said())}">',
            *frame.grid(self.x_name, self.y_name),
            *(frame.limit(limit) for limit in self.limits),
            *(frame.series(one, index) for index, one in enumerate(self.series)),
            "</svg>",
        ]
        return "".join(parts)

    def said(self) -> str:
        """The chart in a sentence, for who does not see it: what it shows, and between which values."""
        ys = [mark.y for one in self.series for mark in one.marks]
        names = ", ".join(one.name for one in self.series) if len(self.series) > 1 else ""
        between = f"{min(ys):g} to {max(ys):g} {self.y_name}"
        return f"{self.title}: {self.note}; {between}, {len(ys)} points" + (f", of {names}" if names else "")

    def legend(self) -> list[tuple[str, int]]:
        """Names of the series with the number of their colour; empty for a single one."""
        if len(self.series) < 2:
            return []
        return [(one.name, _colour(one, index)) for index, one in enumerate(self.series)]


def _colour(one: Series, index: int) -> int:
    place = index if one.colour is None else one.colour
    return place if place == FRONTIER else place % COLOURS


@dataclass(frozen=True)
class Axis:
    """A range with round steps."""

    low: float
    high: float
    step: float

    @classmethod
    def of(cls, values: Sequence[float], *, from_zero: bool) -> Axis:
        """The range that shows all values with about five round steps."""
        low = 0.0 if from_zero else min(values)
        high = max(values)
        if high <= low:
            high = low + (abs(low) or 1.0)
        step = nice_step((high - low) / 5)
        return cls(math.floor(low / step) * step, math.ceil(high / step - 1e-9) * step, step)

    def ticks(self) -> list[float]:
        """The values at the steps."""
        count = round((self.high - self.low) / self.step)
        return [self.low + index * self.step for index in range(count + 1)]

    def place(self, value: float) -> float:
        """0 at the low end, 1 at the high one."""
        return (value - self.low) / (self.high - self.low)


def nice_step(rough: float) -> float:
    """1, 2 or 5 times a power of ten, the next above `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)


def number(value: float) -> str:
    """A tick's text."""
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.10g}" if value == 0 or abs(value) >= 0.01 else f"{value:.0e}"


class _Frame:
    def __init__(self, x: Axis, y: Axis, width: int, height: int) -> None:
        self.x, self.y = x, y
        self.width, self.height = width, height

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = _LEFT + self.x.place(x) * (self.width - _LEFT - _RIGHT)
        down = self.height - _BOTTOM - self.y.place(y) * (self.height - _TOP - _BOTTOM)
        return round(across, 1), round(down, 1)

    def grid(self, x_name: str, y_name: str) -> list[str]:
        parts = []
        for tick in self.y.ticks():
            _, down = self.at(self.x.low, tick)
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{self.width - _RIGHT}" y1="{down}" y2="{down}"/>')
            parts.append(f'<text x="{_LEFT - 8}" y="{down + 4}" text-anchor="end">{number(tick)}</text>')
        for tick in self.x.ticks():
            across, down = self.at(tick, self.y.low)
            parts.append(f'<text x="{across}" y="{down + 17}" text-anchor="middle">{number(tick)}</text>')
        middle = (_LEFT + self.width - _RIGHT) / 2
        parts.append(
            f'<text class="name" x="{middle}" y="{self.height - 8}" text-anchor="middle">{escape(x_name)}</text>'
        )
        half = (_TOP + self.height - _BOTTOM) / 2
        turn = f'transform="rotate(-90 14 {half})"'
        parts.append(f'<text class="name" x="14" y="{half}" text-anchor="middle" {turn}>{escape(y_name)}</text>')
        return parts

    def limit(self, limit: Limit) -> str:
        if limit.vertical:
            across, top = self.at(limit.value, self.y.high)
            _, bottom = self.at(limit.value, self.y.low)
            line = f'<line class="limit" x1="{across}" x2="{across}" y1="{top}" y2="{bottom}"/>'
            return (
                line
                + f'<text class="limit" x="{across - 5}" y="{bottom - 8}" text-anchor="end">{escape(limit.name)}</text>'
            )
        left, down = self.at(self.x.low, limit.value)
        right, _ = self.at(self.x.high, limit.value)
        line = f'<line class="limit" x1="{left}" x2="{right}" y1="{down}" y2="{down}"/>'
        return line + f'<text class="limit" x="{right}" y="{down - 5}" text-anchor="end">{escape(limit.name)}</text>'

    def series(self, one: Series, index: int) -> str:
        points = [self.at(mark.x, mark.y) for mark in one.marks]
        colour = _colour(one, index)
        parts = ['<g class="edge">' if colour == FRONTIER else f'<g style="--c:var(--s{colour})">']
        if one.line and len(points) > 1:
            dash = f' stroke-dasharray="{_DASHES[one.dash % len(_DASHES)]}"' if one.dash else ""
            parts.append(f'<polyline class="line" points="{_path(points, one.step)}"{dash}/>')
        if one.dots:
            parts += [self.dot(mark, place, one.name) for mark, place in zip(one.marks, points, strict=True)]
        return "".join([*parts, "</g>"])

    def dot(self, mark: Mark, place: tuple[float, float], name: str) -> str:
        """A point with what a pointer over it shows, and its label on the side where there is room."""
        x, y = place
        size = 7.0 if mark.strong else 4.5
        corners = _CORNERS[mark.shape % len(_CORNERS)]
        kind = f'class="dot{" strong" if mark.strong else ""}"'
        title = f"<title>{escape(mark.title or name)}</title>"
        if corners:
            path = " ".join(f"{x + size * across:.1f},{y + size * down:.1f}" for across, down in corners)
            drawn = f'<polygon {kind} points="{path}">{title}</polygon>'
        else:
            drawn = f'<circle {kind} cx="{x}" cy="{y}" r="{size:g}">{title}</circle>'
        if not mark.label:
            return drawn
        right = x < self.width - 150
        side = f'x="{x + 11 if right else x - 11}" text-anchor="{"start" if right else "end"}"'
        return drawn + f'<text class="label" y="{y + 4}" {side}>{escape(mark.label)}</text>'


_DASHES = ("", "7 4", "2 3", "9 3 2 3")
#: Corners of the shapes around their middle, half a side being one; a circle has none.
_CORNERS: tuple[tuple[tuple[float, float], ...], ...] = (
    (),
    ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    ((0, -1.2), (1.1, 0.8), (-1.1, 0.8)),
    ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
)


def _path(points: Sequence[tuple[float, float]], step: bool) -> str:
    if not step:
        return " ".join(f"{x},{y}" for x, y in points)
    corners = [points[0]]
    for (_, before), (x, y) in itertools.pairwise(points):
        corners += [(x, before), (x, y)]
    return " ".join(f"{x},{y}" for x, y in corners)


def cumulative(name: str, values: Sequence[float], points: int = 160) -> Series:
    """The share of values (in per cent) that are at most x."""
    ordered = sorted(values)
    if not ordered:
        return Series(name, ())
    count = min(points, len(ordered))
    picked = [round(index * (len(ordered) - 1) / max(1, count - 1)) for index in range(count)]
    marks = [Mark(ordered[index], 100 * (index + 1) / len(ordered)) for index in picked]
    return Series(name, marks, dots=False)
