"""The report as one self-contained HTML page: `page.html.jinja`, its style and script, the data and the pictures.

Vega-Lite draws: its bundle, from vl-convert (the optional extra `report`), is 0.9 MB of the page where plotly.js is
4.5 MB, and it draws SVG, which is sharp on paper and takes its colours from the page's style sheet, dark or light;
Bokeh, about as large, draws on a canvas that does neither. The page forbids itself to load anything
(Content-Security-Policy), so that "works offline" is not a matter of care.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from math import expm1
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from profiler.report import ReportError, chart, markdown, words
from profiler.report.choice import Step, at, compute_unit, steps
from profiler.report.points import NO_PRICE, Comparison, Engine, ModelTask

FIRST_LOOK_MS = 2000.0  # where the slider stands when the page opens, if that is on its scale
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Model:
    """One model's pictures, and what its legend says: (backend, its label, colour, dash, remark) and (glyph, kind)."""

    model: ModelTask
    charts: list[tuple[str, int]]
    engines: list[tuple[Engine, int, str, str]]
    glyphs: list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Section:
    """One task's part of the page. `data`: what the script needs, as JSON."""

    comparison: Comparison
    data: Json
    answer: tuple[str, str]
    header: list[str]
    rows: list[list[str]]
    models: list[Model]
    unit: str


def render(comparisons: Sequence[Comparison], deadlines_ms: Sequence[float]) -> str:
    """The page. `deadlines_ms`: those of the summary, the first is where the slider stands; may be empty.

    Raises ReportError without the plotting library.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters.update(
        bold=_bold, duration=words.duration, percent=words.percent, per_thousand=words.per_thousand
    )
    environment.globals.update(
        setting=words.short_setting, fit=fit_words, environment=environment_words, no_price=NO_PRICE
    )
    library = _plotting_library()
    sections = [section(comparison, deadlines_ms) for comparison in comparisons]
    return environment.from_string(_file("page.html.jinja")).render(
        sections=sections,
        engines=_all_engines(comparisons),
        style=Markup(_file("page.css")),
        vega=Markup(_library_source(library)),
        script=Markup(_file("page.js")),
        data=Markup(_json([one.data for one in sections])),
    )


def deadlines(comparison: Comparison) -> list[float]:
    """Round deadlines over which the choice changes, at most ten, for a summary."""
    found = steps(comparison.points)
    first, last = found[1].from_ms, max(found[-1].from_ms, found[1].from_ms * 2) * 1.3
    fine = [start * 10.0**exponent for exponent in range(8) for start in (1, 1.5, 2, 2.5, 3, 4, 5, 7)]
    within = [ms for ms in fine if first <= ms <= last]
    return (within if len(within) <= 10 else chart.ticks(first, last)[-10:]) or [last]


def section(comparison: Comparison, deadlines_ms: Sequence[float]) -> Section:
    found = steps(comparison.points)
    summary = sorted(deadlines_ms) or deadlines(comparison)
    axes = [chart.latency_axis(comparison), chart.cost_axis(comparison)]
    low, high = min(axes[0].low, *summary), max(axes[0].high, *summary)
    start = deadlines_ms[0] if deadlines_ms else FIRST_LOOK_MS if low <= FIRST_LOOK_MS <= high else summary[0]
    charts: list[Json] = []
    models, first_id = [], 0
    identifiers = {point: index for index, point in enumerate(comparison.points)}
    for model in comparison.models:
        rows = chart.values(model, comparison, first_id)
        first_id += len(rows)
        numbered = []
        for axis in axes:
            numbered.append((axis.title, len(charts)))
            charts.append(chart.chart(model, rows, axis))
        models.append(_model(model, numbered))
    now = at(found, start)
    return Section(
        comparison=comparison,
        data={
            "low_ms": low,
            "high_ms": high,
            "deadline_ms": start,
            "steps": [_step(comparison, step, identifiers) for step in found],
            "charts": charts,
        },
        answer=_filled(comparison, now, start),
        header=markdown.header(comparison),
        rows=[markdown.row(comparison, deadline_ms) for deadline_ms in summary],
        models=models,
        unit=compute_unit(comparison.points).value,
    )


def fit_words(engine: Engine) -> str:
    """How far the profile is to be trusted."""
    profile = engine.profile
    if engine.assumed:
        return "no profile: a wide prior, wrong by a factor of two either way"
    spread = f"{expm1(profile.residual_sigma):.0%} standard deviation"
    low, high = (profile.residual_quantiles.get(name) for name in ("p5", "p95"))
    if low is None or high is None:
        return spread
    return f"{spread}; from {expm1(low):+.0%} (p5) to {expm1(high):+.0%} (p95)"


def environment_words(engine: Engine) -> str:
    """Where and when it was measured, as far as the profile says."""
    names = ("vllm", "gpu", "machine", "dtype", "date")
    told = {name: engine.profile.environment[name] for name in names if engine.profile.environment.get(name)}
    return ", ".join(f"vLLM {value}" if name == "vllm" else str(value) for name, value in told.items())


def _all_engines(comparisons: Sequence[Comparison]) -> list[Engine]:
    """Each backend once, though its model may answer several tasks."""
    found = {engine.name: engine for one in comparisons for model in one.models for engine in model.engines}
    return list(found.values())


def _model(model: ModelTask, charts: list[tuple[str, int]]) -> Model:
    kinds = {chart.kind(point): chart.glyph(point) for point in model.points}
    engines = [
        (engine, index % chart.COLOURS, " ".join(map(str, chart.dash(index))), _remark(engine))
        for index, engine in enumerate(model.engines)
    ]
    return Model(model, charts, engines, sorted((glyph, kind) for kind, glyph in kinds.items()))


def _remark(engine: Engine) -> str:
    remarks = [
        (engine.modelled, "modelled, not measured"),
        (engine.assumed, "no profile, a wide prior"),
        (engine.greedy_only, "temperature 0 only"),
    ]
    return ", ".join(text for applies, text in remarks if applies)


def _step(comparison: Comparison, step: Step, identifiers: dict[Any, int]) -> Json:
    run, advice = words.answer(comparison, step)
    system, compute = step.choice.system, step.choice.compute
    return {
        "from_ms": step.from_ms,
        "system": -1 if system is None else identifiers[system],
        "compute": -1 if compute is None else identifiers[compute],
        "compute_tail_ms": 0 if compute is None else compute.tail_ms,
        "run": run,
        "advice": advice,
    }


def _filled(comparison: Comparison, step: Step, deadline_ms: float) -> tuple[str, str]:
    run, advice = words.answer(comparison, step)
    compute = step.choice.compute
    return words.fill(run, deadline_ms, compute), words.fill(advice, deadline_ms, compute)


def _plotting_library() -> Any:
    try:
        import vl_convert
    except ImportError as error:
        raise ReportError("the page needs vl-convert: pip install 'paretoproxy[report]'") from error
    return vl_convert


def _library_source(library: Any) -> str:
    """Within a string, where alone it may occur, `<\\/script` is the same text and does not end the element."""
    source: str = library.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return source.replace("</script", "<\\/script")


def _file(name: str) -> str:
    return (resources.files("profiler.report") / name).read_text(encoding="utf-8")


def _json(value: Any) -> str:
    """JSON that cannot end the script element that holds it."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def _bold(text: str) -> Markup:
    """`**` to `<strong>`; a number stays on its unit's line."""
    parts = re.sub(r"(\d) (ms|s|%)", "\\1\u00a0\\2", text).split("**")
    return Markup("").join(
        Markup("<strong>{}</strong>").format(part) if index % 2 else escape(part) for index, part in enumerate(parts)
    )
