"""What votes tell of accuracy without labels: per model and task, from the agreement of finished requests.

A task with a quality table has a map from agreement to correctness. Traffic like the task's agrees as the table
expects; a lasting difference is an alarm (`TableWatch`). A task without one runs on the prior, which is then learned
(`PriorWatch`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, Protocol

import numpy as np

from profiler.quality_sections import AgreementCurve
from profiler.solve_rates import LearnedRates, RateModel
from profiler.vote_agreement import accuracy_at, nearest

log = logging.getLogger("paretoproxy")


@dataclass(frozen=True, slots=True)
class Voted:
    """A finished vote of `branches`: the winner had the share `agreement` (0 without votes) of `votes`.

    `cut`: by the deadline, so that fewer had come than the strategy wanted. Such a vote counts as one of a setting that
    decides over as few: leaving it out would keep the easy questions, whose answers are short.
    """

    strategy: str
    params: dict[str, Any]
    branches: int
    votes: int
    agreement: float
    cut: bool = False

    @property
    def tells(self) -> bool:
        """One vote agrees with itself, and none may mean no time: where a deadline cut, neither says anything."""
        return not self.cut or self.votes > 1


class QualityWatch(Protocol):
    """`expected`: the accuracy that lately answered requests are expected to have; None before the first vote.
    `drift`: 1 if they agree lastingly more than the table expects, −1 if less, else 0."""

    drift: int

    @property
    def expected(self) -> float | None: ...

    def observe(self, voted: Voted) -> None: ...


class Recent:
    """A mean that forgets: of all values while they are few, then of about the last fifty."""

    GAIN = 0.02

    def __init__(self) -> None:
        self.mean: float | None = None
        self._seen = 0

    def add(self, value: float) -> None:
        self._seen += 1
        before = value if self.mean is None else self.mean
        self.mean = before + max(self.GAIN, 1 / self._seen) * (value - before)


class Drift:
    """A two-sided cumulative sum (Page, 1954) of standardised differences.

    Of independent scores with mean 0 and deviation 1, skewed as those of votes are, it raises a false alarm less than
    once in 10,000; a lasting shift by one deviation is told within about 25 scores, by half a deviation within about
    100. An alarm stays until its sum has fallen to 0 again.
    """

    ALLOWANCE = 0.25
    LIMIT = 16.0

    def __init__(self, uncertainty: float = 0.0) -> None:
        """`uncertainty`: of the expected mean itself, in deviations: that much is no drift."""
        self._allowance = self.ALLOWANCE + uncertainty
        self._above = self._below = 0.0
        self.alarm = 0

    def add(self, score: float) -> bool:
        """Whether the alarm has just changed."""
        self._above = min(self.LIMIT, max(0.0, self._above + score - self._allowance))
        self._below = min(self.LIMIT, max(0.0, self._below - score - self._allowance))
        before = self.alarm
        if self._below >= self.LIMIT:
            self.alarm = -1
        elif self._above >= self.LIMIT:
            self.alarm = 1
        elif (self.alarm > 0 and self._above == 0) or (self.alarm < 0 and self._below == 0):
            self.alarm = 0
        return self.alarm != before


class TableWatch:
    """One model on a task with a table of `questions` labelled ones."""

    _LEAST_DEVIATION = 0.02  # votes that always agree (m = 1) tell nothing

    def __init__(self, model: str, task: str, curves: Sequence[AgreementCurve], questions: int) -> None:
        self._name = f"model {model}, task {task}"
        self._curves = [curve for curve in curves if curve.deviation >= self._LEAST_DEVIATION]
        self._found: dict[Hashable, AgreementCurve | None] = {}
        self._recent, self._tabled = Recent(), Recent()
        self._drift = Drift(1 / sqrt(max(questions, 1)))
        self.drift = 0

    @property
    def expected(self) -> float | None:
        return self._recent.mean

    def observe(self, voted: Voted) -> None:
        curve = self._curve(voted)
        if curve is None or not voted.tells:
            return
        if voted.cut:
            curve = min(self._curves, key=lambda c: (abs(c.votes - voted.votes), abs(c.branches - voted.branches)))
        accuracy = accuracy_at(curve, voted.agreement)
        self._recent.add(accuracy)
        self._tabled.add(curve.mean)
        if self._drift.add((accuracy - curve.mean) / curve.deviation):
            self.drift = self._drift.alarm
            self._tell()

    def _curve(self, voted: Voted) -> AgreementCurve | None:
        key = (voted.strategy, tuple(voted.params.items()))
        if key not in self._found:
            if len(self._found) > 500:  # clients may pin anything
                self._found.clear()
            self._found[key] = nearest(self._curves, voted.strategy, voted.params)
        return self._found[key]

    def _tell(self) -> None:
        if not self.drift:
            log.warning("%s: votes agree as the quality table expects again", self._name)
            return
        log.warning(
            "%s: votes agree %s than on the labelled questions, as if accuracy were %.2f instead of %.2f. Other "
            "questions, other sampling parameters or a changed model? Check with `paretoproxy quality`.",
            self._name,
            "more" if self.drift > 0 else "less",
            self._recent.mean,
            self._tabled.mean,
        )


class PriorWatch:
    """One model on a task without a table. `believe` is given accuracy and lower bound of every setting, (settings,)
    each, once per `EVERY` votes."""

    EVERY = 16

    def __init__(self, model: RateModel, believe: Callable[[np.ndarray, np.ndarray], None]) -> None:
        self._model, self._believe = model, believe
        self._rates, self._recent = LearnedRates(model), Recent()
        self._seen = 0
        self.drift = 0  # a prior is not expected to be right: it is replaced, not watched

    def move_to(self, believe: Callable[[np.ndarray, np.ndarray], None]) -> None:
        """After a reload: the same model's settings stand elsewhere. They are told what was learned."""
        self._believe = believe
        if self._seen >= self.EVERY:
            believe(*self._rates.settings())

    @property
    def expected(self) -> float | None:
        return self._recent.mean

    def observe(self, voted: Voted) -> None:
        row = self._model.nearest(voted.strategy, voted.params, voted.branches)
        if row is None or not voted.votes or not voted.tells:
            return
        if voted.cut:
            row = self._model.nearest_vote(voted.votes)
            assert row is not None  # there is one that votes
        self._recent.add(self._rates.observe(row, voted.agreement))
        self._seen += 1
        if self._seen % self.EVERY == 0:
            self._believe(*self._rates.settings())
