"""`budget-forcing` (s1, arXiv 2501.19393): a chain that wants to end its thinking is told to wait, up to `waits` times;
one that has used up its budget is made to answer.

A chain is a sequence of generations, each going on from the text of the one before:

    think … </think>   with waits left: its end of thinking is taken away, `wait_text` put there, and it thinks on
    think … </think>   with none left: it goes on from there with its answer
    think … (the cap)  "</think>" and `answer_lead` are put there, and it answers in `answer_tokens`

Several chains go on together: the parts that follow start once those before have ended, which is how waves are
predicted; the first chains to answer vote at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from strategies.answers import CLOSE, OPEN
from strategies.base import MAX_BRANCHES, Branch, Context, Generation, Need, Outcome, Shape, StopRule, Strategy
from strategies.base import Params as BaseParams
from strategies.fallback import settle
from strategies.stopping import All, BetaLead
from strategies.voting import Vote

MOST_TOKENS = 1_000_000
Phase = Literal["thinking", "answering"]


class Params(BaseParams):
    """`max_tokens` of thinking at most; an end of thinking is put off, up to `waits` times, unless `min_tokens` have
    been thought (None: however many). `answer_tokens`: of an answer that is forced. `n` chains vote."""

    n: int = Field(1, ge=1, le=MAX_BRANCHES)
    waits: int = Field(1, ge=0, le=16)
    min_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)
    max_tokens: int = Field(4096, ge=1, le=MOST_TOKENS)
    answer_tokens: int = Field(256, ge=1, le=MOST_TOKENS)
    wait_text: str = Field("Wait, let me check again.\n", min_length=1, max_length=1000)
    answer_lead: str = Field("\nThe answer is ", max_length=1000)
    confidence: float = Field(0.95, gt=0.5, lt=1.0)

    @model_validator(mode="after")
    def _order(self) -> Params:
        if self.min_tokens is not None and self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens ({self.min_tokens}) cannot be more than max_tokens ({self.max_tokens})")
        return self


class BudgetForcing(Strategy[Params]):
    """Longer, or bounded, thinking."""

    name = "budget-forcing"
    params_type = Params
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CONTINUATION})

    @classmethod
    def grid(cls) -> list[BaseParams]:
        return [Params(n=n, waits=waits) for n, waits in ((1, 0), (1, 1), (1, 2), (4, 1))]

    def required(self) -> frozenset[Need]:
        return self.needs if self.params.n == 1 else self.needs | {Need.ANSWERS, Need.SAMPLING}

    def shape(self) -> Shape:
        return Shape(branches=self.params.n, stop=self._rule(), waves=2 + self.params.waits, votes=False)

    async def run(self, context: Context) -> Outcome:
        params, vote, rule = self.params, Vote(), self._rule()
        chains = [_Chain(params, context.max_tokens, context.room) for _ in range(params.n)]
        going: Sequence[_Chain] = chains
        decided = False
        while going and not decided and not context.out_of_time:
            async with context.sample([chain.part() for chain in going]) as arrivals:
                async for branch in arrivals:
                    chain = going[branch.place]
                    chain.take(branch)
                    if chain.answer is None:
                        continue
                    vote.add(branch, await context.answer(branch) if params.n > 1 else None)
                    decided = rule.decided(vote.counts, vote.arrived, params.n)
                    if decided:
                        break
            going = [chain for chain in going if chain.goes_on()]
        if not vote.arrived:
            return _thought(going)
        return await settle(context, vote, params.n, _note(chains))

    def _rule(self) -> StopRule:
        return All() if self.params.n == 1 else BetaLead(self.params.confidence)


@dataclass(slots=True)
class _Chain:
    """One chain of thought: what it has said, and which part comes next. `used`: tokens that it has thought.

    `running`: a part was started and has not arrived; where it failed, the chain answers from what it has.
    """

    params: Params
    limit: int | None  # of the request's whole completion
    room: int | None  # in the backend's context, for all that is written and put there
    text: str = ""
    used: int = 0
    waited: int = 0
    phase: Phase = "thinking"
    forced: bool = False
    running: bool = False
    last: Branch | None = None
    answer: Branch | None = None

    @property
    def cap(self) -> int:
        """Tokens of thinking that still fit; within the request's own limit and the context room for the answer is
        kept. A token of what is put there is at least a character."""
        most, answer = self.params.max_tokens, self.params.answer_tokens
        if self.limit is not None:
            most = min(most, max(1, self.limit - answer))
        if self.room is not None:
            put = self.waited * (len(self.params.wait_text) + 1) + 1 + len(CLOSE) + len(self.params.answer_lead)
            most = min(most, max(1, self.room - put - answer))
        return most - self.used

    def part(self) -> Generation:
        """What it generates next."""
        self.running = True
        if self.phase == "thinking":
            return Generation(continues=self.text, stop=(CLOSE,), max_tokens=max(1, self.cap))
        room = None if self.limit is None else max(1, self.limit - self.used)
        if self.forced:
            room = self.params.answer_tokens if room is None else min(room, self.params.answer_tokens)
        return Generation(continues=self.text, max_tokens=room)

    def take(self, branch: Branch) -> None:
        """A part has ended."""
        self.running, self.last = False, branch
        if self.phase == "answering":
            self.answer = branch
            return
        self.used += branch.tokens
        thought = _ended_thinking(branch)
        if thought is None and branch.finish_reason != "length":
            self.answer = branch  # it does not think in tags: this is the answer
        elif thought is None:
            self._force(branch.text)
        elif self._may_wait():
            self.waited += 1
            self.text = _on_a_new_line(thought) + self.params.wait_text
        else:
            self.text, self.phase = thought + CLOSE, "answering"

    def goes_on(self) -> bool:
        """Whether there is a further part, after a wave has ended. A part that failed is not tried again: the chain
        answers from what it had thought before; without that it is lost."""
        if self.answer is not None:
            return False
        if not self.running:
            return True
        if self.phase == "answering" or self.last is None:
            return False
        self.text, self.phase = (_ended_thinking(self.last) or "") + CLOSE, "answering"
        return True

    def _may_wait(self) -> bool:
        enough = self.params.min_tokens is not None and self.used >= self.params.min_tokens
        return self.waited < self.params.waits and self.cap > 0 and not enough

    def _force(self, text: str) -> None:
        self.text = f"{_on_a_new_line(text)}{CLOSE}{self.params.answer_lead}"
        self.phase, self.forced = "answering", True


def _ended_thinking(branch: Branch) -> str | None:
    """The text of a branch that ended its thinking, without the closing tag; None: it was cut, or has no thinking.

    An engine that tells reasoning apart swallows the tag: thinking that was opened and stopped has ended.
    """
    if branch.text.endswith(CLOSE):
        return branch.text.removesuffix(CLOSE)
    opened = branch.text.rfind(OPEN) > branch.text.rfind(CLOSE)
    return branch.text if opened and branch.finish_reason == "stop" else None


def _thought(going: Sequence[_Chain]) -> Outcome:
    """Without any answer: nothing where a part was cut, for that is further on; else the most that was thought."""
    if any(chain.running for chain in going):
        return Outcome(())
    order = sorted(going, key=lambda chain: -chain.used)
    return Outcome(tuple(chain.last.index for chain in order if chain.last is not None))


def _on_a_new_line(text: str) -> str:
    return text if not text or text.endswith("\n") else f"{text}\n"


def _note(chains: Sequence[_Chain]) -> str | None:
    answered = [chain for chain in chains if chain.answer is not None]
    if answered and all(chain.phase == "thinking" for chain in answered):
        return "no thinking between tags: there was nothing to force"
    return None
