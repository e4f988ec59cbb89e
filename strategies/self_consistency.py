"""`self-consistency` (arXiv 2203.11171): sample n answers together, answer with the most frequent one.

All branches start at once, so that the backend's prefix cache serves them and the wall time is that of one wave; the
vote is tested at every arrival and the rest is cancelled as soon as the stop rule holds.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from strategies.base import MAX_BRANCHES, Context, Need, Outcome, Shape, StopRule, Strategy
from strategies.base import Params as BaseParams
from strategies.fallback import decide
from strategies.stopping import All, BetaLead
from strategies.voting import Vote


class Params(BaseParams):
    """`stop`: `beta` stops at a lead of this `confidence`; `all` waits for every branch."""

    n: int = Field(8, ge=1, le=MAX_BRANCHES)
    stop: Literal["beta", "all"] = "beta"
    confidence: float = Field(0.95, gt=0.5, lt=1.0)


class SelfConsistency(Strategy[Params]):
    """Majority vote over n samples."""

    name = "self-consistency"
    params_type = Params
    needs: ClassVar[frozenset[Need]] = frozenset({Need.ANSWERS, Need.SAMPLING})

    @classmethod
    def grid(cls) -> list[BaseParams]:
        return [Params(n=n) for n in (2, 3, 4, 5, 6, 8, 10, 12, 16)]

    def shape(self) -> Shape:
        return Shape(branches=self.params.n, stop=self._rule())

    async def run(self, context: Context) -> Outcome:
        rule, total, vote = self._rule(), self.params.n, Vote()
        async with context.sample(total) as arrivals:
            async for branch in arrivals:
                vote.add(branch, await context.answer(branch))
                if rule.decided(vote.counts, vote.arrived, total):
                    break
        return await decide(context, vote, total)

    def _rule(self) -> StopRule:
        return All() if self.params.stop == "all" else BetaLead(self.params.confidence)
