"""The figures of a run in words: the same cells on the terminal, in Markdown and on the page. Blank: not known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from profiler.loadtest.find_max import FoundMax, Probe
from profiler.loadtest.report_file import Report
from profiler.loadtest.statistics import Share
from profiler.loadtest.summary import Cost, Summary

BLANK = "–"


def share(value: Share | None) -> str:
    """`94.0% (91.2–96.0)`: with its 95% interval."""
    if value is None:
        return BLANK
    return f"{value.value:.1%} ({value.lower * 100:.1f}–{value.upper * 100:.1f})"


def ms(value: float | None) -> str:
    if value is None:
        return BLANK
    return f"{value:.3g} ms" if value < 100 else f"{value:.0f} ms" if value < 9_999.5 else f"{value / 1e3:.1f} s"


def usd(value: float | None) -> str:
    return BLANK if value is None else f"${value:.3g}"


def number(value: float | None) -> str:
    return BLANK if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def slo(limits: Mapping[str, Any]) -> str:
    """`latency 800 ms, cost $0.001`."""
    shown = []
    for key, value in limits.items():
        match key.rpartition("_"):
            case (name, _, "ms"):
                shown.append(f"{name} {ms(value)}")
            case (name, _, "usd"):
                shown.append(f"{name} {usd(value)}")
            case _:
                shown.append(f"{key} {value}")
    return ", ".join(shown) or "none"


def counts(chosen: Mapping[str, int], most: int = 4) -> str:
    """`self-consistency 41, none 9`."""
    parts = [f"{name} {count}" for name, count in list(chosen.items())[:most]]
    return ", ".join(parts + ["…"] * (len(chosen) > most)) or BLANK


def _cost(cost: Cost | None, *, correct: bool) -> str:
    return BLANK if cost is None else usd(cost.per_correct_usd if correct else cost.per_request_usd)


def _latency(summary: Summary, name: str) -> str:
    return ms(None if summary.latency_ms is None else getattr(summary.latency_ms, name))


def _ttft(summary: Summary) -> str:
    found = summary.ttft_ms
    return BLANK if found is None else " / ".join(ms(value) for value in (found.p50, found.p95, found.p99))


ROWS: Sequence[tuple[str, Callable[[Summary], str]]] = (
    ("SLO", lambda one: BLANK if one.slo is None else slo(one.slo)),
    ("sent", lambda one: f"{one.sent} ({number(one.rate_per_s)}/s)"),
    ("answered", lambda one: str(one.answered)),
    ("refused (SLO infeasible)", lambda one: str(one.refused)),
    ("errors", lambda one: str(one.errors)),
    ("cancelled by the client", lambda one: str(one.cancelled)),
    ("attainment", lambda one: share(one.attainment)),
    ("attainment of those admitted", lambda one: share(one.attainment_admitted)),
    ("goodput", lambda one: f"{number(one.goodput_per_s)}/s"),
    ("accuracy of answers", lambda one: share(one.accuracy)),
    ("right of those asked", lambda one: share(one.correct_of_asked)),
    ("latency p50", lambda one: _latency(one, "p50")),
    ("latency p90", lambda one: _latency(one, "p90")),
    ("latency p95", lambda one: _latency(one, "p95")),
    ("latency p99", lambda one: _latency(one, "p99")),
    ("TTFT p50 / p95 / p99", _ttft),
    ("within predicted latency", lambda one: share(one.calibration)),
    ("degraded", lambda one: share(one.degraded)),
    ("attributed cost per request", lambda one: _cost(one.attributed, correct=False)),
    ("attributed cost per right answer", lambda one: _cost(one.attributed, correct=True)),
    ("exclusive cost per request", lambda one: _cost(one.exclusive, correct=False)),
    ("exclusive cost per right answer", lambda one: _cost(one.exclusive, correct=True)),
    ("completion tokens", lambda one: number(one.mean_completion_tokens)),
    ("strategies", lambda one: counts(one.strategies)),
    ("samples (n)", lambda one: counts(one.samples)),
    ("backends", lambda one: counts(one.backends)),
)
"""One line per figure, one column per class: there are more figures than classes."""


def grid(summaries: Sequence[Summary]) -> list[list[str]]:
    """Header line first."""
    return [["", *(one.name for one in summaries)], *([name, *map(cell, summaries)] for name, cell in ROWS)]


PROBES = ["rate", "sustained", "attainment", "goodput", "latency p95"]


def probe(one: Probe) -> list[str]:
    return [
        f"{number(one.rate_per_s)}/s",
        "yes" if one.sustained else "no",
        share(one.attainment),
        f"{number(one.goodput_per_s)}/s",
        ms(one.p95_latency_ms),
    ]


def found(one: FoundMax) -> str:
    """The answer of `--find-max` in a sentence."""
    target = f"{one.target:.0%} of the SLOs"
    if one.rate_per_s is None:
        return f"No rate that was tried attains {target}."
    if one.too_much_per_s is None:
        why = f": {one.limited_by}" if one.limited_by else ""
        return f"At least {number(one.rate_per_s)} requests/s attain {target}; the search ended there{why}."
    return (
        f"{number(one.rate_per_s)} requests/s is the highest rate tried that attains {target}; "
        f"{number(one.too_much_per_s)}/s is too much."
    )


def notes(report: Report) -> list[str]:
    """What a reader must know before believing the figures."""
    told = list(report.notes)
    if report.interrupted:
        told.append(
            f"Interrupted after {report.lasted_s:.1f} s: {report.unsent} requests were not sent and "
            f"{report.unfinished} not waited for; the slow ones are missing more often."
        )
    if report.overall.leavers:
        told.append(
            f"{report.overall.leavers} clients would leave early; they count as load, in goodput and in cost, but in "
            "no share and no quantile."
        )
    cost = report.overall.attributed
    if cost is not None and cost.known < report.overall.sent:
        told.append(f"Costs are known of {cost.known} of {report.overall.sent} requests.")
    return told


def failures(report: Report) -> list[tuple[str, str, int]]:
    """(class, what went wrong, requests) of errors and refusals."""
    return [(one.name, kind, count) for one in report.classes for kind, count in one.error_kinds.items()]


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table; `|` in a cell is escaped."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "---|" * len(cells[0]), *lines[1:]])
