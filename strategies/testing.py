"""The fake that strategies are tested on: a scripted sampler with a virtual clock. Nothing here sleeps.

sampler = ScriptedSampler([finishes("7", 30), finishes("7", 50), fails(at_s=10)], deadline_s=40) outcome = await
MyStrategy(params).run(sampler) assert outcome.ranking == (0,) and sampler.decided_at_s == 40 and sampler.cancelled ==
{1: 40}
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Self

from strategies.answers import Grouper
from strategies.base import Answer, Branch

Classify = Callable[[str], Awaitable[Answer | None]]


class ScriptTooShort(AssertionError):
    """The strategy asked for more branches than the test's script has."""


@dataclass(frozen=True, slots=True)
class Scripted:
    """What becomes of one branch, `at_s` virtual seconds after its start: it finishes with `text`, or fails (None)."""

    at_s: float
    text: str | None
    tokens: int
    finish_reason: str | None = "stop"


def finishes(answer: str | None, tokens: int, *, at_s: float | None = None, finish_reason: str = "stop") -> Scripted:
    r"""A branch that ends in `\boxed{answer}` (None: in no answer), after one second per token unless told."""
    text = "I cannot tell" if answer is None else rf"so it is \boxed{{{answer}}}"
    return Scripted(tokens if at_s is None else at_s, text, tokens, finish_reason)


def fails(at_s: float) -> Scripted:
    """A branch that never arrives."""
    return Scripted(at_s, None, 0)


class ScriptedSampler:
    """A `strategies.base.Context`. The n-th branch started follows the n-th line of the script.

    `deadline_s`: virtual time at which arrivals end (one at that very time still arrives). `classify`: from text to
    answer class, by default `Grouper("math")`. `tokens_per_s`: how fast a branch spends that is cancelled or fails.

    Afterwards: `cancelled` and `spent` by branch index (the virtual time; tokens until its end), `decided_at_s`,
    `cut_by_deadline`, and `started` branches.
    """

    def __init__(
        self,
        script: Sequence[Scripted],
        *,
        deadline_s: float | None = None,
        classify: Classify | None = None,
        tokens_per_s: float = 1.0,
    ) -> None:
        self.now_s = 0.0
        self.decided_at_s: float | None = None
        self.cut_by_deadline = False
        self.cancelled: dict[int, float] = {}
        self.spent: dict[int, int] = {}
        self.started = 0
        self._script = script
        self._deadline_s = float("inf") if deadline_s is None else deadline_s
        self._classify = classify or Grouper("math").group
        self._tokens_per_s = tokens_per_s

    def sample(self, count: int) -> _Wave:
        return _Wave(self, count)

    async def answer(self, branch: Branch) -> Answer | None:
        return await self._classify(branch.text)

    def _spend(self, index: int, run_s: float) -> None:
        branch = self._script[index]
        ran = int(run_s * self._tokens_per_s)
        whole = branch.text is not None and run_s >= branch.at_s
        self.spent[index] = branch.tokens if whole else ran if branch.text is None else min(ran, branch.tokens)


class _Wave:
    """Branches started together: an async context manager that iterates over those that finish, in virtual time."""

    def __init__(self, sampler: ScriptedSampler, count: int) -> None:
        self._sampler, self._count = sampler, count
        self._ahead: deque[tuple[float, int]] = deque()

    async def __aenter__(self) -> AsyncIterator[Branch]:
        sampler = self._sampler
        first, self._start_s = sampler.started, sampler.now_s
        sampler.started += self._count
        if sampler.started > len(sampler._script):
            raise ScriptTooShort(f"{sampler.started} branches were started, {len(sampler._script)} are scripted")
        indices = range(first, sampler.started)
        self._ahead.extend(sorted((self._start_s + sampler._script[index].at_s, index) for index in indices))
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Branch:
        sampler = self._sampler
        while self._ahead:
            at_s, index = self._ahead[0]
            if at_s > sampler._deadline_s:
                sampler.now_s, sampler.cut_by_deadline = max(sampler.now_s, sampler._deadline_s), True
                break
            self._ahead.popleft()
            sampler.now_s = max(sampler.now_s, at_s)
            branch = sampler._script[index]
            sampler._spend(index, at_s - self._start_s)
            if branch.text is not None:
                return Branch(index, branch.text, branch.tokens, branch.finish_reason)
        raise StopAsyncIteration

    async def __aexit__(self, *error: object) -> None:
        sampler = self._sampler
        for at_s, index in self._ahead:
            if at_s > sampler.now_s:
                sampler.cancelled[index] = sampler.now_s
            sampler._spend(index, min(at_s, sampler.now_s) - self._start_s)
        self._ahead.clear()
        sampler.decided_at_s = sampler.now_s
