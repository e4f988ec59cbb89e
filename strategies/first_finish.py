"""`first-finish`, short-m@k (arXiv 2505.17813): start k branches, vote over the first m to finish, cancel the rest.

Stragglers, not batching, dominate the latency of parallel samples; and shorter reasoning chains are right more often.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from strategies.base import MAX_BRANCHES, Context, Need, Outcome, Shape, Strategy
from strategies.base import Params as BaseParams
from strategies.fallback import decide
from strategies.stopping import FirstArrivals
from strategies.voting import Vote


class Params(BaseParams):
    """`m` votes out of `n` started branches (the paper's k)."""

    n: int = Field(8, ge=1, le=MAX_BRANCHES)
    m: int = Field(3, ge=1, le=MAX_BRANCHES)

    @model_validator(mode="before")
    @classmethod
    def _default_m(cls, data: object) -> object:
        if isinstance(data, dict) and "m" not in data and isinstance(data.get("n"), int):
            return {**data, "m": max(1, min(3, data["n"]))}
        return data

    @model_validator(mode="after")
    def _order(self) -> Params:
        if self.m > self.n:
            raise ValueError(f"m ({self.m}) cannot be more than n ({self.n})")
        return self


class FirstFinish(Strategy[Params]):
    """Vote over the first m of n; ties to the shortest."""

    name = "first-finish"
    params_type = Params
    needs: ClassVar[frozenset[Need]] = frozenset({Need.ANSWERS, Need.SAMPLING})

    @classmethod
    def grid(cls) -> list[BaseParams]:
        settings = [(2, 1), (4, 1), (4, 3), (8, 1), (8, 3), (8, 5), (16, 3), (16, 5), (16, 9)]
        return [Params(n=n, m=m) for n, m in settings]

    def shape(self) -> Shape:
        return Shape(branches=self.params.n, stop=FirstArrivals(self.params.m))

    async def run(self, context: Context) -> Outcome:
        vote = Vote()
        async with context.sample(self.params.n) as arrivals:
            async for branch in arrivals:
                vote.add(branch, await context.answer(branch))
                if vote.arrived >= self.params.m:
                    break
        return await decide(context, vote, self.params.n)
