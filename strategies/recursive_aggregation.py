"""`recursive-aggregation` (RSA, arXiv 2509.26626): a population of answers, each replaced round by round by an
aggregation of k random ones; a vote over the last population.

An aggregation that fails, is cut off, or comes after the deadline leaves the member in its place, so that there is an
answer from the first arrival on.
"""

from __future__ import annotations

from random import Random
from typing import ClassVar

from pydantic import Field, model_validator

from strategies.base import MAX_BRANCHES, WHOLE, Branch, Context, Generation, Need, Outcome, Shape, Strategy
from strategies.base import Params as BaseParams
from strategies.fallback import settle
from strategies.part_vote import PartVote
from strategies.prompting import all_of, numbered, replaces, visible, why
from strategies.stopping import All

AGGREGATE = (
    "Here are candidate answers to the request above; some parts may be right, others wrong.\n\n{candidates}\n\n"
    "Combine what is right in them into one improved answer, or try another way where all are wrong. "
    "Answer the request, in the form it asks for."
)


class Params(BaseParams):
    """A population of `n`, of which `k` at a time (at most all) are aggregated, in so many `rounds` after the first.

    `seed`: of the choice of subsets. `answer_chars`: of each member in a prompt.
    """

    n: int = Field(8, ge=2, le=64)
    k: int = Field(4, ge=1, le=16)
    rounds: int = Field(2, ge=1, le=10)
    seed: int = Field(0, ge=0, le=2**32 - 1)
    answer_chars: int = Field(4000, ge=200, le=100_000)

    @model_validator(mode="after")
    def _bounded(self) -> Params:
        branches = self.n * (1 + self.rounds)
        if branches > MAX_BRANCHES:
            raise ValueError(f"n · (1 + rounds) is {branches}, more than {MAX_BRANCHES} branches; lower n or rounds")
        return self


class RecursiveAggregation(Strategy[Params]):
    """The last population's vote; its newest arrival where answers cannot be grouped."""

    name = "recursive-aggregation"
    params_type = Params
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CHAT, Need.SAMPLING})

    @classmethod
    def grid(cls) -> list[BaseParams]:
        return [Params(n=n, k=k, rounds=rounds) for n, k, rounds in ((4, 2, 1), (4, 2, 2), (8, 4, 2))]

    def shape(self) -> Shape:
        n, waves = self.params.n, 1 + self.params.rounds
        return Shape(branches=n * waves, stop=All(), window=n, waves=waves, votes=False)

    async def run(self, context: Context) -> Outcome:
        rounds, random, note = self.params.rounds, Random(self.params.seed), None
        population = await all_of(context, [WHOLE] * self.params.n)
        newest_first = list(population)
        for number in range(1, rounds + 1):
            generations = self._aggregations(population, random)
            if not generations:
                note = "no aggregation (no member has a text)" if population else None
                break
            fresh = await all_of(context, generations)
            kept = [branch for branch in fresh if replaces(branch, population[branch.place])]
            for branch in kept:
                population[branch.place] = branch
            newest_first = kept + newest_first
            if len(fresh) < len(generations) and context.out_of_time:
                note = f"round {number} of {rounds}: {len(fresh)} of {len(generations)} came ({why(context)})"
                break
        return await _voted(context, population, newest_first, note)

    def _aggregations(self, population: list[Branch], random: Random) -> list[Generation]:
        """One for each member; none where no member says anything that a prompt could hold."""
        texts = [text for member in population if (text := visible(member, self.params.answer_chars))]
        if not texts:
            return []
        subsets = [random.sample(texts, min(self.params.k, len(texts))) for _ in population]
        prompts = [AGGREGATE.format(candidates=numbered(subset, "Candidate")) for subset in subsets]
        return [Generation(turns=(("user", prompt),)) for prompt in prompts]


async def _voted(context: Context, population: list[Branch], newest_first: list[Branch], note: str | None) -> Outcome:
    """Members vote, newest first; those that were replaced only follow in the ranking."""
    vote, members = PartVote(), {member.index for member in population}
    for branch in newest_first:
        if branch.index in members:
            vote.add(branch, await context.answer(branch))
    for branch in newest_first:
        if branch.index not in members:
            vote.add(branch, None)
    return await settle(context, vote, len(population), note)
