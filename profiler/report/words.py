"""The report in plain words. `**` marks what is set in bold, in Markdown as on the page."""

from __future__ import annotations

from profiler.report.choice import Choice, Step
from profiler.report.points import Comparison, Point

DEADLINE = "{deadline}"  # filled in where the deadline is known: on the page, by the slider
TOO_LATE = "{too_late}"  # the deadline missed by this much


def duration(ms: float) -> str:
    """Three digits: `640 ms`, `1.24 s`, `75.3 s`."""
    if ms < 999.5:
        return f"{ms:.0f} ms"
    return f"{ms / 1e3:#.3g} s".replace(". ", " ") if ms < 999_500 else f"{ms / 1e3:.0f} s"


def deadline(ms: float) -> str:
    """A duration that was given, without zeros that say nothing: `2 s`, `1.25 s`."""
    number, unit = duration(ms).split(" ")
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number} {unit}"


def percent(share: float) -> str:
    return f"{share * 100:.1f} %"


def per_thousand(cost_usd: float) -> str:
    """Dollars for 1,000 requests: a single one costs too many zeros to read."""
    return f"${cost_usd * 1e3:.3g}"


def cost(point: Point, *, priced: bool = True) -> str:
    """In dollars where every plan that it is compared with has a price, else in GPU-seconds."""
    usd = point.cost_usd if priced else None
    return f"{point.gpu_seconds:.3g} GPU s" if usd is None else f"{per_thousand(usd)} per 1,000 requests"


def setting(point: Point) -> str:
    """What runs, without where: `one greedy answer`, `first-finish with 8 samples (m=3)`."""
    if point.strategy == "none":
        return "one greedy answer" if point.greedy else "one sampled answer"
    quorum = f" (m={point.params['m']})" if "m" in point.params else ""
    window = point.params.get("window")
    at_a_time = f", {window} at a time" if window else ""
    greedy = ", the first at temperature 0" if point.params.get("greedy") else ""
    return f"{point.strategy} with {'up to ' if window else ''}{point.branches} samples{quorum}{at_a_time}{greedy}"


def plan(point: Point) -> str:
    return f"{setting(point)} on {point.engine.name}"


def short_setting(point: Point) -> str:
    """As requests spell it, for tables: `first-finish:8, m=3`; `none, greedy`."""
    if point.strategy == "none":
        return "none, greedy" if point.greedy else "none"
    told = [f"{key}={point.params[key]}" for key in ("m", "window") if point.params.get(key)]
    return ", ".join([f"{point.strategy}:{point.branches}", *told, *["greedy"] * bool(point.params.get("greedy"))])


def short_plan(point: Point) -> str:
    return f"{short_setting(point)} on {point.engine.name}"


def answer(comparison: Comparison, step: Step) -> tuple[str, str]:
    """What to run, and what the usual advice would have cost; with `DEADLINE` and `TOO_LATE` to be filled in."""
    choice, tail, priced = step.choice, comparison.tail, comparison.priced
    if choice.system is None or choice.compute is None:
        return _nothing(comparison), "A longer deadline, or a faster engine, would be needed."
    system = choice.system
    run = (
        f"For {DEADLINE}, run **{plan(system)}**: {_right(system)}, {tail} {duration(system.tail_ms)} "
        f"(p50 {duration(system.median_ms)}), {cost(system, priced=priced)}."
    )
    return run, _advice(choice, step.compute_in_time, tail, priced)


def fill(text: str, deadline_ms: float, compute: Point | None) -> str:
    late_ms = max(0.0, compute.tail_ms - deadline_ms) if compute is not None else 0.0
    return text.replace(DEADLINE, deadline(deadline_ms)).replace(TOO_LATE, duration(late_ms))


def times(ratio: float) -> str:
    """`2.4 times as much`, `40 % more`, `the same`, `30 % less`."""
    if 0.995 < ratio < 1.005:
        return "the same"
    if ratio < 1:
        return f"{(1 - ratio) * 100:.0f} % less"
    if ratio < 1.995:
        return f"{(ratio - 1) * 100:.0f} % more"
    return f"{ratio:.2g} times as much" if ratio < 9.95 else f"{ratio:.0f} times as much"


def _nothing(comparison: Comparison) -> str:
    quickest = min(comparison.points, key=lambda point: point.tail_ms)
    return (
        f"**Nothing** here finishes within {DEADLINE} at {comparison.tail}: "
        f"the quickest is {plan(quickest)}, {duration(quickest.tail_ms)}."
    )


def _right(point: Point) -> str:
    right = f"right {percent(point.accuracy)} of the time (at least {percent(point.accuracy_lower)})"
    return f"assumed {right}" if point.assumed else right


def _advice(choice: Choice, in_time: bool, tail: str, priced: bool) -> str:
    system, advice = choice.system, choice.compute
    assert system is not None and advice is not None
    if not choice.differ:
        return "Here **the usual advice is right**: the least compute for this accuracy is the same plan."
    took = f"{tail} {duration(advice.tail_ms)}"
    timing = f"in time too ({took})" if in_time else f"**{TOO_LATE} too late** ({took})"
    return (
        f"The usual advice, the least compute for this accuracy, is **{plan(advice)}**: {timing}, and it would have "
        f"cost {cost(advice, priced=priced)}{_compared(system, advice, priced)}."
    )


def _compared(system: Point, advice: Point, priced: bool) -> str:
    ours, theirs = (system.cost_usd, advice.cost_usd) if priced else (system.gpu_seconds, advice.gpu_seconds)
    return f", {times(theirs / ours)}" if ours and theirs is not None else ""
