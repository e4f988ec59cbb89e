"""`mixture-of-agents` (arXiv 2406.04692): proposals side by side, layer over layer; an aggregator writes the answer.

The aggregator is given the proposals after the client's own messages, so that its answer keeps what these ask for.
Where it does not come, the proposals themselves answer: by vote where they can be grouped, else the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field

from strategies.base import WHOLE, Branch, Context, Generation, Need, Outcome, Shape, Strategy
from strategies.base import Params as BaseParams
from strategies.fallback import settle
from strategies.part_vote import PartVote
from strategies.prompting import all_of, lone, numbered, replaces, visible, why
from strategies.stopping import All

AGGREGATE = (
    "Here are several answers to the request above; any of them may be wrong.\n\n{proposals}\n\n"
    "Weigh them critically and write the best answer to the request, in the form it asks for. Do not mention them."
)


class Params(BaseParams):
    """`n` proposals in each of `layers`, by the model itself or in turns with a judge model; one aggregation `by` a
    model. `answer_chars`: of each proposal in a prompt."""

    n: int = Field(4, ge=1, le=64)
    layers: int = Field(1, ge=1, le=3)
    proposers: Literal["own", "own+judge"] = "own"
    by: Literal["own", "judge", "larger"] = "own"
    answer_chars: int = Field(4000, ge=200, le=100_000)


class MixtureOfAgents(Strategy[Params]):
    """Proposals of the last layer, aggregated."""

    name = "mixture-of-agents"
    params_type = Params
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CHAT})

    @classmethod
    def grid(cls) -> list[BaseParams]:
        return [Params(n=n, layers=layers) for n, layers in ((3, 1), (6, 1), (3, 2))]

    def required(self) -> frozenset[Need]:
        models = {self.params.by, *self.params.proposers.split("+")}
        others = {"judge": Need.JUDGE, "larger": Need.LARGER_MODEL}
        return self.needs | {need for model, need in others.items() if model in models}

    def shape(self) -> Shape:
        n, layers = self.params.n, self.params.layers
        return Shape(branches=n * layers + 1, stop=All(), window=n, waves=layers + 1, votes=False)

    async def run(self, context: Context) -> Outcome:
        layers = [await all_of(context, self._proposers(None))]
        while len(layers) < self.params.layers and (prompt := self._prompt(layers[-1])):
            proposals = await all_of(context, self._proposers(prompt))
            if not any(visible(proposal, 2) for proposal in proposals):
                break  # the layer before stands
            layers.append(proposals)
        aggregated, note = await self._aggregated(context, layers[-1])
        if len(layers) < self.params.layers:
            note = f"{len(layers)} of {self.params.layers} layers" + (f"; {note}" if note else "")
        earlier = [proposal.index for layer in reversed(layers[:-1]) for proposal in layer]
        if aggregated is None:
            voted = await _voted(context, layers[-1], note)
            ranking = (*voted.ranking, *earlier)
            return replace(voted, ranking=ranking)
        answer = await context.answer(aggregated)
        ranking = (aggregated.index, *(proposal.index for proposal in layers[-1]), *earlier)
        return Outcome(ranking, answer=None if answer is None else answer.text, note=note)

    def _proposers(self, prompt: str | None) -> list[Generation]:
        turns = () if prompt is None else (("user", prompt),)
        own = WHOLE if prompt is None else Generation(turns=turns)
        mixed = self.params.proposers == "own+judge"
        return [Generation(turns=turns, model="judge") if mixed and i % 2 else own for i in range(self.params.n)]

    def _prompt(self, proposals: Sequence[Branch]) -> str | None:
        """None where no proposal says anything that a prompt could hold (tool calls, thinking cut off)."""
        texts = [text for proposal in proposals if (text := visible(proposal, self.params.answer_chars))]
        return AGGREGATE.format(proposals=numbered(texts, "Answer")) if texts else None

    async def _aggregated(self, context: Context, proposals: Sequence[Branch]) -> tuple[Branch | None, str | None]:
        """The aggregator's answer; or None, and why the proposals must do."""
        prompt = self._prompt(proposals)
        if prompt is None:
            return None, "no aggregation (no proposal has a text)" if proposals else None
        aggregated = await lone(context, Generation(turns=(("user", prompt),), model=self.params.by))
        if aggregated is None:
            return None, f"no aggregation ({why(context)})"
        if any(not replaces(aggregated, proposal) for proposal in proposals):
            return None, "no aggregation (it was cut off or empty)"
        return aggregated, None


async def _voted(context: Context, proposals: Sequence[Branch], note: str | None) -> Outcome:
    vote = PartVote()
    for proposal in proposals:
        vote.add(proposal, await context.answer(proposal))
    return await settle(context, vote, len(proposals), note)
