"""Asks an engine the stored questions until it is known whether it agrees with them (`agree.py`)."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from profiler import quality_file
from profiler.agree import AgreementTest, Limits, Standing
from profiler.marking import Generated, Marking
from profiler.quality_file import StoredQuestion, StoredSample
from profiler.verdict import SamplingSetting
from strategies.answers import Equivalence
from strategies.answers.grouping import AnswerKind

T = TypeVar("T")


class Answered(Protocol):
    """One finished completion."""

    @property
    def text(self) -> str: ...
    @property
    def completion_tokens(self) -> int: ...
    @property
    def finish_reason(self) -> str | None: ...


class ChatBench(Protocol):
    """What asks the engine."""

    async def chat(self, question: str, count: int, *, temperature: float, max_tokens: int) -> Sequence[Answered]:
        """`count` full answers to one question, sampled together."""
        ...


@dataclass(frozen=True, slots=True)
class Reference:
    """What the model does on a task: its stored samples, and how they were drawn."""

    task: str
    answers: AnswerKind
    temperature: float
    max_tokens: int
    pool: Sequence[StoredQuestion]


@dataclass(frozen=True, slots=True)
class Effort:
    """`samples` of each question, `parallel` questions at a time; after `budget_s` the test ends undecided.

    `seed`: of the order of the questions, so that the first ones stand for all.
    """

    samples: int = 4
    parallel: int = 4
    budget_s: float | None = None
    seed: int = 0


def samples_path(table: Path) -> Path:
    """`X.samples.jsonl` lies beside `X.quality.json`."""
    return table.with_name(table.name.removesuffix(".quality.json") + ".samples.jsonl")


def reference(table: Path) -> Reference | None:
    """None where the table's samples are not there, or it does not say their `max_tokens`. Raises QualityError."""
    quality = quality_file.read(table)
    pool = list(quality_file.read_samples(samples_path(table)))
    max_tokens = quality.environment.get("max_tokens")
    if not pool or not isinstance(max_tokens, int):
        return None
    answers: AnswerKind = quality.answers  # type: ignore[assignment]
    return Reference(quality.task, answers, quality.temperature, max_tokens, pool)


@dataclass(slots=True)
class AgreementRun:
    """One engine in one setting. `standing`: as of the last question."""

    bench: ChatBench
    reference: Reference
    setting: SamplingSetting
    limits: Limits = field(default_factory=Limits)
    effort: Effort = field(default_factory=Effort)
    equivalence: Equivalence | None = None

    async def run(self, watch: Callable[[Standing], None] = lambda standing: None) -> Standing:
        """The last standing; `watch` is told every one. Raises what the bench raises."""
        limits = self._limits()
        test = AgreementTest(self.setting, limits)
        picked = random.Random(self.effort.seed).sample(list(self.reference.pool), limits.questions)
        asking = _in_order((self._asking(question) for question in picked), self.effort.parallel)
        budget = asyncio.timeout(self.effort.budget_s)
        try:
            async with budget, aclosing(asking) as answers:
                async for question, fresh in answers:
                    standing = test.add(question, fresh)
                    watch(standing)
                    if standing.verdict != "undecided":
                        break
        except TimeoutError:
            if not budget.expired():  # the bench's own
                raise
        return test.standing

    def _limits(self) -> Limits:
        """No more questions than are stored."""
        given = self.limits
        most = min(given.questions, len(self.reference.pool))
        return Limits(given.alpha, given.margin, given.margin_alpha, most, given.tolerance)

    def _asking(self, question: StoredQuestion) -> Callable[[], Coroutine[None, None, _Asked]]:
        return lambda: self._ask(question)

    async def _ask(self, question: StoredQuestion) -> _Asked:
        greedy = self.setting == "greedy"
        branches = await self.bench.chat(
            question.question,
            1 if greedy else self.effort.samples,
            temperature=0.0 if greedy else self.reference.temperature,
            max_tokens=self.reference.max_tokens,
        )
        marking = Marking(self.reference.answers, question.answer, self.equivalence)
        await marking.know(question.greedy.answer)
        texts = [Generated(branch.text, branch.completion_tokens, branch.finish_reason or "") for branch in branches]
        return question, [await marking.mark(text) for text in texts]


_Asked = tuple[StoredQuestion, list[StoredSample]]


async def _in_order(jobs: Iterable[Callable[[], Coroutine[None, None, T]]], parallel: int) -> AsyncGenerator[T, None]:
    """Results in the order of the jobs, not of finishing: short answers come first, and would stop the test early."""
    running: deque[asyncio.Task[T]] = deque()
    try:
        for job in jobs:
            if len(running) == parallel:
                yield await running.popleft()
            running.append(asyncio.create_task(job()))
        while running:
            yield await running.popleft()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
