"""From samples to tables: medians over rounds, ratios within a round, and the bars that the proxy has to meet.

A ratio compares two stacks in the same round, at most a minute apart, and its median is taken over the rounds: noise of
the machine that lasts longer than a round then cancels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median

from bench_load import FANOUT_N, STREAMS, Figures

PROXY, DIRECT, NGINX = "paretoproxy", "direct", "nginx"
CONNECTIONS = (1, 16, 64)
STREAM, FAN = "stream", "fan"
UNSTEADY = 1.5  # direct's fastest round over its slowest: beyond it, something else used the machine
FOREIGN = 0.1  # share of the server's core that others may use before the report says so
GOAL_RATE_X_NGINX = 0.25  # vllm-router's

Value = float | None


def ns(connections: int) -> str:
    """Name of the non-streaming part with that many connections."""
    return f"ns{connections}"


@dataclass(frozen=True, slots=True)
class Samples:
    """Figures of each (part, stack), one per round."""

    figures: defaultdict[tuple[str, str], list[Figures]] = field(default_factory=lambda: defaultdict(list))

    def add(self, part: str, stack: str, figures: Figures) -> None:
        self.figures[part, stack].append(figures)

    def stacks(self, part: str) -> list[str]:
        return [stack for name, stack in self.figures if name == part]

    def median(self, part: str, stack: str, value: Callable[[Figures], float]) -> Value:
        """Median over rounds; None where it was not measured."""
        values = [value(figures) for figures in self.figures.get((part, stack), [])]
        return median(values) if values else None

    def total(self, part: str, stack: str, value: Callable[[Figures], int]) -> int:
        return sum(value(figures) for figures in self.figures.get((part, stack), []))

    def rate_x_nginx(self, part: str, stack: str) -> Value:
        """Rate over nginx's, dimensionless, median over rounds."""
        return _median_ratio(self._rates(part, stack), self._rates(part, NGINX))

    def disturbances(self) -> list[str]:
        """One note per part whose figures mean little because something else used the machine."""
        return [note for part in dict.fromkeys(part for part, _ in self.figures) for note in self._disturbances(part)]

    def _disturbances(self, part: str) -> Iterator[str]:
        rates = self._rates(part, DIRECT)
        if rates and max(rates) > UNSTEADY * min(rates):
            yield f"not quiet in part {part}: direct ran at {min(rates):,.0f} to {max(rates):,.0f}/s"
        shares = [self.median(part, stack, _foreign) or 0.0 for stack in self.stacks(part)]
        if max(shares) > FOREIGN:
            yield f"not quiet in part {part}: other processes used {max(shares):.0%} of the server's core"

    def added_p50_us(self, stack: str) -> Value:
        """Median latency that the stack adds to a direct call at one connection, µs."""
        added = self._added_us(stack)
        return median(added) if added else None

    def added_x_nginx(self, stack: str) -> Value:
        """That added latency over nginx's, dimensionless, median over rounds."""
        return _median_ratio(self._added_us(stack), self._added_us(NGINX))

    def _rates(self, part: str, stack: str) -> list[float]:
        return [figures.per_second for figures in self.figures.get((part, stack), [])]

    def _added_us(self, stack: str) -> list[float]:
        part = ns(1)
        pairs = zip(self.figures.get((part, stack), []), self.figures.get((part, DIRECT), []), strict=False)
        return [through.p50_us - plain.p50_us for through, plain in pairs]


def _median_ratio(values: list[float], bases: list[float]) -> Value:
    # not strict: an interrupted run may hold a round more of one stack
    ratios = [value / base for value, base in zip(values, bases, strict=False) if base > 0]
    return median(ratios) if ratios else None


@dataclass(frozen=True, slots=True)
class Bar:
    """A demand on the proxy. `at_least`: whether more is better."""

    name: str
    part: str
    value: Callable[[Samples], Value]
    limit: float
    at_least: bool = True
    goal: float | None = None

    def verdict(self, samples: Samples) -> str:
        """One line: what was measured, the bar, `met`, `missed` or `not measured`, and what went wrong meanwhile."""
        sign = ">=" if self.at_least else "<="
        demand = f"{self.name}: {{}} (bar {sign} {self.limit:,g}" + (f", goal {self.goal:g})" if self.goal else ")")
        value = self.value(samples)
        if value is None:
            return demand.format("-") + ": not measured"
        met = value >= self.limit if self.at_least else value <= self.limit
        beyond = self.goal is not None and value >= self.goal
        verdict = ("met, goal too" if beyond else "met") if met else "MISSED"
        return f"{demand.format(_number(value))}: {verdict}{self._blemishes(samples)}"

    def _blemishes(self, samples: Samples) -> str:
        errors, stalls = samples.total(self.part, PROXY, _errors), samples.total(self.part, PROXY, _stalls)
        counts = [f"{count} {what}" for count, what in ((errors, "errors"), (stalls, "stalls")) if count]
        return f", with {' and '.join(counts)}" if counts else ""


