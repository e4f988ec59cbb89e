"""What the page shows as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from profiler.loadtest import table
from profiler.loadtest.report_file import Report
from profiler.loadtest.result import Result
from profiler.loadtest.summary import Summary
from profiler.loadtest.svg import COLOURS, Axis, Line, Plot, Rule

MAX_CDF_POINTS = 400
TARGET = 0.95


@dataclass(frozen=True, slots=True)
class Run:
    """One run on a page: `label` is empty where it is the only one."""

    label: str
    report: Report
    results: Sequence[Result]

    def named(self, what: str) -> str:
        return f"{self.label}: {what}" if self.label else what


def plots(runs: Sequence[Run]) -> list[Plot]:
    """Of one run, or of several over each other: dashed from the second on."""
    found = [_attainment(runs), _goodput(runs), *_latency(runs), _cost(runs), _find_max(runs)]
    return [plot for plot in found if plot is not None]


def _attainment(runs: Sequence[Run]) -> Plot:
    lines = []
    for number, run in enumerate(runs):
        parts = [((b.from_s + b.to_s) / 2, b.attainment) for b in run.report.over_time if b.attainment is not None]
        points = [(at, share.value) for at, share in parts]
        band = [(at, share.lower, share.upper) for at, share in parts]
        lines.append(Line(points, number, run.named("attainment"), number > 0, len(points) < 2, band))
    axis = Axis("attainment", low=0, high=1, text="{:.0%}".format)
    rule = Rule(TARGET, label=f"{TARGET:.0%}", level=True)
    return Plot("Attainment over time, with its 95% interval", Axis("planned time, s", low=0), axis, lines, [rule])


def _goodput(runs: Sequence[Run]) -> Plot:
    lines = []
    for number, run in enumerate(runs):
        times = [(b.from_s + b.to_s) / 2 for b in run.report.over_time]
        offered = [b.offered_per_s for b in run.report.over_time]
        good = [b.goodput_per_s for b in run.report.over_time]
        few = len(times) < 2
        lines.append(Line(list(zip(times, offered, strict=True)), 7, run.named("offered"), number > 0, few))
        lines.append(Line(list(zip(times, good, strict=True)), number, run.named("goodput"), number > 0, few))
    return Plot("Goodput against what was offered", Axis("planned time, s", low=0), Axis("requests/s", low=0), lines)


def _latency(runs: Sequence[Run]) -> list[Plot]:
    """One plot over all classes; its curves end at the share that was answered at all."""
    lines, rules = [], []
    for number, run in enumerate(runs):
        for index, one in enumerate(run.report.classes):
            judged = [r for r in run.results if r.slo_class == one.name and not r.leaves]
            points = _cdf([r.latency_ms for r in judged if r.outcome == "answered" and r.latency_ms], len(judged))
            if points:
                lines.append(Line(points, index % COLOURS, run.named(one.name), number > 0))
            limit = one.slo.get("latency_ms")
            if limit is not None:
                rules.append(Rule(limit, index % COLOURS, f"{run.named(one.name)}: SLO {table.ms(limit)}"))
    if not lines:
        return []
    axis = Axis("latency (dotted: the class's SLO)", log=True, text=table.ms)
    share = Axis("share of requests", low=0, high=1, text="{:.0%}".format)
    return [Plot("Latency per class", axis, share, lines, rules)]


def _cdf(values: Sequence[float], total: int) -> list[tuple[float, float]]:
    ordered = sorted(values)
    stride = max(len(ordered) // MAX_CDF_POINTS, 1)
    ranks = sorted({*range(0, len(ordered), stride), len(ordered) - 1} - {-1})
    return [(ordered[rank], (rank + 1) / total) for rank in ranks]


def _cost(runs: Sequence[Run]) -> Plot | None:
    """Distribution of the attributed cost, per class."""
    lines = []
    for number, run in enumerate(runs):
        for index, one in enumerate(run.report.classes):
            costs = [r.cost_usd * 1e3 for r in run.results if r.slo_class == one.name and r.cost_usd]
            if costs:
                lines.append(Line(_cdf(costs, len(costs)), index % COLOURS, run.named(one.name), number > 0))
    if not lines:
        return None
    axis = Axis("US$ per 1,000 requests, attributed", log=True)
    return Plot("Cost per class", axis, Axis("share of requests", low=0, high=1, text="{:.0%}".format), lines)


def _find_max(runs: Sequence[Run]) -> Plot | None:
    lines = []
    for number, run in enumerate(runs):
        if run.report.found_max is not None:
            probes = sorted((one.rate_per_s, one.goodput_per_s) for one in run.report.found_max.probes)
            lines.append(Line(probes, number, run.named("goodput"), number > 0, dots=True))
            lines.append(Line([(rate, rate) for rate, _ in probes], 7, "all of them", dashed=True))
    if not lines:
        return None
    return Plot("Goodput at each rate probed", Axis("offered, requests/s", low=0), Axis("goodput, /s", low=0), lines)


def summaries(runs: Sequence[Run]) -> list[tuple[str, Summary]]:
    """Every class of every run under one name, the runs of a class beside each other."""
    named: dict[str, list[tuple[str, Summary]]] = {}
    for run in runs:
        for one in run.report.summaries:
            named.setdefault(one.name, []).append((run.named(one.name), one))
    return [pair for group in named.values() for pair in group]
