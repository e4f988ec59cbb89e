"""`slim-consistency`, Slim-SC (arXiv 2509.13990): self-consistency that prunes branches which think the same thoughts.

A thought is what stands between two delimiters. Every `every_tokens` the latest whole thoughts of the running branches
are compared: by the cosine of their embeddings, or without an embedding model by the words they share. Of two branches
too much alike one is pruned, for its vote would be no new evidence. The others vote as in `self-consistency`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from random import Random
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from strategies.base import MAX_BRANCHES, Arrivals, Branch, Context, Need, Outcome, Progress, Shape, Strategy
from strategies.base import Params as BaseParams
from strategies.fallback import decide, undecided
from strategies.overlap import overlaps
from strategies.rounds import Rounds
from strategies.stopping import BetaLead
from strategies.voting import Vote

PATIENCE = 2  # rounds that hear nothing of a branch before it no longer counts
MOST_THOUGHTS = 16  # of a branch's own, the latest, when its diversity is judged
NO_EMBEDDINGS = "no embeddings: thoughts were compared by the words they share"
Pair = tuple[Progress, Progress]


class Params(BaseParams):
    """`threshold`: cosine from which two thoughts are alike; `overlap`: share of their words, where there are no
    embeddings. No branch is pruned before it has `warmup_tokens`, and `keep` are left. `prune`: of two alike one at
    `random`, or the one whose own thoughts repeat each other more (`diversity`)."""

    n: int = Field(8, ge=1, le=MAX_BRANCHES)
    every_tokens: int = Field(128, ge=1, le=1 << 20)
    delimiter: str = Field("\n\n", min_length=1, max_length=100)
    threshold: float = Field(0.98, gt=0, le=1.0)
    overlap: float = Field(0.8, gt=0, le=1.0)
    warmup_tokens: int = Field(256, ge=0, le=1 << 20)
    keep: int = Field(2, ge=1, le=MAX_BRANCHES)
    prune: Literal["random", "diversity"] = "diversity"
    seed: int = Field(0, ge=0, le=2**32 - 1)
    confidence: float = Field(0.95, gt=0.5, lt=1.0)

    @model_validator(mode="before")
    @classmethod
    def _default_keep(cls, data: object) -> object:
        if isinstance(data, dict) and "keep" not in data and isinstance(data.get("n"), int):
            return {**data, "keep": max(1, min(2, data["n"]))}
        return data

    @model_validator(mode="after")
    def _order(self) -> Params:
        if self.keep > self.n:
            raise ValueError(f"keep ({self.keep}) cannot be more than n ({self.n})")
        return self


class SlimConsistency(Strategy[Params]):
    """Majority vote over samples that differ."""

    name = "slim-consistency"
    params_type = Params
    needs: ClassVar[frozenset[Need]] = frozenset({Need.ANSWERS, Need.SAMPLING})

    @classmethod
    def grid(cls) -> list[BaseParams]:
        return [Params(n=n) for n in (4, 8, 16)]

    def shape(self) -> Shape:
        return Shape(branches=self.params.n, stop=BetaLead(self.params.confidence), votes=False)

    async def run(self, context: Context) -> Outcome:
        params, vote, rule = self.params, Vote(), BetaLead(self.params.confidence)
        rounds, pruner, pruned = Rounds(params.n, PATIENCE), _Pruner(params), 0
        async with context.watch(params.n, params.every_tokens) as arrivals:
            async for event in arrivals:
                if isinstance(event, Branch):
                    rounds.over(event.place)
                    vote.add(event, await context.answer(event))
                elif due := rounds.gather(event):
                    spare = len(rounds.running) + vote.arrived - params.keep
                    pruned += _drop(await pruner.redundant(context, due, spare), arrivals, rounds)
                if vote.arrived and rule.decided(vote.counts, vote.arrived, params.n - pruned):
                    break
        if undecided(vote, params.n - pruned) is None:
            return vote.outcome(pruner.note)
        return await decide(context, vote, params.n - pruned, pruner.note)


def _drop(branches: Sequence[Progress], arrivals: Arrivals[Branch | Progress], rounds: Rounds) -> int:
    for branch in branches:
        arrivals.drop(branch.index)
        rounds.over(branch.place)
    return len(branches)


@dataclass(slots=True)
class _Pruner:
    """Finds the branches that one can do without. `note`: what it had to do without itself."""

    params: Params
    note: str | None = None
    _random: Random = field(init=False)

    def __post_init__(self) -> None:
        self._random = Random(self.params.seed)

    async def redundant(self, context: Context, running: Sequence[Progress], spare: int) -> list[Progress]:
        """At most `spare` of these."""
        if spare <= 0:
            return []
        thinking = [one for one in running if one.tokens >= self.params.warmup_tokens and self._thoughts(one.text)]
        gone: list[Progress] = []
        for one, other in await self._alike(context, thinking):
            if one not in gone and other not in gone and len(gone) < spare:
                gone.append(self._victim(one, other))
        return gone

    async def _alike(self, context: Context, branches: Sequence[Progress]) -> list[Pair]:
        """Pairs whose latest thoughts are too similar, the most similar first."""
        if len(branches) < 2:
            return []
        latest = [self._thoughts(branch.text)[-1] for branch in branches]
        likeness, least = await context.similarity(latest), self.params.threshold
        if likeness is None:
            likeness, least, self.note = overlaps(latest), self.params.overlap, NO_EMBEDDINGS
        pairs = [(i, j) for i, j in combinations(range(len(branches)), 2) if likeness[i][j] >= least]
        return [(branches[i], branches[j]) for i, j in sorted(pairs, key=lambda pair: -likeness[pair[0]][pair[1]])]

    def _victim(self, one: Progress, other: Progress) -> Progress:
        """Ties, and there are many among young branches, go against the shorter one, then the later one."""
        if self.params.prune == "random":
            return self._random.choice((one, other))
        return max(one, other, key=lambda branch: (self._repeats_itself(branch), -branch.tokens, branch.place))

    def _repeats_itself(self, branch: Progress) -> float:
        """Mean likeness of its own thoughts, 0 to 1, by their words: no wait for embeddings of them all."""
        thoughts = self._thoughts(branch.text)[-MOST_THOUGHTS:]
        pairs = list(combinations(range(len(thoughts)), 2))
        if not pairs:
            return 0.0
        likeness = overlaps(thoughts)
        return sum(likeness[i][j] for i, j in pairs) / len(pairs)

    def _thoughts(self, text: str) -> list[str]:
        """The whole ones: the last is still being written."""
        parts = text.split(self.params.delimiter)[:-1]
        return [thought for part in parts if (thought := part.strip())]
