"""`self-consistency` (arXiv 2203.11171): sample n answers together, answer with the most frequent one.

All branches start at once, so that the backend's prefix cache serves them and the wall time is that of one wave; the
vote is tested at every arrival and the rest is cancelled as soon as the stop rule holds.
"""

from __future__ import annotations

from math import ceil
from typing import ClassVar, Literal

from pydantic import Field

from strategies.base import MAX_BRANCHES, Context, Need, Outcome, Shape, StopRule, Strategy
from strategies.base import Params as BaseParams
from strategies.fallback import decide
from strategies.stopping import All, BetaLead
from strategies.voting import Vote


class Params(BaseParams):
    """`stop`: `beta` stops at a lead of this `confidence`; `all` waits for every branch; `esc` (Early-stopping
    Self-Consistency, arXiv 2401.10480) starts `window` at a time and stops once all of a window agree."""

    n: int = Field(8, ge=1, le=MAX_BRANCHES)
    stop: Literal["beta", "all", "esc"] = "beta"
    confidence: float = Field(0.95, gt=0.5, lt=1.0)
    window: int = Field(5, ge=2, le=MAX_BRANCHES)


class SelfConsistency(Strategy[Params]):
    """Majority vote over n samples."""

    name = "self-consistency"
    params_type = Params
    needs: ClassVar[frozenset[Need]] = frozenset({Need.ANSWERS, Need.SAMPLING})

    @classmethod
    def grid(cls) -> list[BaseParams]:
        started = [Params(n=n) for n in (2, 3, 4, 5, 6, 8, 10, 12, 16)]
        return [*started, Params(n=16, stop="esc", window=4)]

    def shape(self) -> Shape:
        n, window = self.params.n, self.params.window
        if self.params.stop == "esc" and n > window:
            return Shape(branches=n, stop=All(), window=window, waves=ceil(n / window))
        return Shape(branches=n, stop=self._rule())

    async def run(self, context: Context) -> Outcome:
        if self.params.stop == "esc":
            return await self._in_windows(context)
        rule, total, vote = self._rule(), self.params.n, Vote()
        async with context.sample(total) as arrivals:
            async for branch in arrivals:
                vote.add(branch, await context.answer(branch))
                if rule.decided(vote.counts, vote.arrived, total):
                    break
        return await decide(context, vote, total)

    async def _in_windows(self, context: Context) -> Outcome:
        vote, left = Vote(), self.params.n
        while left and not context.out_of_time:
            size = min(self.params.window, left)
            groups, left = set[int | None](), left - size
            async with context.sample(size) as arrivals:
                async for branch in arrivals:
                    answer = await context.answer(branch)
                    groups.add(answer.group if answer is not None else None)
                    vote.add(branch, answer)
            if size == self.params.window and len(groups) == 1 and None not in groups:
                break
        return vote.outcome()

    def _rule(self) -> StopRule:
        return BetaLead(self.params.confidence) if self.params.stop == "beta" else All()
