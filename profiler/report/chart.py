"""The pictures, as Vega-Lite specifications: accuracy against latency and against cost, for one model on one task.

Colours are the page's CSS variables, so that one drawing serves the light page, the dark one and paper. Three
parameters come from the page: `deadline_ms`, and `system` and `compute`, the identifiers of the two marked points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from profiler.report.points import Comparison, Engine, ModelTask, Point
from profiler.report.words import cost, duration, percent, setting

COLOURS = 8  # --c0 to --c7 in page.css, in the order of Okabe and Ito: told apart by colour-blind readers
DASHES = ([1, 0], [7, 3], [2, 3], [8, 3, 2, 3])
GLYPHS = {"one greedy answer": "◆", "one sampled answer": "●", "self-consistency": "■", "first-finish": "▲"}
OTHER_GLYPH = "▼"
SHAPES = {"◆": "diamond", "●": "circle", "■": "square", "▲": "triangle-up", "▼": "triangle-down"}
HEIGHT = 270
FONT = "system-ui, -apple-system, Segoe UI, Roboto, Liberation Sans, sans-serif"
Spec = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Axis:
    """A logarithmic axis that all models of a comparison share. `label`: Vega expression for a tick's text."""

    field: str
    title: str
    label: str
    low: float
    high: float


def latency_axis(comparison: Comparison) -> Axis:
    label = "datum.value < 1000 ? datum.value + ' ms' : datum.value / 1000 + ' s'"
    title = f"{comparison.tail} latency of the whole answer"
    return _axis("tail_ms", title, label, [point.tail_ms for point in comparison.points])


def cost_axis(comparison: Comparison) -> Axis:
    values = [_cost(point, comparison.priced) for point in comparison.points]
    if comparison.priced:
        return _axis("cost", "attributed cost per 1,000 requests, US$", "'$' + datum.value", values)
    return _axis("cost", "attributed cost per request, GPU-seconds", "datum.value + ''", values)


