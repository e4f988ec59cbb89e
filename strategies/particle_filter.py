"""`particle-filter` (arXiv 2502.01618): n particles, resampled after every step by what their rewards say.

A search that keeps the best trusts its reward model; this one draws, so a path that was scored too low may live on.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import exp, log
from random import Random
from typing import ClassVar, Literal

from pydantic import Field

from strategies.base import Params as BaseParams
from strategies.search import Path, SearchParams
from strategies.search_run import Grow, StepSearch

_CERTAIN = 1e-6  # logits of rewards nearer to 0 or 1 would be infinite


class Params(SearchParams):
    """`seed`: of the resampling; the model's own sampling has the request's."""

    seed: int = Field(0, ge=0, le=2**63 - 1)
    pick: Literal["weighted-vote", "reward"] = Field("reward")


class ParticleFilter(StepSearch[Params]):
    """Finished particles are resampled with the others; the search is over when all have finished. The answer is the
    best reward among all that finished, those that a later resampling dropped included."""

    name = "particle-filter"
    params_type: ClassVar[type[BaseParams]] = Params

    @classmethod
    def grid(cls) -> list[BaseParams]:
        return [Params(n=n) for n in (4, 8, 16)]

    def growth(self) -> Grow:
        random = Random(self.params.seed)

        def grow(paths: Sequence[Path], finished: Sequence[Path]) -> list[Path]:
            if not paths:
                return []
            shares = softmax([logit(path.reward) for path in paths])
            return [paths[at] for at in systematic(shares, self.params.n, random.random())]

        return grow


def logit(reward: float) -> float:
    """log(r / (1 − r)), finite at 0 and 1 too."""
    inside = min(max(reward, _CERTAIN), 1 - _CERTAIN)
    return log(inside / (1 - inside))


def softmax(logits: Sequence[float]) -> list[float]:
    """Shares that sum to 1, of at least one."""
    highest = max(logits)
    weights = [exp(value - highest) for value in logits]
    total = sum(weights)
    return [weight / total for weight in weights]


def systematic(shares: Sequence[float], count: int, offset: float) -> list[int]:
    """`count` indices drawn at the points (i + offset) / count of the cumulated shares: each share p comes
    floor(count · p) or ceil(count · p) times. `offset`: uniform in [0, 1)."""
    ends = list(accumulate(shares))
    drawn, at = [], 0
    for i in range(count):
        while at < len(ends) - 1 and (i + offset) / count >= ends[at]:
            at += 1
        drawn.append(at)
    return drawn
