"""From agreement to correctness: how often a vote's answer is right when it won a given share of the votes.

Isotonic regression on replayed votes of a labelled task: more agreement never means a worse answer, and nothing else is
assumed. Agreement is all that unlabelled traffic shows, so this is what turns it into an accuracy.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression

from profiler.quality_file import StoredQuestion, drawn
from profiler.quality_sections import AgreementCurve
from profiler.votes import Votes, vote
from strategies.base import Shape


def agreement_curve(
    strategy: str, params: dict[str, Any], shape: Shape, pool: list[StoredQuestion], seed: int = 0
) -> AgreementCurve:
    """From the draws of the setting's `Curve`, so that `mean` is the curve's accuracy."""
    votes = vote(drawn(pool, shape, seed=seed), shape)
    knots, accuracy, expected = _isotonic(votes)
    return AgreementCurve(
        strategy=strategy,
        params=params,
        branches=shape.branches,
        votes=round(float(votes.votes.mean()), 2),
        agreement=[round(float(value), 4) for value in knots],
        accuracy=[round(float(value), 4) for value in accuracy],
        mean=round(float(expected.mean()), 4),
        deviation=round(float(expected.std()), 4),
    )


def _isotonic(votes: Votes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The knots' agreement and accuracy, and every draw's accuracy as fitted.

    Of a level stretch only both ends are kept. Where some always voted, an answer without votes is added: it is none.
    """
    levels, which, weights = np.unique(votes.agreement, return_inverse=True, return_counts=True)
    right = np.bincount(which, weights=votes.correct) / weights
    fitted = isotonic_regression(right, weights=weights).x
    turns = np.flatnonzero(np.abs(np.diff(fitted)) > 1e-9)
    kept = np.unique(np.concatenate(([0, len(levels) - 1], turns, turns + 1)))
    start = [] if levels[0] == 0 else [0.0]
    return np.concatenate((start, levels[kept])), np.concatenate((start, fitted[kept])), fitted[which]


def accuracy_at(curve: AgreementCurve, agreement: float) -> float:
    """The chance that an answer with this share of the votes is right. A look-up per request: numpy would take ten
    times as long over so few knots."""
    knots, accuracy = curve.agreement, curve.accuracy
    at = bisect_left(knots, agreement)
    if at == 0 or at == len(knots):
        return accuracy[min(at, len(knots) - 1)]
    share = (agreement - knots[at - 1]) / (knots[at] - knots[at - 1])
    return accuracy[at - 1] + share * (accuracy[at] - accuracy[at - 1])


def nearest(curves: Sequence[AgreementCurve], strategy: str, params: dict[str, Any]) -> AgreementCurve | None:
    """The curve of these parameters, else the strategy's with the nearest numbers; None where it has none."""
    same = [curve for curve in curves if curve.strategy == strategy]
    return min(same, key=lambda curve: _distance(curve.params, params), default=None)


def _distance(params: dict[str, Any], wanted: dict[str, Any]) -> tuple[int, float]:
    """First how many parameters that are no numbers differ, then how far the numbers are apart."""
    apart, others = 0.0, 0
    for name, value in wanted.items():
        have = params.get(name)
        if isinstance(value, (int, float)) and isinstance(have, (int, float)):
            apart += abs(have - value)
        else:
            others += have != value
    return others, apart
