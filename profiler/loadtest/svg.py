"""Small line plots as inline SVG, coloured by the page's style sheet, so that they are sharp, dark or light, and load
nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

WIDTH, HEIGHT = 540, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 12, 46
COLOURS = 8

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Axis:
    """`low` to `high` are always shown; the data may need more. `text`: how a tick is written."""

    title: str
    log: bool = False
    low: float | None = None
    high: float | None = None
    text: Callable[[float], str] = "{:g}".format


@dataclass(frozen=True, slots=True)
class Line:
    """`colour`: of the page's eight. `band`: lower and upper ends at the same x."""

    points: Sequence[Point]
    colour: int
    label: str
    dashed: bool = False
    dots: bool = False
    band: Sequence[tuple[float, float, float]] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """A straight line across the plot, at an x or at a y."""

    at: float
    colour: int | None = None
    label: str = ""
    level: bool = False


@dataclass(frozen=True, slots=True)
class Plot:
    title: str
    x: Axis
    y: Axis
    lines: Sequence[Line]
    rules: Sequence[Rule] = field(default=())

    def svg(self) -> Markup:
        """The picture; its text says what is on it to those who do not see it."""
        x = _Scale(self.x, [p[0] for line in self.lines for p in line.points] + self._at(False), LEFT, WIDTH - RIGHT)
        band = [end for line in self.lines for _, lower, upper in line.band for end in (lower, upper)]
        ys = [p[1] for line in self.lines for p in line.points] + band + self._at(True)
        y = _Scale(self.y, ys, HEIGHT - BOTTOM, TOP)
        parts = [*_axes(x, y, self.x, self.y)]
        for line in self.lines:
            parts += _line(line, x, y)
        for rule in self.rules:
            parts.append(_rule(rule, x, y))
        body = Markup("").join(parts)
        return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
            WIDTH, HEIGHT, self.title, body
        )

    def _at(self, level: bool) -> list[float]:
        return [rule.at for rule in self.rules if rule.level == level]


class _Scale:
    """From values to pixels."""

    def __init__(self, axis: Axis, values: Sequence[float], start: float, end: float) -> None:
        known = [v for v in (*values, axis.low, axis.high) if v is not None and (v > 0 or not axis.log)] or [0.0, 1.0]
        low, high = min(known), max(known)
        if axis.log:
            low, high = low / 1.1, high * 1.1
        elif low == high:
            low, high = (0.0, high) if high > 0 else (low, low + 1)
        self.low, self.high, self._log = low, high, axis.log
        self._start, self._end = start, end
        self.ticks = _log_ticks(low, high) if axis.log else _ticks(low, high)

    def __call__(self, value: float) -> float:
        if self._log:
            value = max(value, self.low)
            along = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            along = (value - self.low) / (self.high - self.low)
        return round(self._start + (self._end - self._start) * along, 1)


def _ticks(low: float, high: float) -> list[float]:
    raw = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.999)
    return [step * n for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    steps = (1, 2, 5) if high / low < 100 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [10.0**p * step for p in powers for step in steps if low <= 10.0**p * step <= high] or [low, high]


def _axes(x: _Scale, y: _Scale, x_axis: Axis, y_axis: Axis) -> list[Markup]:
    parts = []
    for tick in y.ticks:
        parts.append(_tag_line("grid", LEFT, y(tick), WIDTH - RIGHT, y(tick)))
        parts.append(_text(LEFT - 6, y(tick) + 4, y_axis.text(tick), "end"))
    for tick in x.ticks:
        parts.append(_tag_line("grid", x(tick), TOP, x(tick), HEIGHT - BOTTOM))
        parts.append(_text(x(tick), HEIGHT - BOTTOM + 16, x_axis.text(tick), "middle"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_axis.title, "middle", "title"))
    parts.append(
        Markup('<text class="title" text-anchor="middle" transform="translate(14 {}) rotate(-90)">{}</text>').format(
            middle, y_axis.title
        )
    )
    return parts


def _line(line: Line, x: _Scale, y: _Scale) -> list[Markup]:
    parts = []
    if line.band:
        there = [f"{x(at)},{y(upper)}" for at, _, upper in line.band]
        back = [f"{x(at)},{y(lower)}" for at, lower, _ in reversed(line.band)]
        parts.append(
            Markup('<polygon points="{}" fill="var(--c{})" opacity=".15"/>').format(" ".join(there + back), line.colour)
        )
    points = " ".join(f"{x(px)},{y(py)}" for px, py in line.points)
    dash = Markup(' stroke-dasharray="6 4"') if line.dashed else ""
    parts.append(
        Markup(
            '<polyline points="{}" fill="none" stroke="var(--c{})" stroke-width="2"{}><title>{}</title></polyline>'
        ).format(points, line.colour, dash, line.label)
    )
    if line.dots:
        parts += [
            Markup('<circle cx="{}" cy="{}" r="3.5" fill="var(--c{})"/>').format(x(px), y(py), line.colour)
            for px, py in line.points
        ]
    return parts


def _rule(rule: Rule, x: _Scale, y: _Scale) -> Markup:
    colour = "var(--muted)" if rule.colour is None else f"var(--c{rule.colour})"
    if rule.level:
        ends: tuple[float, float, float, float] = LEFT, y(rule.at), WIDTH - RIGHT, y(rule.at)
    else:
        ends = x(rule.at), TOP, x(rule.at), HEIGHT - BOTTOM
    return Markup(
        '<line x1="{}" y1="{}" x2="{}" y2="{}" stroke="{}" stroke-width="1.5" stroke-dasharray="2 3">'
        "<title>{}</title></line>"
    ).format(*ends, colour, rule.label)


def _tag_line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(kind, x1, y1, x2, y2)


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(kind, x, y, anchor, escape(text))
