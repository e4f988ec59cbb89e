"""Small figures as SVG files that stand alone and read on light and dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 380, 56, 16, 48, 44
LETTER = 6.6  # mean width, for the legend
COLOURS = ("#4477aa", "#ee6677", "#228833", "#aa7700", "#888888")


@dataclass(frozen=True, slots=True)
class Series:
    """`joined`: by a line; else dots. `label` is shown in the legend, dots' own ones beside them."""

    label: str
    points: Sequence[tuple[float, float]]
    colour: int
    joined: bool = False
    big: bool = False


def figure(title: str, x_title: str, y_title: str, series: Sequence[Series]) -> str:
    """Axes from the data, with a little room."""
    xs = [x for one in series for x, _ in one.points]
    ys = [y for one in series for _, y in one.points]
    x_low, x_high, y_low, y_high = *_range(xs), *_range(ys)

    def at(x: float, y: float) -> tuple[float, float]:
        along, up = (x - x_low) / (x_high - x_low), (y - y_low) / (y_high - y_low)
        return round(LEFT + along * (WIDTH - LEFT - RIGHT), 1), round(HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM), 1)

    parts = [f"<title>{title}</title>"]
    for tick in _ticks(x_low, x_high):
        x, y = at(tick, y_low)
        parts.append(f'<line x1="{x}" y1="{y}" x2="{x}" y2="{TOP}" stroke="#8884"/>')
        parts.append(_text(x, y + 16, f"{tick:g}", "middle"))
    for tick in _ticks(y_low, y_high):
        x, y = at(x_low, tick)
        parts.append(f'<line x1="{x}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}" stroke="#8884"/>')
        parts.append(_text(x - 6, y + 4, f"{tick:g}", "end"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_title, "middle"))
    parts.append(f'<g transform="translate(14 {HEIGHT / 2}) rotate(-90)">{_text(0, 0, y_title, "middle")}</g>')
    for one in series:
        colour = COLOURS[one.colour]
        points = [at(x, y) for x, y in one.points]
        if one.joined:
            path = " ".join(f"{x},{y}" for x, y in points)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        else:
            radius = 6 if one.big else 3.5
            parts += [f'<circle cx="{x}" cy="{y}" r="{radius}" fill="{colour}"/>' for x, y in points]
    x, y = float(LEFT), 16.0
    for one in series:
        width = 26 + LETTER * len(one.label)
        if x + width > WIDTH:
            x, y = float(LEFT), y + 16
        parts.append(f'<rect x="{x:.0f}" y="{y - 9:.0f}" width="10" height="10" fill="{COLOURS[one.colour]}"/>')
        parts.append(_text(round(x + 15), y, one.label, "start"))
        x += width
    body = "\n".join(parts)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif"'
    return f'{head} font-size="12">\n<rect width="100%" height="100%" fill="#fff"/>\n{body}\n</svg>\n'


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = (high - low or 1.0) * 0.06
    return low - room, high + room


def _ticks(low: float, high: float) -> list[float]:
    step = next(s for p in range(-4, 6) for s in (10.0**p, 2 * 10.0**p, 5 * 10.0**p) if (high - low) / s <= 8)
    first = int(low // step) + 1
    return [round(step * n, 6) for n in range(first, int(high // step) + 1)]


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="#333">{text}</text>'