def _rate_bar(connections: int) -> Bar:
    part = ns(connections)
    name = f"rate at {connections} connections, x nginx"
    return Bar(name, part, lambda s: s.rate_x_nginx(part, PROXY), 0.20, goal=GOAL_RATE_X_NGINX)


BARS = (
    _rate_bar(16),
    _rate_bar(64),
    Bar("added p50 at 1 connection, x nginx's", ns(1), lambda s: s.added_x_nginx(PROXY), 2.5, at_least=False),
    Bar(f"chunks with {STREAMS} streams, x nginx", STREAM, lambda s: s.rate_x_nginx(STREAM, PROXY), 0.4),
    Bar(f"fan-out to {FANOUT_N}, client requests/s", FAN, lambda s: s.median(FAN, PROXY, _per_second), 1000),
)


def render(samples: Samples, notes: list[str]) -> str:
    """The whole report as markdown: one table per part that was measured, the bars, the notes."""
    tables = [_requests_table(samples), _latency_table(samples), _streams_table(samples), _fanout_table(samples)]
    bars = "Bars for paretoproxy:\n" + "\n".join(f"- {bar.verdict(samples)}" for bar in BARS)
    all_notes = [*notes, *samples.disturbances()]
    noted = ["Notes:\n" + "\n".join(f"- {note}" for note in all_notes)] if all_notes else []
    return "\n\n".join([*(table for table in tables if table), bars, *noted]) + "\n"


def _requests_table(samples: Samples) -> str:
    parts = [ns(count) for count in CONNECTIONS]
    head = ["non-streaming"]
    for count in CONNECTIONS:
        head += [f"req/s, {count} conn", "x nginx"]
    rows = []
    for stack in samples.stacks(ns(CONNECTIONS[0])):
        row = [stack]
        for part in parts:
            row += [_number(samples.median(part, stack, _per_second)), _number(samples.rate_x_nginx(part, stack))]
        row.append(_number(samples.median(ns(16), stack, _cpu_us)))
        row.append(str(sum(samples.total(part, stack, _errors) for part in parts)))
        rows.append(row)
    return _table([*head, "CPU µs/req, 16 conn", "errors"], rows)


def _latency_table(samples: Samples) -> str:
    rows = [
        [
            stack,
            _number(samples.median(ns(1), stack, lambda figures: figures.p50_us)),
            _number(samples.median(ns(1), stack, _p99_us)),
            _number(samples.added_p50_us(stack)),
            _number(samples.added_x_nginx(stack)),
        ]
        for stack in samples.stacks(ns(1))
    ]
    return _table(["latency, 1 conn", "p50 µs", "p99 µs", "added p50 µs", "x nginx's"], rows)


def _streams_table(samples: Samples) -> str:
    rows = [
        [
            stack,
            _number(samples.median(STREAM, stack, _per_second)),
            _number(samples.rate_x_nginx(STREAM, stack)),
            _number(samples.median(STREAM, stack, _p99_us)),
            str(samples.total(STREAM, stack, _stalls)),
            str(samples.total(STREAM, stack, _errors)),
        ]
        for stack in samples.stacks(STREAM)
    ]
    return _table([f"{STREAMS} streams", "chunks/s", "x nginx", "p99 µs", "stalls over 100 ms", "errors"], rows)


def _fanout_table(samples: Samples) -> str:
    rows = [
        [
            stack,
            _number(samples.median(FAN, stack, _per_second)),
            _number(samples.median(FAN, stack, _p99_us)),
            _number(samples.median(FAN, stack, _cpu_us)),
            str(samples.total(FAN, stack, _errors)),
        ]
        for stack in samples.stacks(FAN)
    ]
    return _table([f"fan-out to {FANOUT_N}", "client req/s", "p99 µs", "CPU µs/req", "errors"], rows)


def _table(head: list[str], rows: list[list[str]]) -> str:
    """A markdown table, padded so that it reads well as plain text; empty without rows."""
    if not rows:
        return ""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    rule = "|" + "|".join("-" * (width + 1) + (":" if column else "-") for column, width in enumerate(widths)) + "|"
    return "\n".join([_line(head, widths), rule, *(_line(row, widths) for row in rows)])


def _line(row: list[str], widths: list[int]) -> str:
    cells = [
        cell.rjust(width) if column else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "| " + " | ".join(cells) + " |"


def _number(value: Value) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.3g}"


def _per_second(figures: Figures) -> float:
    return figures.per_second


def _p99_us(figures: Figures) -> float:
    return figures.p99_us


def _cpu_us(figures: Figures) -> float:
    return figures.cpu_us


def _foreign(figures: Figures) -> float:
    return figures.foreign


def _stalls(figures: Figures) -> int:
    return figures.stalls


def _errors(figures: Figures) -> int:
    return figures.errors
