"""Runs of strategies as one table: accuracy, latency, tokens and cost of each setting, against one sample and against
plain voting at the same cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from profiler.loadtest.statistics import share
from profiler.runs import Run, by_setting

VOTING = "self-consistency"


@dataclass(frozen=True, slots=True)
class Row:
    """One setting, over its runs. `key`: as it was asked for; `low`, `high`: Wilson's 95% interval of the accuracy."""

    key: str
    strategy: str
    params: dict[str, Any]
    greedy: bool
    runs: int
    accuracy: float
    low: float
    high: float
    p50_ms: float
    p95_ms: float
    tokens: float
    cost_usd: float | None
    limited: bool = False

    @classmethod
    def of(cls, runs: Sequence[Run]) -> Row:
        accuracy = share(sum(run.correct for run in runs), len(runs))
        assert accuracy is not None  # a setting has runs
        latency = [run.latency_ms for run in runs]
        costs = [run.cost_usd for run in runs if run.cost_usd is not None]
        return cls(
            runs[0].key,
            runs[0].strategy,
            runs[0].params,
            runs[0].greedy,
            len(runs),
            accuracy.value,
            accuracy.lower,
            accuracy.upper,
            float(np.median(latency)),
            float(np.quantile(latency, 0.95)),
            float(np.mean([run.tokens for run in runs])),
            float(np.mean(costs)) if len(costs) == len(runs) else None,
            bool(runs[0].limits),
        )

    @property
    def plain(self) -> bool:
        """A vote among samples, one sample included: none of them at temperature 0, and nothing cut by a limit."""
        return (
            not self.limited and self.strategy in (VOTING, "none") and not self.greedy and not self.params.get("greedy")
        )

    @property
    def name(self) -> str:
        """As it was asked for; defaults would make a long line of it."""
        told = ", ".join(f"{key}={value!r}" for key, value in self.params.items())
        spelled = self.key or f"{self.strategy}{' (greedy)' if self.greedy else ''}{f': {told}' if told else ''}"
        return f"`{spelled}`".replace("|", "\\|")


def rows(runs: Sequence[Run]) -> list[Row]:
    return [Row.of(of) for of in by_setting(runs)]


def voting_at(cost_usd: float | None, voting: Sequence[Row]) -> tuple[float, bool] | None:
    """Accuracy of plain voting for the same money: between its measured settings a line, beyond them the last one; and
    whether it is beyond the dearest. None where costs are unknown."""
    known = sorted((row.cost_usd, row.accuracy) for row in voting if row.cost_usd is not None)
    if cost_usd is None or not known:
        return None
    costs, accuracy = zip(*known, strict=True)
    return float(np.interp(cost_usd, costs, accuracy)), cost_usd > costs[-1]


def markdown(runs: Sequence[Run]) -> str:
    """The table, the most accurate first. Plain voting includes one sample (`none`): its cheapest form. `†`: the
    setting cost more than any measured vote, and is compared with the dearest."""
    found = sorted(rows(runs), key=lambda row: (-row.accuracy, row.cost_usd or 0.0))
    voting = [row for row in found if row.plain]
    single = next((row for row in voting if row.strategy == "none"), None)
    lines = [
        "| strategy | runs | accuracy (95% interval) | p50, ms | p95, ms | tokens | US$ per 1,000 "
        "| against one sample | against voting at equal cost |",
        "|---|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in found:
        equal = None if row in voting else voting_at(row.cost_usd, voting)
        cost = "" if row.cost_usd is None else f"{row.cost_usd * 1e3:.4f}"
        cells = [
            row.name,
            str(row.runs),
            f"{row.accuracy:.3f} ({row.low:.3f} to {row.high:.3f})",
            f"{row.p50_ms:.0f}",
            f"{row.p95_ms:.0f}",
            f"{row.tokens:.0f}",
            cost,
            _against(row.accuracy, single.accuracy if single else None),
            _against(row.accuracy, equal[0] if equal else None) + (" †" if equal and equal[1] else ""),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _against(accuracy: float, other: float | None) -> str:
    return "" if other is None else f"{accuracy - other:+.3f}"
