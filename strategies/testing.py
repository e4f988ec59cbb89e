"""The fake that strategies are tested on: a scripted sampler with a virtual clock. Nothing here sleeps.

    sampler = ScriptedSampler([finishes("7", 30), finishes("7", 50), fails(at_s=10)], deadline_s=40)
    outcome = await MyStrategy(params).run(sampler)
    assert outcome.ranking == (0,) and sampler.decided_at_s == 40 and sampler.cancelled == {1: 40}

A strategy of several calls is answered by a function of what it asks: `ScriptedSampler(lambda generation, index: …)`.
"""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar, cast

from strategies.answers import Grouper
from strategies.base import WHOLE, Answer, Branch, Generation, NoScore, Progress, Scorer

Classify = Callable[[str], Awaitable[Answer | None]]
E = TypeVar("E")


class ScriptTooShort(AssertionError):
    """The strategy asked for more branches than the test's script has."""


@dataclass(frozen=True, slots=True)
class Scripted:
    """What becomes of one branch, `at_s` virtual seconds after its start: it finishes with `text` (after what its
    generation continues), or fails (None). `confidence`: per token, where it is asked for."""

    at_s: float
    text: str | None
    tokens: int
    finish_reason: str | None = "stop"
    confidence: tuple[float, ...] = ()


Script = Sequence[Scripted] | Callable[[Generation, int], Scripted]
Scores = Callable[[Sequence[str], Scorer], list[list[float]]]


def finishes(answer: str | None, tokens: int, *, at_s: float | None = None, finish_reason: str = "stop") -> Scripted:
    r"""A branch that ends in `\boxed{answer}` (None: in no answer), after one second per token unless told."""
    text = "I cannot tell" if answer is None else rf"so it is \boxed{{{answer}}}"
    return Scripted(tokens if at_s is None else at_s, text, tokens, finish_reason)


def writes(text: str, tokens: int, *, finish_reason: str = "stop", confidence: Sequence[float] = ()) -> Scripted:
    """A branch that ends with this text, after one second per token."""
    return Scripted(tokens, text, tokens, finish_reason, tuple(confidence))


def fails(at_s: float) -> Scripted:
    """A branch that never arrives."""
    return Scripted(at_s, None, 0)


class ScriptedSampler:
    """A `strategies.base.Context`. The n-th branch started follows the n-th line of the script.

    `deadline_s`: virtual time at which arrivals end (one at that very time still arrives). `classify`: from text to
    answer class, by default `Grouper("math")`. `tokens_per_s`: how fast a branch spends that is cancelled or fails.
    `scores`: of texts by a scorer (it may raise NoScore; none given: there is no scorer); each call takes `score_s`.
    `similar`: cosines of texts.

    Afterwards: `asked`, the generations in order; `cancelled` and `spent` by branch index (the virtual time; tokens
    until its end), `decided_at_s`, `cut_by_deadline`, and `started` branches.
    """

    def __init__(
        self,
        script: Script,
        *,
        deadline_s: float | None = None,
        classify: Classify | None = None,
        tokens_per_s: float = 1.0,
        scores: Scores | None = None,
        score_s: float = 0.0,
        similar: Callable[[Sequence[str]], list[list[float]]] | None = None,
        question: str = "What is it?",
        max_tokens: int | None = None,
        room: int | None = None,
    ) -> None:
        self.now_s = 0.0
        self.decided_at_s: float | None = None
        self.cut_by_deadline = False
        self.cancelled: dict[int, float] = {}
        self.spent: dict[int, int] = {}
        self.asked: list[Generation] = []
        self.scored: list[tuple[Scorer, tuple[str, ...]]] = []
        self.question = question
        self.max_tokens = max_tokens
        self.room = room
        self._script = script
        self._lines: list[Scripted] = []
        self._deadline_s = float("inf") if deadline_s is None else deadline_s
        self._classify = classify or Grouper("math").group
        self._tokens_per_s = tokens_per_s
        self._scores, self._score_s, self._similar = scores, score_s, similar

    @property
    def started(self) -> int:
        return len(self.asked)

    @property
    def out_of_time(self) -> bool:
        if self.now_s < self._deadline_s:
            return False
        self.cut_by_deadline = True
        return True

    def sample(self, what: int | Sequence[Generation]) -> _Wave[Branch]:
        return _Wave(self, _generations(what), 0)

    def watch(self, what: int | Sequence[Generation], every_tokens: int) -> _Wave[Branch | Progress]:
        return _Wave(self, _generations(what), every_tokens)

    async def answer(self, branch: Branch) -> Answer | None:
        return await self._classify(branch.text)

    async def score(self, texts: Sequence[str], by: Scorer, *, so_far: bool = False) -> list[list[float]]:
        if self._scores is None:
            raise NoScore("there is no scorer")
        if self.now_s + self._score_s > self._deadline_s:
            self.now_s, self.cut_by_deadline = max(self.now_s, self._deadline_s), True
            raise NoScore("the deadline came first")
        self.now_s += self._score_s
        self.decided_at_s = self.now_s
        self.scored.append((by, tuple(texts)))
        return self._scores(texts, by)

    async def similarity(self, texts: Sequence[str]) -> list[list[float]] | None:
        return None if self._similar is None else self._similar(texts)

    def _start(self, generation: Generation) -> int:
        index = len(self.asked)
        if callable(self._script):
            line = self._script(generation, index)
        elif index < len(self._script):
            line = self._script[index]
        else:
            raise ScriptTooShort(f"branch {index} was started, {len(self._script)} are scripted")
        self.asked.append(generation)
        self._lines.append(line)
        return index

    def _spend(self, index: int, run_s: float) -> None:
        branch = self._lines[index]
        ran = int(run_s * self._tokens_per_s)
        whole = branch.text is not None and run_s >= branch.at_s
        self.spent[index] = branch.tokens if whole else ran if branch.text is None else min(ran, branch.tokens)


