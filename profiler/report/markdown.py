"""The choice under several deadlines as a Markdown table."""

from __future__ import annotations

from collections.abc import Sequence

from profiler.report.choice import choose
from profiler.report.points import Comparison, Point
from profiler.report.words import deadline, duration, per_thousand, percent, short_plan


def header(comparison: Comparison) -> list[str]:
    tail = comparison.tail
    unit = "US$ per 1,000" if comparison.priced else "GPU s"
    system = ["system-optimal plan", "p50", tail, "accuracy (at least)", unit]
    return ["deadline", *system, "compute-optimal plan", tail, "accuracy (at least)", unit, "differ"]


def row(comparison: Comparison, deadline_ms: float) -> list[str]:
    """A compute-optimal plan that misses the deadline has its latency in bold."""
    choice = choose(comparison.points, deadline_ms)
    system, advice = choice.system, choice.compute
    if system is None or advice is None:
        return [deadline(deadline_ms), "none in time", *["–"] * 4, "–", *["–"] * 3, "–"]
    took = duration(advice.tail_ms)
    late = advice.tail_ms > deadline_ms
    return [
        deadline(deadline_ms),
        *(short_plan(system), duration(system.median_ms), duration(system.tail_ms)),
        *(_accuracy(system), _cost(system, comparison.priced)),
        *(short_plan(advice), f"**{took}**" if late else took),
        *(_accuracy(advice), _cost(advice, comparison.priced)),
        "yes" if choice.differ else "no",
    ]


def table(comparison: Comparison, deadlines_ms: Sequence[float]) -> str:
    names = header(comparison)
    lines = [names, ["---"] * len(names), *(row(comparison, deadline_ms) for deadline_ms in deadlines_ms)]
    return "\n".join("| " + " | ".join(cells).replace("\n", " ") + " |" for cells in lines)


def _accuracy(point: Point) -> str:
    assumed = ", assumed" if point.assumed else ""
    return f"{percent(point.accuracy)} ({percent(point.accuracy_lower)}{assumed})"


def _cost(point: Point, priced: bool) -> str:
    usd = point.cost_usd if priced else None
    return f"{point.gpu_seconds:.3g}" if usd is None else per_thousand(usd)
