"""`rebase`, reward balanced search (arXiv 2408.00724): a path gets as many next steps as its reward deserves."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, exp
from typing import ClassVar

from pydantic import Field

from strategies.base import Params as BaseParams
from strategies.search import Path, SearchParams
from strategies.search_run import Grow, StepSearch

_ROUNDING = 1e-9  # a whole share must not become one more by the error of a sum


class Params(SearchParams):
    """`balance`: the softmax temperature T of the rewards; towards 0 the best path gets every step."""

    balance: float = Field(0.2, gt=0, le=100)


class Rebase(StepSearch[Params]):
    """n next steps a wave, less the paths that have finished; all of these are in the final choice."""

    name = "rebase"
    params_type: ClassVar[type[BaseParams]] = Params

    @classmethod
    def grid(cls) -> list[BaseParams]:
        return [Params(n=n) for n in (4, 8, 16)]

    def growth(self) -> Grow:
        return self._grow

    def _grow(self, paths: Sequence[Path], finished: Sequence[Path]) -> list[Path]:
        live = [path for path in paths if not path.finished]
        counts = children([path.reward for path in live], self.params.n - len(finished), self.params.balance)
        return [path for path, count in zip(live, counts, strict=True) for _ in range(count)]


def children(rewards: Sequence[float], budget: int, balance: float) -> list[int]:
    """Of each node its number of children: in descending order of reward ceil(B · w / Σw), w = exp(R / T), where B and
    Σ lose what the nodes before took. They sum to the budget (0 below 0)."""
    counts = [0] * len(rewards)
    highest = max(rewards, default=0.0)
    weights = [exp((reward - highest) / balance) for reward in rewards]
    left = max(budget, 0)
    order = sorted(range(len(rewards)), key=lambda at: -rewards[at])
    for rank, at in enumerate(order):
        total = sum(weights[other] for other in order[rank:])
        if left == 0 or total == 0:
            break
        counts[at] = ceil(left * weights[at] / total - _ROUNDING)
        left -= counts[at]
    return counts
