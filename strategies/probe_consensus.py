r"""`probe-consensus`: running branches are asked, every so many tokens, what they would answer now; it stops once
enough of them keep saying the same.

A probe goes on from what a branch has written so far with "</think> The answer is \boxed{" and generates the few tokens
of an answer (Dynasor's Certaindex, arXiv 2412.20993). A branch whose last `patience` probes agree has settled; with
`consensus` of the branches settled on one answer it is given, by a finished branch or else by a probe, whose text is
thinking and answer. A branch that `patience` times disagreed with such a share of the others is dropped
(Parallel-Probe, arXiv 2602.03845). The branches go on while their probes run, and share their prefix with them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from pydantic import Field

from strategies.answers import CLOSE
from strategies.base import (
    MAX_BRANCHES,
    Answer,
    Arrivals,
    Branch,
    Context,
    Generation,
    Need,
    Outcome,
    Progress,
    Shape,
    Strategy,
)
from strategies.base import Params as BaseParams
from strategies.classes import count
from strategies.fallback import settle
from strategies.rounds import Rounds
from strategies.stopping import All

LINE = "\n"
BEHIND = 1 << 40  # what a branch wrote to its end answers for its class before any probe does


class Params(BaseParams):
    """`every_tokens`: between the probes of a branch. `probe`: what asks for the answer; its `</think>` is left out
    where the thinking has ended. `consensus`: share of the branches, the finished ones included."""

    n: int = Field(8, ge=1, le=MAX_BRANCHES)
    every_tokens: int = Field(256, ge=1, le=1 << 20)
    patience: int = Field(2, ge=1, le=16)
    consensus: float = Field(0.7, gt=0.5, le=1.0)
    drop_deviants: bool = True
    probe: str = Field("\n</think>\nThe answer is \\boxed{", min_length=1, max_length=1000)
    probe_tokens: int = Field(20, ge=1, le=256)


class ProbeConsensus(Strategy[Params]):
    """Stops thinking that no longer changes the answer."""

    name = "probe-consensus"
    params_type = Params
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CONTINUATION, Need.ANSWERS})

    @classmethod
    def grid(cls) -> list[BaseParams]:
        return [Params(n=n, patience=patience) for n, patience in ((1, 3), (4, 2), (8, 2), (16, 2))]

    def required(self) -> frozenset[Need]:
        return self.needs if self.params.n == 1 else self.needs | {Need.SAMPLING}

    def shape(self) -> Shape:
        return Shape(branches=self.params.n, stop=All(), votes=False)

    async def run(self, context: Context) -> Outcome:
        params, poll = self.params, _Poll(self.params)
        rounds = Rounds(params.n, params.patience)
        async with context.watch(params.n, params.every_tokens) as arrivals:
            async for event in arrivals:
                if isinstance(event, Branch):
                    rounds.over(event.place)
                    poll.finish(event, await context.answer(event))
                elif due := rounds.gather(event):
                    await self._probe(context, due, poll)
                    self._drop_deviants(due, rounds, poll, arrivals)
                if poll.decided(rounds.running):
                    break
        return await poll.outcome(context, rounds.running)

    async def _probe(self, context: Context, due: Sequence[Progress], poll: _Poll) -> None:
        probes = [self._generation(progress) for progress in due]
        unheard = {progress.place for progress in due}
        async with context.sample(probes) as arrivals:
            async for probe in arrivals:
                progress = due[probe.place]
                unheard.discard(progress.place)
                said = probe.text[len(probes[probe.place].continues) :]
                whole = not self.params.probe.endswith("{") or "}" in said  # a box left open is no answer
                answer = await context.answer(probe) if whole else None
                tokens = BEHIND + progress.tokens + probe.tokens  # shorter thinking breaks ties
                poll.tell(progress.place, replace(probe, tokens=tokens), answer)
        for place in unheard:
            poll.miss(place)

    def _generation(self, progress: Progress) -> Generation:
        """Not `final`: cut off itself, it is a worse answer than its branch. Whole, it may be ranked."""
        probe = self.params.probe
        if CLOSE in progress.text:
            probe = probe.partition(CLOSE)[2] or probe
        text = progress.text + probe
        return Generation(continues=text, max_tokens=self.params.probe_tokens, temperature=0, stop=(LINE,), final=False)

    def _drop_deviants(
        self, due: Sequence[Progress], rounds: Rounds, poll: _Poll, arrivals: Arrivals[Branch | Progress]
    ) -> None:
        if not self.params.drop_deviants:
            return
        poll.note_deviations([progress.place for progress in due], rounds.running)
        for progress in due:
            if poll.deviates(progress.place):
                arrivals.drop(progress.index)
                rounds.over(progress.place)
                poll.drop(progress.place)


@dataclass(slots=True)
class _Opinion:
    """What one branch would answer. `agreeing`: its last probes that said the same; `deviating`: those that said
    something else than most others."""

    answer: Answer | None = None
    by: Branch | None = None
    finished: bool = False
    agreeing: int = 0
    deviating: int = 0


@dataclass(slots=True)
class _Poll:
    """The opinions by place among the branches. `running` is always the places of those that still count."""

    params: Params
    opinions: dict[int, _Opinion] = field(default_factory=dict)

    def finish(self, branch: Branch, answer: Answer | None) -> None:
        self.opinions[branch.place] = _Opinion(answer, branch, finished=True)

    def tell(self, place: int, probe: Branch, answer: Answer | None) -> None:
        """A probe's answer; None: it gave none, and the branch has not settled."""
        known = self.opinions.setdefault(place, _Opinion())
        same = answer is not None and known.answer is not None and answer.group == known.answer.group
        known.agreeing = known.agreeing + 1 if same else int(answer is not None)
        known.answer, known.by = answer, probe

    def miss(self, place: int) -> None:
        """A probe failed, or the deadline cut it: what was said last stands, but is not settled."""
        opinion = self.opinions.setdefault(place, _Opinion())
        opinion.agreeing = opinion.deviating = 0

    def drop(self, place: int) -> None:
        del self.opinions[place]

    def note_deviations(self, probed: Sequence[int], running: set[int]) -> None:
        """Against enough of the others, and more than half of all: two halves must not drop each other."""
        places = self._counted(running)
        most, votes = self._most(places, settled=False)
        firm = votes > len(places) / 2 and votes >= self.params.consensus * (len(places) - 1)
        for place in probed:
            opinion = self.opinions[place]
            deviates = firm and opinion.answer is not None and opinion.answer.group != most
            opinion.deviating = opinion.deviating + 1 if deviates else 0

    def deviates(self, place: int) -> bool:
        return self.opinions[place].deviating >= self.params.patience

    def decided(self, running: set[int]) -> bool:
        """Whether enough of all have settled on one answer; those that were not asked yet have not."""
        places = self._counted(running)
        _, votes = self._most(places, settled=True)
        return votes > 0 and votes >= self.params.consensus * len(places)

    async def outcome(self, context: Context, running: set[int]) -> Outcome:
        """The plain vote over all that is known: finished branches, and the last probes of those that run."""
        places = sorted(self._counted(running) & self.opinions.keys(), key=lambda at: not self.opinions[at].finished)
        known = [self.opinions[place] for place in places]
        # A probe without an answer is nothing to rank.
        vote = count((one.by, one.answer, None) for one in known if one.by is not None and (one.finished or one.answer))
        probed = sum(not one.finished for one in known if one.answer is not None)
        note = f"{probed} of {sum(vote.counts)} votes by probes" if probed else None
        return await settle(context, vote, self.params.n, note)

    def _counted(self, running: set[int]) -> set[int]:
        return running | {place for place, opinion in self.opinions.items() if opinion.finished}

    def _most(self, places: set[int], *, settled: bool) -> tuple[int, int]:
        """The class that most of these are for, and how many; no votes where none is for any."""
        groups = Counter(
            opinion.answer.group
            for place in places
            if (opinion := self.opinions.get(place)) is not None
            and opinion.answer is not None
            and (not settled or opinion.finished or opinion.agreeing >= self.params.patience)
        )
        return max(groups.items(), key=lambda item: item[1], default=(0, 0))
