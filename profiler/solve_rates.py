"""The prior, learned: how a model without labels solves its traffic, from how its votes agree.

The prior takes a question's solve rate p (the chance that a sample is right) to be spread over 0.1 … 0.9, wrong answers
over a few classes. Under that, agreement tells p: votes are simulated for a grid of rates, and the weights of the rates
are what observed agreements make likely (EM for mixture weights, with the prior as pseudo-questions). The accuracy of
every setting is then the same weighted mean. What stays assumed is that samples which agree are right; only labels can
tell otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from profiler import prior
from profiler.votes import Drawn, vote
from strategies.base import Need, Params, Shape, Strategy
from strategies.registry import Registry

DRAWS = 256
BINS = 12
# Rates beyond the prior's range, for models that are nearly always right or wrong: hardly likely until seen.
_RATES = np.array([0.02, *np.arange(0.1, 0.91, 0.1), 0.98])
_WEIGHTS = np.array([0.01, *([0.98 / 8 / 2] + [0.98 / 8] * 7 + [0.98 / 8 / 2]), 0.01])
_PSEUDO_QUESTIONS = float(prior.QUESTIONS)
_MEMORY = 500  # requests; also how far the lower bound may come near: the assumptions stay what they are
_ITERATIONS = 20
_Z_LOWER = 1.645


@dataclass(frozen=True, slots=True)
class RateModel:
    """What each setting would do at each solve rate. S settings, K rates.

    `accuracy` (S, K); `seen` (S, BINS, K): chance of an agreement; `right` (S, BINS, K): of it and a right answer.
    `row`: the setting's index by (strategy, its parameters). `names`, `branches`, `votes`: of those that vote, by that
    index: the strategy, what it starts, and how many had voted on average when it was decided.
    """

    accuracy: np.ndarray
    seen: np.ndarray
    right: np.ndarray
    row: dict[tuple[str, tuple[tuple[str, Any], ...]], int]
    names: dict[int, str]
    branches: dict[int, int]
    votes: dict[int, float]

    def nearest(self, strategy: str, params: dict[str, Any], branches: int) -> int | None:
        """The setting's row, else the strategy's with the nearest number of branches; None where it does not vote."""
        row = self.row.get((strategy, tuple(params.items())))
        if row is not None:
            return row if row in self.names else None
        same = [at for at, name in self.names.items() if name == strategy]
        return min(same, key=lambda at: abs(self.branches[at] - branches), default=None)

    def nearest_vote(self, votes: int) -> int | None:
        """The row of any strategy that decides over about as many votes."""
        return min(self.votes, key=lambda at: abs(self.votes[at] - votes), default=None)


def assumed(registry: Registry) -> list[tuple[type[Strategy[Any]], Params, Shape]]:
    """The settings that a prior can tell of. How right an answer at temperature 0 is, it cannot."""
    return [
        (strategy, params, shape)
        for strategy in registry
        for params in strategy.grid()
        if (shape := strategy(params).shape()).votes and not shape.greedy
    ]


def rate_model(registry: Registry, seed: int = 0) -> RateModel:
    """Of the settings of every strategy's grid, sampled, and the greedy `none` last: the order of the prior's table.
    Simulates for about a tenth of a second."""
    settings = assumed(registry)
    shapes = [shape for _, _, shape in settings]
    drawn = _draws(max(shape.branches for shape in shapes), seed)
    accuracy, seen, right, decided_over = [], [], [], []
    for shape in shapes:
        # The same draws for every setting: they then differ by what they do, not by luck.
        n = shape.branches
        votes = vote(Drawn(drawn.answers[:, :n], drawn.tokens[:, :n], drawn.correct[:, :n]), shape)
        bins = np.array([bin_of(value) for value in votes.agreement.tolist()]).reshape(len(_RATES), DRAWS)
        hits = (bins[None] == np.arange(BINS)[:, None, None]).astype(float)  # (BINS, K, DRAWS)
        correct = votes.correct.reshape(len(_RATES), DRAWS)
        decided_over.append(float(votes.votes.mean()))
        accuracy.append(correct.mean(axis=1))
        seen.append((hits.sum(axis=2) + 0.5) / (DRAWS + 0.5 * BINS))
        right.append(((hits * correct).sum(axis=2) + 0.5 * correct.mean(axis=1)) / (DRAWS + 0.5 * BINS))
    accuracy.append(np.where(_RATES > 0.5, 1.0, np.where(_RATES < 0.5, 0.0, 0.5)))  # at temperature 0: the likelier one
    voting = [i for i, (strategy, _, _) in enumerate(settings) if Need.ANSWERS in strategy.needs]
    return RateModel(
        np.array(accuracy),
        np.array(seen),
        np.array(right),
        {(strategy.name, tuple(params.model_dump().items())): i for i, (strategy, params, _) in enumerate(settings)},
        {i: settings[i][0].name for i in voting},
        {i: shapes[i].branches for i in voting},
        {i: decided_over[i] for i in voting},
    )


def _draws(branches: int, seed: int) -> Drawn:
    """DRAWS draws at each rate, one rate after the other, as the prior has them."""
    rng = np.random.default_rng(seed)
    size = (len(_RATES), DRAWS, branches)
    right = rng.random(size) < _RATES[:, None, None]
    answers = np.where(right, 0, rng.integers(1, prior.WRONG_ANSWERS + 1, size))
    sigma = float(np.sqrt(np.log(1 + prior.LENGTH_CV**2)))
    tokens = rng.lognormal(np.log(prior.MEAN_TOKENS) - sigma**2 / 2, sigma, size).astype(int) + 1
    flat = (len(_RATES) * DRAWS, branches)
    return Drawn(answers.reshape(flat), tokens.reshape(flat), right.reshape(flat))


def bin_of(agreement: float) -> int:
    """0 … BINS−1: tenths, with nothing agreed (no votes) and full agreement apart."""
    return 0 if agreement <= 0 else BINS - 1 if agreement >= 1 else 1 + int(agreement * 10)


class LearnedRates:
    """The weights of the solve rates of one model's traffic, forgetting what is long past. Cheap: a count per request,
    and `settings()` a fraction of a millisecond."""

    def __init__(self, model: RateModel) -> None:
        self._model = model
        self._counts = np.zeros(model.seen.shape[:2])
        self._weights = _WEIGHTS

    def observe(self, row: int, agreement: float) -> float:
        """Count a vote of the setting in that row; the chance that its answer is right, as believed now."""
        at = bin_of(agreement)
        self._counts *= 1 - 1 / _MEMORY
        self._counts[row, at] += 1
        return float(self._model.right[row, at] @ self._weights / (self._model.seen[row, at] @ self._weights))

    def settings(self) -> tuple[np.ndarray, np.ndarray]:
        """Accuracy of every setting and its lower bound, (settings,) each.

        The bound treats weights as a Dirichlet posterior over the pseudo-questions and the requests counted: without
        any it is the bootstrap over the prior's questions.
        """
        self._fit()
        accuracy = self._model.accuracy @ self._weights
        spread = np.maximum(self._model.accuracy**2 @ self._weights - accuracy**2, 0)
        known = _PSEUDO_QUESTIONS + float(self._counts.sum()) + 1
        return accuracy, np.maximum(accuracy - _Z_LOWER * np.sqrt(spread / known), 0)

    def _fit(self) -> None:
        """Dempster, Laird and Rubin's EM (1977) for mixture weights, from where it stood."""
        rows = self._counts > 0
        seen, counts = self._model.seen[rows], self._counts[rows]  # (observed, K), (observed,)
        for _ in range(_ITERATIONS):
            joint = seen * self._weights
            responsible = counts @ (joint / joint.sum(axis=1, keepdims=True))
            whole = _PSEUDO_QUESTIONS * _WEIGHTS + responsible
            self._weights = whole / whole.sum()
