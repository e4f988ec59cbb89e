"""`strategy-uniform` (TTS-Uniform, arXiv 2509.17905): samples follow a model's favourite way of solving; give every way
the same share.

One call names the ways while a sample of the plain request runs; each way then gets as many samples, ways whose
answers scatter are dropped, and the rest vote.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from math import log2
from typing import ClassVar

from pydantic import Field

from strategies.answers import split_thinking
from strategies.base import MAX_BRANCHES, Answer, Branch, Context, Generation, Need, Outcome, Shape, Strategy
from strategies.base import Params as BaseParams
from strategies.fallback import settle
from strategies.part_vote import PartVote
from strategies.prompting import listed, lone, why
from strategies.stopping import All, BetaLead

NAME_WAYS = (
    "Question:\n{question}\n\n"
    "Name up to {ways} different strategies for solving it, as a numbered list of one line each. Do not solve it."
)
SOLVE = "Solve it this way: {way}"


class Params(BaseParams):
    """`n` samples: one of the plain request, the others in equal shares over up to so many `ways` (what the division
    leaves over is not spent).

    `max_entropy`: of a stable way's answers, in bits over those of as many different answers as it has samples, 0 to
    1. `naming_tokens`: of the call that names the ways, thinking included. `confidence`: of the stop rule where no
    ways were named, and of not waiting for the plain sample.
    """

    n: int = Field(9, ge=3, le=MAX_BRANCHES - 1)
    ways: int = Field(4, ge=2, le=16)
    max_entropy: float = Field(0.8, ge=0.0, le=1.0)
    naming_tokens: int = Field(2048, ge=16, le=32_768)
    confidence: float = Field(0.95, gt=0.5, lt=1.0)


class StrategyUniform(Strategy[Params]):
    """Majority vote over equal shares of the stable ways."""

    name = "strategy-uniform"
    params_type = Params
    needs: ClassVar[frozenset[Need]] = frozenset({Need.ANSWERS, Need.SAMPLING, Need.CHAT})

    @classmethod
    def grid(cls) -> list[BaseParams]:
        return [Params(n=n, ways=ways) for n, ways in ((7, 2), (9, 4), (13, 4))]

    def shape(self) -> Shape:
        return Shape(branches=self.params.n + 1, stop=All(), waves=2, votes=False)

    async def run(self, context: Context) -> Outcome:
        n, rule = self.params.n, BetaLead(self.params.confidence)
        async with context.sample(1) as plain:
            ways, note = await self._ways(context)
            if ways:
                vote, note = await self._by_ways(context, ways)
            else:
                vote = await self._plainly(context, rule)
            if not rule.decided(vote.counts, n - 1, n):
                async for branch in plain:
                    vote.add(branch, await context.answer(branch))
        return await settle(context, vote, n, note)

    async def _ways(self, context: Context) -> tuple[list[str], str | None]:
        """As many as there are samples for, at most; or none, and why."""
        prompt = NAME_WAYS.format(question=context.question, ways=self.params.ways)
        named = await lone(context, Generation(prompt=prompt, max_tokens=self.params.naming_tokens, final=False))
        if named is None:
            return [], f"no ways were named ({why(context)}): a plain vote"
        ways = listed(split_thinking(named.text)[1], min(self.params.ways, self.params.n - 1))
        return ways, None if ways else "no ways were named (no list was found): a plain vote"

    async def _plainly(self, context: Context, rule: BetaLead) -> PartVote:
        vote, n = PartVote(), self.params.n
        async with context.sample(n - 1) as arrivals:
            async for branch in arrivals:
                vote.add(branch, await context.answer(branch))
                if rule.decided(vote.counts, vote.arrived, n):
                    break
        return vote

    async def _by_ways(self, context: Context, ways: Sequence[str]) -> tuple[PartVote, str | None]:
        share = (self.params.n - 1) // len(ways)
        asked = [Generation(turns=(("user", SOLVE.format(way=way)),)) for way in ways for _ in range(share)]
        arrived: list[tuple[Branch, Answer | None]] = []
        async with context.sample(asked) as arrivals:
            async for branch in arrivals:
                arrived.append((branch, await context.answer(branch)))
        answers: dict[int, list[int]] = {}
        for branch, answer in arrived:
            if answer is not None:
                answers.setdefault(branch.place // share, []).append(answer.group)
        unstable = {way for way, groups in answers.items() if entropy(groups) > self.params.max_entropy}
        note = f"{len(unstable)} of {len(ways)} ways dropped: their answers scatter" if unstable else None
        if unstable and len(unstable) == len(answers):
            unstable, note = set(), "all ways are unstable: none dropped"
        vote = PartVote()
        for branch, answer in arrived:
            vote.add(branch, None if branch.place // share in unstable else answer)
        return vote, note


def entropy(groups: Iterable[int]) -> float:
    """Shannon entropy of answer classes over its greatest value for as many answers, 0 (all agree) to 1 (none do)."""
    counts = Counter(groups)
    total = counts.total()
    if total < 2:
        return 0.0
    return -sum(count / total * log2(count / total) for count in counts.values()) / log2(total)
