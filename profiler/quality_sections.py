"""The optional sections of a quality file: what the stored samples say beyond the accuracy of each setting."""

from __future__ import annotations

from typing import Any

import msgspec


class BudgetCurve(msgspec.Struct, frozen=True):
    """One setting's accuracy when every branch is cut at a token budget and a cut branch abstains.

    `tokens`: budgets, ascending, the last one the longest sample; `accuracy`, `accuracy_lower` (5th percentile of the
    bootstrap over questions): one per budget.
    """

    strategy: str
    params: dict[str, Any]
    greedy: bool
    tokens: list[int]
    accuracy: list[float]
    accuracy_lower: list[float]


class Correlation(msgspec.Struct, frozen=True):
    """A rank correlation, −1 to 1, with the 90 % interval of a bootstrap over questions."""

    value: float
    lower: float
    upper: float


class Lengths(msgspec.Struct, frozen=True):
    """How long sampled answers are, in completion tokens; Kaplan–Meier, so answers cut at a limit count as "longer".

    `cut`: share of samples that were cut; `quantiles`: by percent, None where too many were cut to know;
    `restricted_mean`: of min(length, `longest`). `within_questions`, `overall`: correlation of length with being right;
    None where lengths or answers do not vary.
    """

    samples: int
    cut: float
    longest: int
    restricted_mean: float
    quantiles: dict[str, int | None]
    within_questions: Correlation | None
    overall: Correlation | None


class AgreementCurve(msgspec.Struct, frozen=True):
    """One voting setting: how often an answer is right, by the share of the votes that it won.

    `agreement` (ascending, 0: nobody voted) and `accuracy` (never falling) are the knots of a line. `mean` and
    `deviation` of that accuracy over the task's requests. `branches`: started; `votes`: had come, on average, when it
    was decided.
    """

    strategy: str
    params: dict[str, Any]
    branches: int
    votes: float
    agreement: list[float]
    accuracy: list[float]
    mean: float
    deviation: float
