"""`best-of-n` (arXiv 2110.14168): sample n answers, answer with the one that a scorer likes best.

It needs no way to compare answers, so it serves free text too. Every answer is scored at its arrival, not at the end:
that hides the scorer behind the stragglers, and what is scored when the deadline comes counts.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import ClassVar, Literal

from pydantic import Field

from strategies.base import (
    MAX_BRANCHES,
    SCORER_NEEDS,
    WHOLE,
    Arrivals,
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
from strategies.judging import judging, read_score
from strategies.ranking import ranking
from strategies.scores import Aggregate, aggregated, certainty
from strategies.stopping import All
from strategies.voting import Vote


class Params(BaseParams):
    """`scorer`: an outcome reward, a process reward (its steps by `aggregate`), a reranker, a judge that grades each
    answer from 0 to 10 in at most `judge_tokens`, or the branch's own mean token confidence (self-certainty)."""

    n: int = Field(8, ge=1, le=MAX_BRANCHES)
    scorer: Literal["reward", "process-reward", "reranker", "judge", "self-certainty"] = "reward"
    aggregate: Aggregate = "last"
    judge_tokens: int = Field(512, ge=1, le=32_768)


class BestOfN(Strategy[Params]):
    """The best of n samples, by a scorer."""

    name = "best-of-n"
    params_type = Params
    needs: ClassVar[frozenset[Need]] = frozenset({Need.SAMPLING})

    @classmethod
    def grid(cls) -> list[BaseParams]:
        scorers: tuple[Literal["self-certainty", "reward", "process-reward", "reranker", "judge"], ...]
        scorers = ("self-certainty", "reward", "process-reward", "reranker", "judge")
        return [Params(n=n, scorer=scorer) for n in (4, 8) for scorer in scorers]

    def required(self) -> frozenset[Need]:
        match self.params.scorer:
            case "judge":
                return self.needs | {Need.JUDGE}
            case "self-certainty":
                return self.needs | {Need.LOGPROBS}
            case scorer:
                return self.needs | {SCORER_NEEDS[scorer]}

    def shape(self) -> Shape:
        waves = 2 if self.params.scorer == "judge" else 1
        return Shape(branches=self.params.n, stop=All(), waves=waves, votes=False)

    async def run(self, context: Context) -> Outcome:
        seen = Vote()
        scores, problem = dict[int, float](), "it failed"
        match self.params.scorer:
            case "judge":
                scores = await self._judged(context, seen)
            case "self-certainty":
                scores, problem = await self._certainties(context, seen), "no log probabilities came"
            case by:
                scores, problem = await self._rewarded(context, seen, by)
        return await self._outcome(context, seen, scores, problem)

    async def _rewarded(self, context: Context, seen: Vote, by: Scorer) -> tuple[dict[int, float], str]:
        """Scores by branch index, as far as there were any, and why there were no more."""
        scores, problem = dict[int, float](), ""
        async with context.sample(self.params.n) as arrivals:
            async for branch in arrivals:
                seen.add(branch, await context.answer(branch))
                if problem or self.params.n == 1:
                    continue
                try:
                    [values] = await context.score([branch.text], by)
                except NoScore as error:
                    problem = str(error) or "it failed"
                    continue
                if by == "process-reward":
                    scores[branch.index] = aggregated(values, self.params.aggregate)
                elif values:
                    scores[branch.index] = values[-1]
        return scores, problem

    async def _certainties(self, context: Context, seen: Vote) -> dict[int, float]:
        what = Generation(confidence=True) if self.params.n > 1 else WHOLE
        async with context.sample([what] * self.params.n) as arrivals:
            async for branch in arrivals:
                seen.add(branch, await context.answer(branch))
        return {branch.index: certainty(branch.confidence) for branch, _ in seen.seen if branch.confidence}

    async def _judged(self, context: Context, seen: Vote) -> dict[int, float]:
        """Each judgement starts when its answer arrives, and is read when all have."""
        scores = dict[int, float]()
        async with AsyncExitStack() as judgements:
            begun: list[tuple[Branch, Arrivals[Branch]]] = []
            async with context.sample(self.params.n) as arrivals:
                async for branch in arrivals:
                    seen.add(branch, await context.answer(branch))
                    what = judging(context.question, branch.text, self.params.judge_tokens)
                    if what is not None and self.params.n > 1:
                        begun.append((branch, await judgements.enter_async_context(context.sample([what]))))
            for branch, judgement in begun:
                async for reply in judgement:
                    score = read_score(reply.text)
                    if score is not None:
                        scores[branch.index] = score
        return scores

    async def _outcome(self, context: Context, seen: Vote, scores: dict[int, float], problem: str) -> Outcome:
        """By the scores where at least half of the answers have one: the best of fewer is hardly better than any."""
        params, arrived = self.params, seen.arrived
        if arrived > 1 and 2 * len(scores) < arrived:
            reason = problem if not scores else f"only {len(scores)} of {arrived} answers were scored"
            note = f"no choice by {params.scorer} ({reason})"
            return await decide(context, seen, params.n, note, reward=params.scorer != "reward")
        order = ranking(seen.seen, scores)
        answers = {branch.index: answer for branch, answer in seen.seen if answer is not None}
        best = answers.get(order[0]) if order else None
        missing = arrived - len(scores) if arrived > 1 else 0
        return Outcome(
            order,
            answer=best.text if best is not None else None,
            note=f"{missing} of {arrived} answers had no score by {params.scorer}" if missing else None,
        )