def _generations(what: int | Sequence[Generation]) -> Sequence[Generation]:
    return (WHOLE,) * what if isinstance(what, int) else what


class _Wave(Generic[E]):
    """Branches started together: an async context manager that iterates over those that finish, and over the progress
    of the others where that is asked for, in virtual time."""

    def __init__(self, sampler: ScriptedSampler, generations: Sequence[Generation], every_tokens: int) -> None:
        self._sampler, self._generations, self._every = sampler, generations, every_tokens
        self._ahead: list[tuple[float, int, int]] = []  # when, branch, its tokens then (its end: more than it has)
        self._first = 0
        self._over: set[int] = set()
        self._progressed: set[int] = set()

    async def __aenter__(self) -> Self:
        sampler = self._sampler
        self._first, self._start_s = sampler.started, sampler.now_s
        if sampler.now_s > sampler._deadline_s or (sampler.now_s == sampler._deadline_s and sampler.cut_by_deadline):
            sampler.cut_by_deadline = True
            self._generations = ()
        for generation in self._generations:
            index = sampler._start(generation)
            line = sampler._lines[index]
            heapq.heappush(self._ahead, (self._start_s + line.at_s, index, line.tokens + 1))
            if self._every and line.text is not None:
                for tokens in range(self._every, line.tokens, self._every):
                    at_s = self._start_s + line.at_s * tokens / line.tokens
                    heapq.heappush(self._ahead, (at_s, index, tokens))
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> E:
        sampler = self._sampler
        while self._ahead and any(index not in self._over for _, index, _ in self._ahead):
            at_s, index, tokens = self._ahead[0]
            if index in self._over:
                heapq.heappop(self._ahead)
                continue
            if at_s > sampler._deadline_s:
                sampler.now_s, sampler.cut_by_deadline = max(sampler.now_s, sampler._deadline_s), True
                break
            heapq.heappop(self._ahead)
            sampler.now_s = max(sampler.now_s, at_s)
            line = sampler._lines[index]
            if tokens <= line.tokens:
                return cast(E, self._progress(index, tokens))
            self._over.add(index)
            sampler._spend(index, at_s - self._start_s)
            if line.text is not None:
                return cast(E, self._branch(index, line))
        raise StopAsyncIteration

    def _branch(self, index: int, line: Scripted) -> Branch:
        generation = self._sampler.asked[index]
        told: Any = line.confidence if generation.confidence else ()
        text = generation.continues + (line.text or "")
        return Branch(index, text, line.tokens, line.finish_reason, told, index - self._first)

    def _progress(self, index: int, tokens: int) -> Progress:
        line, generation = self._sampler._lines[index], self._sampler.asked[index]
        text = line.text or ""
        so_far = generation.continues + text[: round(len(text) * tokens / line.tokens)]
        told = line.confidence[:tokens] if generation.confidence else ()
        return Progress(index, so_far, tokens, told, index - self._first)

    def drop(self, index: int) -> None:
        if index not in self._over:
            self._over.add(index)
            self._sampler.cancelled[index] = self._sampler.now_s
            self._sampler._spend(index, self._sampler.now_s - self._start_s)

    async def __aexit__(self, *error: object) -> None:
        sampler = self._sampler
        for at_s, index, tokens in self._ahead:
            if index in self._over or tokens <= sampler._lines[index].tokens:
                continue
            if at_s > sampler.now_s:
                sampler.cancelled[index] = sampler.now_s
            sampler._spend(index, min(at_s, sampler.now_s) - self._start_s)
        self._ahead.clear()
        sampler.decided_at_s = sampler.now_s
