"""`self-refine` (arXiv 2303.17651): draft, critique, revise, until the critique has nothing to say.

Each step waits for the one before, so that the latency is that of up to 1 + 2 · rounds generations. Whatever does not
come (a failure, the deadline) leaves the latest whole version as the answer.
"""

from __future__ import annotations

import re
from typing import ClassVar, Literal

from pydantic import Field

from strategies.base import WHOLE, Branch, Context, Generation, Need, Outcome, Shape, Strategy
from strategies.base import Params as BaseParams
from strategies.prompting import lone, replaces, visible, why
from strategies.stopping import All

NO_CHANGES = "NO CHANGES"
CRITIQUE = (
    "Review your last answer: name its errors and what is missing, briefly. Do not write a new answer. "
    f"If nothing is to improve, reply with this line only: {NO_CHANGES}"
)
JUDGE = (
    "Question:\n{question}\n\nAnswer:\n{answer}\n\n"
    "Review the answer: name its errors and what is missing, briefly. Do not write a new answer. "
    f"If nothing is to improve, reply with this line only: {NO_CHANGES}"
)
REVISE = "Write the improved answer only, in the form that was first asked for."

_CONTENT = re.compile(rf"^\W{{0,8}}{NO_CHANGES}\W{{0,8}}$", re.MULTILINE)


class Params(BaseParams):
    """At most so many `rounds` of a critique (`by` the model itself or a judge) and a revision.

    `critique_tokens`: of one critique, thinking included. `answer_chars`: of an answer or critique in a prompt.
    """

    rounds: int = Field(1, ge=1, le=4)
    by: Literal["own", "judge"] = "own"
    critique_tokens: int = Field(4096, ge=16, le=32_768)
    answer_chars: int = Field(16_000, ge=200, le=200_000)


class SelfRefine(Strategy[Params]):
    """The latest whole version answers."""

    name = "self-refine"
    params_type = Params
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CHAT})

    @classmethod
    def grid(cls) -> list[BaseParams]:
        return [Params(rounds=rounds) for rounds in (1, 2)]

    @classmethod
    def pin(cls, n: int) -> dict[str, int]:
        raise ValueError("the strategy self-refine counts rounds, not samples; leave n out and set its `rounds`")

    def required(self) -> frozenset[Need]:
        return self.needs | {Need.JUDGE} if self.params.by == "judge" else self.needs

    def shape(self) -> Shape:
        waves = 1 + 2 * self.params.rounds
        return Shape(branches=waves, stop=All(), window=1, waves=waves, votes=False)

    async def run(self, context: Context) -> Outcome:
        draft = await lone(context, WHOLE)
        if draft is None:
            return Outcome(ranking=())
        versions, note = [draft], None
        for number in range(1, self.params.rounds + 1):
            improved, problem = await self._improved(context, versions[0])
            if improved is None:
                note = f"round {number} of {self.params.rounds}: {problem}" if problem else None
                break
            versions.insert(0, improved)
        answer = await context.answer(versions[0])
        return Outcome(
            tuple(version.index for version in versions), answer=None if answer is None else answer.text, note=note
        )

    async def _improved(self, context: Context, version: Branch) -> tuple[Branch | None, str | None]:
        """The next version; or None and why there is none (nothing: the critique is content)."""
        text = visible(version, self.params.answer_chars)
        if not text:
            return None, "the answer has no text to refine"
        found = await lone(context, self._critique(context, text))
        critique = "" if found is None else visible(found, self.params.answer_chars)
        if not critique:
            return None, f"no critique ({why(context) if found is None else 'it was empty'})"
        if _CONTENT.search(critique):
            return None, None
        turns = (("assistant", text), ("user", CRITIQUE), ("assistant", critique), ("user", REVISE))
        revision = await lone(context, Generation(turns=turns))
        if revision is None:
            return None, f"no revision ({why(context)})"
        return (revision, None) if replaces(revision, version) else (None, "no revision (it was cut off or empty)")

    def _critique(self, context: Context, text: str) -> Generation:
        most = min(self.params.critique_tokens, context.max_tokens or self.params.critique_tokens)
        if self.params.by == "judge":
            prompt = JUDGE.format(question=context.question, answer=text)
            return Generation(prompt=prompt, max_tokens=most, final=False, model="judge")
        return Generation(turns=(("assistant", text), ("user", CRITIQUE)), max_tokens=most, final=False)
