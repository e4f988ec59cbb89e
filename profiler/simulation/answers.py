r"""What the simulated engines say: stored samples of a model, written out with exactly as many tokens as they had.

A question of the pool is answered with one of its own samples, so that a vote over answers is right as often as the
model's is. Any other question stands for one of the pool, always the same.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

from profiler.prior import prior_pool
from profiler.quality_file import QualityError, StoredQuestion, StoredSample, read, read_samples
from profiler.simulation.tokenizer import TOKEN_CHARS, tokens_of

Kind = Literal["math", "choice", "json", "text"]
_WORDS = """
    compute product divided carries reduces notices numbers current totals, however because finally dropped
    another between several checked nothing further instead already exactly smaller greater doubled removed
    applied working adding. results perhaps without problem suppose brought careful rewrite obtains suggest simple.
""".split()  # noqa: SIM905
_CYCLE = "".join(f" {word}" for word in _WORDS)  # tokens of one length each: any stretch of them is a slice
_REMEMBERED_QUESTIONS = 4096
CONTINUED_AT_LEAST = 8  # tokens, of an answer that goes on from a text


@dataclass(slots=True)
class Text:
    """Pieces before and after a stretch of `filler` tokens. Beyond its end a text goes on with filler: an engine that
    ignores the end of a sequence does, too. `finish_reason`: as the sample ended."""

    before: list[str]
    filler: int
    after: list[str]
    finish_reason: str = "stop"

    @property
    def tokens(self) -> int:
        return len(self.before) + self.filler + len(self.after)

    def slice(self, begin: int, end: int) -> str:
        """The text of these tokens."""
        first, last = len(self.before), len(self.before) + self.filler
        parts = []
        if begin < first:
            parts.append("".join(self.before[begin:end]))
        if begin < last and end > first:
            parts.append(_words(max(begin, first) - first, min(end, last) - first))
        if end > last:
            parts.append("".join(self.after[max(0, begin - last) : end - last]))
        if end > self.tokens:
            parts.append(_words(max(begin, self.tokens), end))
        return "".join(parts)

    def pieces(self, begin: int, end: int) -> list[str]:
        return [self.slice(at, at + 1) for at in range(begin, end)]


def _words(begin: int, end: int) -> str:
    cycle = len(_CYCLE) // TOKEN_CHARS
    offset = begin % cycle
    times = (offset + end - begin) // cycle + 1
    return (_CYCLE * times)[offset * TOKEN_CHARS : (offset + end - begin) * TOKEN_CHARS]


def written(sample: StoredSample, kind: Kind = "math", *, after: str = "") -> Text:
    """A sample as a reasoning model would write it, in exactly `sample.tokens` tokens. `after`: what it goes on from;
    then the tokens of that count, and a thought that is open there goes on."""
    tokens = max(1, sample.tokens)
    opening = ["<think>\n"]
    if after:
        opening, tokens = [], max(CONTINUED_AT_LEAST, tokens - len(tokens_of(after)))
        if "</think>" in after or "<think>" not in after:
            return _fitted([], _said(sample.answer or "unclear", kind), CONTINUED_AT_LEAST)
    if sample.answer is None:
        if sample.finish_reason == "length":  # cut while it thought
            return Text(opening, tokens - 1, [])
        return _fitted(opening, "\n</think>\nI cannot tell.", tokens)
    said = _said(sample.answer, kind) if sample.finish_reason != "length" else f"The answer is {sample.answer}"
    if after:
        return _fitted([" So"], f"\n</think>\n{said}", tokens)
    for before, closing in ((opening, f"\n</think>\n{said}"), ([], said), ([], sample.answer)):
        pieces = tokens_of(closing)
        if len(before) + len(pieces) <= tokens and (before or len(pieces) == tokens):
            return Text(before, tokens - len(before) - len(pieces), pieces)
    return _fitted([], said, tokens)


def _said(answer: str, kind: Kind) -> str:
    return answer if kind in ("json", "text") else f"The answer is \\boxed{{{answer}}}."


def _fitted(before: list[str], closing: str, tokens: int) -> Text:
    """With too few tokens for a thought: the first ones are longer, or blanks lead."""
    pieces = tokens_of(closing)
    if len(before) + len(pieces) <= tokens and before:
        return Text(before, tokens - len(before) - len(pieces), pieces)
    if len(pieces) > tokens:
        surplus = len(pieces) - tokens
        return Text(["".join(pieces[: surplus + 1])], 0, pieces[surplus + 1 :])
    return Text(["\n"] * (tokens - len(pieces)), 0, pieces)


class AnswerPool:
    """The stored questions of one model, of all its tasks. `made_up`: there were none, and it is the prior's."""

    def __init__(self, questions: Iterable[tuple[StoredQuestion, Kind]]) -> None:
        self._questions = list(questions)
        self.made_up = not self._questions
        if self.made_up:
            self._questions = [(question, "math") for question in prior_pool()]
        self._exact = {question.question.strip(): index for index, (question, _) in enumerate(self._questions)}
        self._found: OrderedDict[str, int] = OrderedDict()
        self._written: dict[int, Text] = {}  # by the sample's identity: these live as long as this does

    @classmethod
    def read(cls, tables: Sequence[Path]) -> AnswerPool:
        """From the samples beside quality tables (`MODEL.TASK.quality.json`). Raises QualityError."""
        questions: list[tuple[StoredQuestion, Kind]] = []
        for table in tables:
            samples = table.with_name(table.name.removesuffix(".quality.json") + ".samples.jsonl")
            if not samples.exists():
                raise QualityError(f"{samples} is missing: a simulated fleet answers with the samples beside {table}")
            kind = _kind(read(table).answers)
            questions += [(question, kind) for question in read_samples(samples)]
        return cls(questions)

    def prompt_tokens(self, text: str) -> int | None:
        """What the model's own tokenizer makes of a chat that is a question of the pool and nothing else."""
        index = None if self.made_up else self._exact.get(text.strip())
        return None if index is None else self._questions[index][0].prompt_tokens

    def sample(self, text: str, random: Random, *, greedy: bool, after: str = "") -> Text:
        """One of the stored samples of the question that the text asks, or stands for; `after`: see `written`."""
        question, kind = self._questions[self._index(text)]
        stored = question.greedy
        if question.samples and not greedy:
            stored = question.samples[int(random.random() * len(question.samples))]
        if after:
            return _ended(written(stored, kind, after=after), stored)
        found = self._written.get(id(stored))
        if found is None:
            found = self._written[id(stored)] = _ended(written(stored, kind), stored)
        return found

    def _index(self, text: str) -> int:
        stripped = text.strip()
        index = self._exact.get(stripped)
        if index is None:
            index = self._found.get(stripped)
        if index is None:
            index = self._search(stripped)
            self._found[stripped] = index
            if len(self._found) > _REMEMBERED_QUESTIONS:
                self._found.popitem(last=False)
        return index

    def _search(self, text: str) -> int:
        """A question that stands in the text (within a template, say), the longest; else one by the text's hash."""
        held = [question for question in self._exact if question and question in text]
        if held:
            return self._exact[max(held, key=len)]
        return zlib.crc32(text.encode("utf-8", "surrogatepass")) % len(self._questions)


def _ended(text: Text, sample: StoredSample) -> Text:
    text.finish_reason = "length" if sample.finish_reason == "length" else "stop"
    return text


def _kind(answers: str) -> Kind:
    for kind in ("choice", "json", "text"):
        if answers == kind:
            return kind
    return "math"
