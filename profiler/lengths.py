"""How long answers are when some were cut at a limit, and whether long ones are right less often.

A sample that ended by `finish_reason: "length"` would have gone on: it says "longer than this". Kaplan and Meier's
estimate (1958) uses it as that; leaving it out, or taking the limit for its length, makes answers look short.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from profiler.quality_file import StoredQuestion
from profiler.quality_sections import Correlation, Lengths

PERCENTS = (5, 10, 25, 50, 75, 90, 95, 99)
CUT = "length"


def lengths(pool: Sequence[StoredQuestion]) -> Lengths:
    """Of the sampled (not the greedy) answers of all questions together."""
    samples = [sample for question in pool for sample in question.samples]
    tokens = np.array([sample.tokens for sample in samples])
    cut = np.array([sample.finish_reason == CUT for sample in samples])
    at, surviving = survival(tokens, cut)
    within, overall = _correlations(pool)
    return Lengths(
        samples=len(samples),
        cut=round(float(cut.mean()), 4),
        longest=int(tokens.max()),
        restricted_mean=round(restricted_mean(at, surviving), 2),
        quantiles={f"p{percent}": quantile(at, surviving, percent / 100) for percent in PERCENTS},
        within_questions=within,
        overall=overall,
    )


def survival(tokens: np.ndarray, cut: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kaplan–Meier: P(length > t) right after each distinct length t, both (distinct,), ascending in t.

    `tokens` (samples,); `cut` (samples,): the sample would have been longer.
    """
    from scipy.stats import CensoredData, ecdf  # takes a second to import, and only deriving a table needs it

    found = ecdf(CensoredData.right_censored(tokens, cut)).sf
    return found.quantiles, found.probabilities


def quantile(at: np.ndarray, surviving: np.ndarray, q: float) -> int | None:
    """The least length that a share `q` does not exceed; None where fewer were seen to end."""
    reached = np.flatnonzero(surviving <= 1 - q + 1e-12)
    return int(at[reached[0]]) if len(reached) else None


def restricted_mean(at: np.ndarray, surviving: np.ndarray) -> float:
    """E[min(length, longest seen)]: the area under the survival curve."""
    return float((np.diff(at, prepend=0) * np.concatenate(([1.0], surviving[:-1]))).sum())


def _correlations(pool: Sequence[StoredQuestion]) -> tuple[Correlation | None, Correlation | None]:
    """Spearman's rank correlation of length with being right: within questions, and overall.

    By ranks, in which all that were cut at one limit share the last place: their true lengths are not needed. Within:
    both centred on the question's mean, over the questions that have right and wrong answers.
    """
    from scipy.stats import rankdata

    tokens = [np.array([sample.tokens for sample in question.samples]) for question in pool]
    right = [np.array([sample.correct for sample in question.samples], float) for question in pool]
    ranks = np.split(rankdata(np.concatenate(tokens)), np.cumsum([len(each) for each in tokens])[:-1])
    mixed = [
        (rankdata(t) / len(t) - (len(t) + 1) / (2 * len(t)), r - r.mean())
        for t, r in zip(tokens, right, strict=True)
        if 0 < r.mean() < 1
    ]
    return _correlation(mixed), _correlation(list(zip(ranks, right, strict=True)))


def _correlation(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], draws: int = 1000, seed: int = 0
) -> Correlation | None:
    """Pearson's correlation of all pairs together; the interval draws whole questions with replacement."""
    if not pairs:
        return None
    sums = np.array([(len(x), x.sum(), y.sum(), x @ x, y @ y, x @ y) for x, y in pairs])  # (questions, 6)
    value = _from_sums(sums.sum(axis=0))
    if np.isnan(value):
        return None
    picks = np.random.default_rng(seed).integers(len(sums), size=(draws, len(sums)))
    drawn = _from_sums(np.moveaxis(sums[picks].sum(axis=1), 1, 0))
    lower, upper = np.nanquantile(drawn, (0.05, 0.95))
    return Correlation(round(float(value), 4), round(float(lower), 4), round(float(upper), 4))


def _from_sums(sums: np.ndarray) -> np.ndarray:
    """Pearson's r from n, Σx, Σy, Σx², Σy², Σxy, (6, …); NaN where one does not vary."""
    n, x, y, xx, yy, xy = sums
    spread = (xx - x * x / n) * (yy - y * y / n)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(spread > 1e-12, (xy - x * y / n) / np.sqrt(np.maximum(spread, 0)), np.nan)
