"""`weighted-vote`: a vote in which each branch weighs what its confidence (DeepConf, arXiv 2508.15260) or its reward
(weighted best-of-N, arXiv 2206.02336) says.

Rewards are asked for at each arrival, not at the end: while stragglers still run that takes no time of its own; those
of the branches that have finished stand when the deadline comes, where a call at the end would find no time left; and
they let the vote stop early. Confidences are compared with each other, so all branches are waited for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from strategies.base import (
    MAX_BRANCHES,
    SCORER_NEEDS,
    Answer,
    Branch,
    Context,
    Generation,
    Need,
    NoScore,
    Outcome,
    Scorer,
    Shape,
    Strategy,
)
from strategies.base import Params as BaseParams
from strategies.fallback import decide
from strategies.scores import Aggregate, Part, aggregated, certainty, relative
from strategies.stopping import All
from strategies.voting import Vote

MOST = 1.0  # what a reward can weigh


class Params(BaseParams):
    """`weight`: what a vote weighs. `confidence`: the branch's mean token confidence (`part`: or that of its last
    `window` tokens, or of its least confident window), stretched so that the surest branch of the request weighs 1 and
    the least sure `floor`. `process-reward`: its steps' rewards by `aggregate`. `stop`: with rewards `lead` stops once
    the branches still out could not overturn the lead; `all` waits for every branch.
    """

    n: int = Field(8, ge=1, le=MAX_BRANCHES)
    weight: Literal["confidence", "reward", "process-reward"] = "confidence"
    part: Part = "mean"
    window: int = Field(2048, ge=1, le=65_536)
    floor: float = Field(0.5, gt=0.0, le=1.0)
    aggregate: Aggregate = "last"
    stop: Literal["lead", "all"] = "lead"


class WeightedVote(Strategy[Params]):
    """Vote over n samples, weighted by confidence or reward."""

    name = "weighted-vote"
    params_type = Params
    needs: ClassVar[frozenset[Need]] = frozenset({Need.ANSWERS, Need.SAMPLING})

    @classmethod
    def grid(cls) -> list[BaseParams]:
        return [Params(n=n, weight=weight) for n in (4, 8, 16) for weight in ("confidence", "reward", "process-reward")]

    def required(self) -> frozenset[Need]:
        weight = self.params.weight
        return self.needs | {Need.LOGPROBS if weight == "confidence" else SCORER_NEEDS[weight]}

    def shape(self) -> Shape:
        return Shape(branches=self.params.n, stop=All(), votes=False)

    async def run(self, context: Context) -> Outcome:
        if self.params.weight == "confidence":
            return await self._by_confidence(context)
        return await self._by_reward(context, self.params.weight)

    async def _by_confidence(self, context: Context) -> Outcome:
        params, plain = self.params, Vote()
        async with context.sample([Generation(confidence=True)] * params.n) as arrivals:
            async for branch in arrivals:
                plain.add(branch, await context.answer(branch))
        sure = {
            branch.index: certainty(branch.confidence, params.part, params.window)
            for branch, answer in plain.seen
            if answer is not None and branch.confidence
        }
        if not sure:
            note = "no log probabilities came" if sum(plain.counts) else None
            return await decide(context, plain, params.n, note)
        weights = relative(sure, params.floor)
        weighted = Vote()
        for branch, answer in plain.seen:
            weighted.add(branch, answer, weights.get(branch.index, params.floor))
        return weighted.outcome()

    async def _by_reward(self, context: Context, by: Scorer) -> Outcome:
        n, plain, weighted = self.params.n, Vote(), Vote()
        problem: str | None = None
        async with context.sample(n) as arrivals:
            async for branch in arrivals:
                answer = await context.answer(branch)
                plain.add(branch, answer)
                if problem is None:
                    try:
                        weighted.add(branch, answer, await self._reward(context, branch, answer, by))
                    except NoScore as error:
                        problem = str(error)
                    else:
                        if self._decided(weighted.weights, n - weighted.arrived):
                            break
        if problem is not None:
            return await decide(context, plain, n, f"no rewards ({problem})", reward=by != "reward")
        if sum(weighted.weights) > 0:
            return weighted.outcome()
        if sum(plain.counts):
            return await decide(context, plain, n, "all rewards are 0", reward=by != "reward")
        return await decide(context, plain, n)

    async def _reward(self, context: Context, branch: Branch, answer: Answer | None, by: Scorer) -> float:
        """0 to 1. Raises NoScore. A branch that does not vote is not asked about."""
        if answer is None:
            return 0.0
        [steps] = await context.score([branch.text], by)
        return aggregated(steps, self.params.aggregate)

    def _decided(self, weights: Sequence[float], out: int) -> bool:
        """Whether the leader wins even if all branches still `out` agree on the runner-up with the greatest weight.
        (The Beta rule is one of counts.)"""
        if self.params.stop == "all" or not weights:
            return False
        first, second = sorted((*weights, 0.0))[:-3:-1]
        return first > second + out * MOST
