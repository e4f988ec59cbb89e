"""`cascade`: the small model votes first; where its samples disagree, the larger model is asked.

The test is at every arrival, in both directions: escalate as soon as the agreement can no longer reach the threshold,
answer as soon as it must.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from strategies.base import Answer, Branch, Context, Generation, Need, Outcome, Shape, Strategy
from strategies.base import Params as BaseParams
from strategies.fallback import settle
from strategies.part_vote import PartVote
from strategies.prompting import why
from strategies.stopping import All

LARGER = Generation(model="larger")
_ROUNDING = 1e-9
Voted = Sequence[tuple[Branch, Answer | None]]


class Params(BaseParams):
    """`n` samples of the small model; below this `agreement` (the most frequent answer's share of the samples that
    finish, those without an answer included), `larger_n` of the larger one.

    `small_weight`: of a small model's vote in the larger model's, where each weighs 1; 0: the larger model's alone.
    """

    n: int = Field(4, ge=2, le=128)
    agreement: float = Field(0.7, gt=0.0, le=1.0)
    larger_n: int = Field(1, ge=1, le=64)
    small_weight: float = Field(0.0, ge=0.0, le=1.0)


@dataclass(frozen=True, slots=True)
class Threshold:
    """Where the agreement stands to the threshold, whatever the branches that are still out bring."""

    agreement: float

    def reached(self, votes: Sequence[int], total: int) -> bool:
        """Also if all others differ. A branch that fails only raises the share."""
        return max(votes, default=0) >= self.agreement * total - _ROUNDING and bool(votes)

    def lost(self, votes: Sequence[int], arrived: int, total: int) -> bool:
        """Even if all others agree with the most frequent answer."""
        return max(votes, default=0) + total - arrived < self.agreement * total - _ROUNDING


class Cascade(Strategy[Params]):
    """The small model's vote where it agrees, else the larger model's."""

    name = "cascade"
    params_type = Params
    needs: ClassVar[frozenset[Need]] = frozenset({Need.ANSWERS, Need.SAMPLING, Need.LARGER_MODEL})

    @classmethod
    def grid(cls) -> list[BaseParams]:
        return [Params(n=n, agreement=agreement) for n, agreement in ((2, 1.0), (4, 0.7), (4, 1.0), (8, 0.7))]

    def shape(self) -> Shape:
        return Shape(branches=self.params.n + self.params.larger_n, stop=All(), waves=2, votes=False)

    async def run(self, context: Context) -> Outcome:
        small, agreed = await self._small(context)
        if agreed:
            return await _outcome(context, small)
        if context.out_of_time:
            return await _outcome(context, small, "not escalated: the deadline came")
        larger = await self._larger(context, small)
        if not any(answer for _, answer in larger):
            what = "no answer" if larger else f"nothing ({why(context)})"
            first, second = (small, larger) if any(answer for _, answer in small) else (larger, small)
            return await _outcome(context, first, f"escalated, but the larger model gave {what}", second)
        return await self._joined(context, small, larger)

    async def _small(self, context: Context) -> tuple[Voted, bool]:
        total, threshold = self.params.n, Threshold(self.params.agreement)
        voted: list[tuple[Branch, Answer | None]] = []
        vote = PartVote()
        async with context.sample(total) as arrivals:
            async for branch in arrivals:
                voted.append((branch, await context.answer(branch)))
                vote.add(*voted[-1])
                if threshold.reached(vote.counts, total):
                    return voted, True
                if threshold.lost(vote.counts, vote.arrived, total):
                    return voted, False
        return voted, threshold.reached(vote.counts, vote.arrived)

    async def _larger(self, context: Context, small: Voted) -> Voted:
        """Until the branches that are still out could not overturn the lead."""
        total, vote = self.params.larger_n, PartVote()
        larger: list[tuple[Branch, Answer | None]] = []
        if self.params.small_weight:
            _add(vote, small, self.params.small_weight)
        async with context.sample([LARGER] * total) as arrivals:
            async for branch in arrivals:
                larger.append((branch, await context.answer(branch)))
                vote.add(*larger[-1])
                if vote.lead > total - len(larger):
                    break
        return larger

    async def _joined(self, context: Context, small: Voted, larger: Voted) -> Outcome:
        weight = self.params.small_weight
        if not weight:
            return await _outcome(context, larger, "escalated to the larger model", small)
        vote = PartVote()
        _add(vote, larger, 1.0)
        _add(vote, small, weight)
        return vote.outcome("escalated to the larger model")


def _add(vote: PartVote, voted: Voted, weight: float | None = None) -> None:
    for branch, answer in voted:
        vote.add(branch, answer, weight)


async def _outcome(context: Context, voted: Voted, note: str | None = None, others: Voted = ()) -> Outcome:
    """Of these votes; `others` only follow in the ranking."""
    vote = PartVote()
    _add(vote, voted)
    for branch, _ in others:
        vote.add(branch, None)
    return await settle(context, vote, len(voted), note)
