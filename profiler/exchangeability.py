"""Evidence that fresh samples of a question were drawn from something else than its stored ones: exact e-values.

Where an engine draws what the reference drew, a question's stored and fresh samples are exchangeable: given all of them
together, every choice of n is as likely to be the fresh ones. A bet gives each sample a weight w (above 1 for what it
expects more of) and wins

    e = Π_{fresh} w / mean over all choices of n of their Π w        (the mean is e_n(w) / C(N, n))

which has mean 1 whatever the question's true accuracy and lengths are, and however few samples are stored. Products
over questions, and averages over bets fixed beforehand, are therefore test martingales: by Ville's inequality the
chance that one ever reaches 1/α is at most α, at whatever question one stops. (Conditional form of Turner, Ly &
Grünwald, "Generic E-variables for exact sequential k-sample tests".)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import log

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LOG_ODDS = np.array([s * size for size in (0.25, 0.5, 1.0, 2.0, 4.0) for s in (-1, 1)])  # of being right, fresh/stored
TILTS = np.array([s * size for size in (0.25, 0.5, 1.0, 1.5) for s in (-1, 1)])
LENGTH_SHAPES = (1, 2, 3)  # longer or shorter; spread out or drawn together; lopsided


@dataclass(slots=True)
class Wealth:
    """What a mixture of bets has made of 1, question after question. `logs`: (bets,), each bet's log wealth."""

    logs: Floats = field(default_factory=lambda: np.zeros(1))

    def win(self, log_e: Floats) -> None:
        self.logs = self.logs + log_e

    @property
    def log(self) -> float:
        """Of the mixture that put an equal share on every bet."""
        return float(np.logaddexp.reduce(self.logs) - log(len(self.logs)))


def log_e_of_right(stored: Sequence[bool], fresh: Sequence[bool]) -> Floats:
    """Bets on being right more or less often, (bets,)."""
    right = np.array([*fresh, *stored], float)
    return _log_e(LOG_ODDS[:, None] * right, len(fresh))


def log_e_of_lengths(stored: Sequence[int], fresh: Sequence[int]) -> Floats:
    """Bets on where the fresh lengths rank among all of the question's, (bets,). Ties share their middle rank."""
    ranks = _middle_ranks(np.array([*fresh, *stored]))
    shapes = -np.sqrt(2) * np.cos(np.pi * np.array(LENGTH_SHAPES)[:, None] * ranks)
    return _log_e((TILTS[:, None, None] * shapes).reshape(-1, len(ranks)), len(fresh))


def _middle_ranks(values: NDArray[np.int64]) -> Floats:
    """Each value's share of values below it, plus half of those equal to it, (samples,)."""
    below, equal = values[None] < values[:, None], values[None] == values[:, None]
    return np.asarray(below.mean(axis=1) + equal.mean(axis=1) / 2, float)


def log_e_of_share(hit: bool, most: float) -> Floats:
    """Bets that something happens in a larger share of questions than `most`, (bets,)."""
    shares = most + (1 - most) * np.array([0.1, 0.25, 0.5, 0.75])
    return np.asarray(np.log(shares / most) if hit else np.log((1 - shares) / (1 - most)), float)


def _log_e(log_weights: Floats, fresh: int) -> Floats:
    """`log_weights`: (bets, samples), the first `fresh` columns being the fresh samples. Gives (bets,)."""
    centred = log_weights - log_weights.mean(axis=1, keepdims=True)
    sizes = np.arange(fresh + 1)
    means = np.zeros((len(centred), fresh + 1))  # over the choices of each size among the columns so far, e_k / C(N, k)
    means[:, 0] = 1.0
    for columns, column in enumerate(np.exp(centred).T, 1):
        taken = np.minimum(sizes / columns, 1.0)  # the chance that a choice of that size has this column
        means[:, 1:] = (1 - taken[1:]) * means[:, 1:] + taken[1:] * column[:, None] * means[:, :-1]
    return np.asarray(centred[:, :fresh].sum(axis=1) - np.log(means[:, fresh]), float)
