"""`none`: one branch, answered as it comes."""

from __future__ import annotations

from typing import ClassVar

from strategies.base import GREEDY, WHOLE, Context, Need, Outcome, Shape, Strategy
from strategies.base import Params as BaseParams
from strategies.stopping import All


class Params(BaseParams):
    """`greedy`: at temperature 0."""

    greedy: bool = False


class Single(Strategy[Params]):
    """No scaling: what a plain request gets, here so that the planner can choose it."""

    name = "none"
    params_type = Params
    needs: ClassVar[frozenset[Need]] = frozenset()

    @classmethod
    def grid(cls) -> list[BaseParams]:
        return [Params(), Params(greedy=True)]

    @classmethod
    def pin(cls, n: int) -> dict[str, int]:
        if n != 1:
            raise ValueError("the strategy none runs one branch; leave n out or choose another strategy")
        return {}

    def required(self) -> frozenset[Need]:
        return self.needs | {Need.FREE_SAMPLING} if self.params.greedy else self.needs

    def shape(self) -> Shape:
        return Shape(branches=1, stop=All(), greedy=self.params.greedy)

    async def run(self, context: Context) -> Outcome:
        async with context.sample([GREEDY if self.params.greedy else WHOLE]) as arrivals:
            async for branch in arrivals:
                return Outcome(ranking=(branch.index,))
        return Outcome(ranking=())
