"""`none`: one branch, answered as it comes."""

from __future__ import annotations

from typing import ClassVar

from strategies.base import Context, Need, Outcome, Shape, Strategy
from strategies.base import Params as BaseParams
from strategies.stopping import All


class Params(BaseParams):
    """No parameters."""


class Single(Strategy[Params]):
    """No scaling: what a plain request gets, here so that the planner can choose it."""

    name = "none"
    params_type = Params
    needs: ClassVar[frozenset[Need]] = frozenset()

    @classmethod
    def grid(cls) -> list[BaseParams]:
        return [Params()]

    @classmethod
    def pin(cls, n: int) -> dict[str, int]:
        if n != 1:
            raise ValueError("the strategy none runs one branch; leave n out or choose another strategy")
        return {}

    def shape(self) -> Shape:
        return Shape(branches=1, stop=All())

    async def run(self, context: Context) -> Outcome:
        async with context.sample(1) as arrivals:
            async for branch in arrivals:
                return Outcome(ranking=(branch.index,))
        return Outcome(ranking=())
