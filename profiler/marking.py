"""Is a text's final answer right? One question's generated texts against its gold answer, as every table needs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from profiler.logprobs import confidence
from profiler.quality_file import StoredSample
from strategies.answers import Equivalence, Grouper
from strategies.answers.grouping import AnswerKind


class Generated(NamedTuple):
    """One generation. `tokens`: completion tokens; `logprobs`: of each token as chosen, where the engine told them."""

    text: str
    tokens: int
    finish_reason: str
    logprobs: Sequence[float] = ()


class Marking:
    """The answer classes of one question, the gold answer's among them. A class is named by its first answer."""

    def __init__(self, kind: AnswerKind, gold: str, equivalence: Equivalence | None = None) -> None:
        self._kind, self._gold = kind, gold
        self._grouper = Grouper(kind, equivalence)
        self._names: dict[int, str] = {}

    async def know(self, answer: str | None) -> None:
        """An answer as stored: those in its class get its name."""
        found = await self._class_of(answer) if answer is not None else None
        if found is not None and answer is not None:
            self._names.setdefault(found, answer)

    async def mark(self, generated: Generated) -> StoredSample:
        """Right if its answer falls into the gold answer's class; no answer is wrong."""
        mean, low = confidence(generated.logprobs) or (None, None)
        gold = await self._class_of(self._gold)
        answer = await self._grouper.group(generated.text)
        name = None if answer is None else self._names.setdefault(answer.group, answer.text)
        correct = answer is not None and answer.group == gold
        return StoredSample(name, generated.tokens, generated.finish_reason, correct, mean, low)

    async def _class_of(self, answer: str) -> int | None:
        found = await self._grouper.group(f"\\boxed{{{answer}}}" if self._kind in ("math", "choice") else answer)
        return None if found is None else found.group
