"""Accuracy within a token budget: stored samples cut at the budget, where a cut one has no answer and abstains.

A request's `max_tokens` is such a budget. Without a forced answer this is what the proxy does: a branch that hits the
limit arrives without a final answer, and the others vote.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from profiler.quality_file import StoredQuestion, bootstrap_lower, drawn
from profiler.quality_sections import BudgetCurve
from profiler.votes import vote
from strategies.base import Shape

_QUANTILES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


def budget_grid(pool: Sequence[StoredQuestion]) -> list[int]:
    """Budgets where samples end: quantiles of their lengths, ascending, the last one the longest."""
    lengths = [sample.tokens for question in pool for sample in (question.greedy, *question.samples)]
    return sorted({int(tokens) for tokens in np.quantile(lengths, _QUANTILES, method="higher")})


def budget_curve(
    strategy: str,
    params: dict[str, Any],
    shape: Shape,
    pool: list[StoredQuestion],
    grid: Sequence[int],
    *,
    greedy: bool,
    seed: int = 0,
) -> BudgetCurve:
    """One setting over `grid`. All budgets see the same draws, those of the setting's `Curve`, so that they differ by
    the budget alone and the last one is the curve's own accuracy."""
    draws = drawn(pool, shape, greedy=greedy, seed=seed)
    accuracy, lower = [], []
    for budget in grid:
        by_question = vote(draws.cut(budget), shape).correct.reshape(len(pool), -1).mean(axis=1)
        accuracy.append(round(float(by_question.mean()), 4))
        lower.append(round(bootstrap_lower(by_question, seed=seed), 4))
    return BudgetCurve(strategy, params, greedy, list(grid), accuracy, lower)


def accuracy_within(curve: BudgetCurve, max_tokens: int | None) -> tuple[float, float]:
    """Accuracy and its lower bound when every branch may generate `max_tokens`; None: no limit.

    Between two budgets accuracy is interpolated and the bound is the worse of the two; below the first budget, where
    next to nothing ends, accuracy falls linearly to none at no tokens, and the bound is 0.
    """
    if max_tokens is None or max_tokens >= curve.tokens[-1]:
        return curve.accuracy[-1], curve.accuracy_lower[-1]
    at = int(np.searchsorted(curve.tokens, max_tokens, side="right"))  # the first budget above
    bounds = [0.0, *curve.accuracy_lower]
    accuracy = float(np.interp(max_tokens, [0, *curve.tokens], [0.0, *curve.accuracy]))
    return accuracy, min(accuracy, bounds[at], bounds[at + 1])


def find(curves: Sequence[BudgetCurve], strategy: str, params: dict[str, Any], *, greedy: bool) -> BudgetCurve | None:
    """The setting's own curve; None where the file has none (made by an earlier version)."""
    wanted = (strategy, params, greedy)
    return next((curve for curve in curves if (curve.strategy, curve.params, curve.greedy) == wanted), None)