def dash(index: int) -> list[int]:
    """Each colour has a dash of its own, and another one when the colours start again."""
    return DASHES[(index + index // COLOURS) % len(DASHES)]


def kind(point: Point) -> str:
    """What the point's shape tells."""
    return setting(point) if point.strategy == "none" else point.strategy


def glyph(point: Point) -> str:
    return GLYPHS.get(kind(point), OTHER_GLYPH)


def values(model: ModelTask, comparison: Comparison, first_id: int) -> list[dict[str, Any]]:
    """One row per point; identifiers count through the comparison from `first_id`."""
    return [
        {
            "id": first_id + offset,
            "engine": point.engine.name,
            "tail_ms": round(point.tail_ms, 3),
            "cost": _cost(point, comparison.priced),
            "accuracy": point.accuracy,
            "branches": point.branches,
            "shape": SHAPES[glyph(point)],
            "hover": hover(point, comparison),
        }
        for offset, point in enumerate(model.points)
    ]


def hover(point: Point, comparison: Comparison) -> list[str]:
    """What a point says of itself, line by line."""
    assumed = "assumed, " if point.assumed else ""
    return [
        f"{setting(point)} on {point.engine.name} ({point.engine.label})",
        f"p50 {duration(point.median_ms)}, {comparison.tail} {duration(point.tail_ms)}",
        f"accuracy {percent(point.accuracy)} ({assumed}at least {percent(point.accuracy_lower)})",
        cost(point, priced=comparison.priced),
        f"{point.mean_tokens:.0f} tokens, {point.paper_cost_per_token * 1e3:.3g} GPU-ms per token",
    ]


def chart(model: ModelTask, rows: Sequence[dict[str, Any]], axis: Axis) -> Spec:
    """Curves: the best accuracy that each engine reaches within so much latency or cost. Points: every plan."""
    spec: Spec = {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "width": "container",
        "height": HEIGHT,
        "background": None,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "params": [{"name": name, "value": -1} for name in ("deadline_ms", "system", "compute")],
        "datasets": {"points": list(rows), "frontier": _frontiers(rows, axis)},
        "encoding": {"x": _x(axis), "y": _y(rows, model.assumed), "color": _colour(model.engines)},
        "layer": [_curves(model.engines), _dots(), *_marks(axis)],
        "config": _config(),
    }
    if axis.field == "tail_ms":
        spec["layer"].insert(0, _deadline(axis))
    return spec


def _axis(field: str, title: str, label: str, values: Sequence[float]) -> Axis:
    return Axis(field, title, label, min(values, default=1.0) / 1.15, max(values, default=1.0) * 1.15)


def _cost(point: Point, priced: bool) -> float:
    usd = point.cost_usd if priced else None
    return point.gpu_seconds if usd is None else usd * 1e3


def _frontiers(rows: Sequence[dict[str, Any]], axis: Axis) -> list[dict[str, Any]]:
    """Per engine the points that no point to their left surpasses, and a last one at the axis's end."""
    curves: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: (row[axis.field], -row["accuracy"])):
        curve = curves.setdefault(row["engine"], [])
        if not curve or row["accuracy"] > curve[-1]["accuracy"]:
            curve.append({"engine": row["engine"], axis.field: row[axis.field], "accuracy": row["accuracy"]})
    return [point for curve in curves.values() for point in (*curve, {**curve[-1], axis.field: axis.high})]


def _x(axis: Axis) -> Spec:
    return {
        "field": axis.field,
        "type": "quantitative",
        "title": axis.title,
        "scale": {"type": "log", "domain": [axis.low, axis.high], "nice": False},
        "axis": {"values": ticks(axis.low, axis.high), "labelExpr": axis.label, "labelOverlap": True},
    }


def ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, …; over many decades only their tens."""
    decades = [10.0**exponent for exponent in range(-12, 13)]
    steps = (1, 2, 5) if high / low < 1e3 else (1,)
    ticks = [float(f"{step * decade:.6g}") for decade in decades for step in steps]
    return [tick for tick in ticks if low <= tick <= high]


def _y(rows: Sequence[dict[str, Any]], assumed: bool) -> Spec:
    accuracies = [row["accuracy"] for row in rows] or [0.0]
    low, high = min(accuracies), max(accuracies)
    margin = max((high - low) * 0.15, 0.01)
    return {
        "field": "accuracy",
        "type": "quantitative",
        "title": "accuracy, assumed" if assumed else "accuracy",
        "scale": {"domain": [max(0.0, low - margin), min(1.0, high + margin)], "nice": False, "zero": False},
        "axis": {
            "format": ".0%" if high - low > 0.06 else ".1%",
            "tickCount": 6,
            # Upright, above the axis: a title along it would need room that only the reader's font knows.
            **{"titleAngle": 0, "titleAnchor": "start", "titleAlign": "left", "titleX": 0, "titleY": -14},
        },
    }


def _colour(engines: Sequence[Engine]) -> Spec:
    names = [engine.name for engine in engines]
    colours = [f"var(--c{index % COLOURS})" for index in range(len(names))]
    return {"field": "engine", "type": "nominal", "scale": {"domain": names, "range": colours}, "legend": None}


def _curves(engines: Sequence[Engine]) -> Spec:
    scale = {"domain": [engine.name for engine in engines], "range": [dash(index) for index in range(len(engines))]}
    return {
        "data": {"name": "frontier"},
        "mark": {"type": "line", "interpolate": "step-after", "strokeWidth": 2, "clip": True, "opacity": 0.9},
        "encoding": {"strokeDash": {"field": "engine", "type": "nominal", "scale": scale, "legend": None}},
    }


def _dots() -> Spec:
    return {
        "data": {"name": "points"},
        "mark": {"type": "point", "filled": True, "stroke": "var(--panel)", "strokeWidth": 0.8},
        "encoding": {
            "shape": {"field": "shape", "type": "nominal", "scale": None, "legend": None},
            "size": {
                "field": "branches",
                "type": "quantitative",
                "scale": {"type": "linear", "domain": [1, 16], "range": [60, 190]},
                "legend": None,
            },
            "opacity": {"condition": {"test": "datum.tail_ms <= deadline_ms", "value": 0.95}, "value": 0.25},
            "tooltip": {"field": "hover"},
        },
    }


def _deadline(axis: Axis) -> Spec:
    """The slider's line; without a row of data it would not be drawn."""
    return {
        "data": {"values": [{}]},
        "mark": {"type": "rule", "color": "var(--ink)", "strokeDash": [3, 3], "strokeWidth": 1.2, "clip": True},
        "transform": [{"calculate": "deadline_ms", "as": axis.field}],
        "encoding": {"y": None, "color": None},
    }


def _marks(axis: Axis) -> list[Spec]:
    """Rings around the two plans, with their names: the one above its ring, the other below."""
    middle = (axis.low * axis.high) ** 0.5
    side = {"expr": f"datum.{axis.field} > {middle!r} ? 'right' : 'left'"}
    shift = {"expr": f"datum.{axis.field} > {middle!r} ? 10 : -10"}
    ours = "datum.id == system"
    theirs = "datum.id == compute && compute != system"
    ring = {"type": "point", "filled": False, "size": 420, "opacity": 1}
    text = {"type": "text", "fontSize": 12, "fontWeight": 700, "align": side, "dx": shift}
    return [
        _mark(theirs, {**ring, "strokeWidth": 2, "strokeDash": [4, 2], "stroke": "var(--advice)"}),
        _mark(ours, {**ring, "strokeWidth": 3, "stroke": "var(--ours)"}),
        _mark(theirs, {**text, "dy": 22, "fill": "var(--advice)"}, "'usual advice'"),
        _mark(
            ours,
            {**text, "dy": -22, "fill": "var(--ours)"},
            "compute == system ? 'run this = usual advice' : 'run this'",
        ),
    ]


def _mark(test: str, mark: Spec, text: str | None = None) -> Spec:
    transform: list[Spec] = [{"filter": test}]
    encoding: Spec = {"color": None}
    if text is not None:
        transform.append({"calculate": text, "as": "label"})
        encoding["text"] = {"field": "label"}
    return {"data": {"name": "points"}, "transform": transform, "mark": mark, "encoding": encoding}


def _config() -> Spec:
    return {
        "font": FONT,
        "view": {"stroke": None},
        "axis": {
            "labelColor": "var(--muted)",
            "titleColor": "var(--ink)",
            "gridColor": "var(--grid)",
            "domainColor": "var(--muted)",
            "tickColor": "var(--muted)",
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": 600,
            "titlePadding": 8,
        },
    }
