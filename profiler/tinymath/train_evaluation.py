"""How well a policy answers: sampled and greedy, cut short and forced to re-check, on questions not trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import numpy as np

from profiler.tinymath import metrics
from profiler.tinymath.decode import Decoder, Sampling
from profiler.tinymath.task import EVALUATION_SEED, Problem, Question, boxed_answer, draw
from profiler.tinymath.tokens import END_THINK_ID, TURN_END_ID, decoded, encoded, prompt
from profiler.tinymath.traces import RECHECK

SAMPLES_PER_QUESTION: Final = 16
BUDGETS: Final = (64, 128, 192, 256, 384, 512, 768, 1024)
"""Tokens after which a thought is cut and an answer forced."""
FORCED_CLOSING: Final = "</think>\nThe answer is \\boxed{"
_FORCED_RECHECKS: Final = 2
_FORCED_SAMPLES: Final = 4
_ANSWER_TOKENS: Final = 12


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, the problem behind it, and the ids of its prompt."""

    question: Question
    problem: Problem
    prompt_ids: list[int]


@dataclass(frozen=True, slots=True)
class Answered:
    """Sampled answers to one question, as token ids and text."""

    asked: Asked
    ids: tuple[list[int], ...]
    texts: tuple[str, ...]

    @property
    def right(self) -> list[bool]:
        return [boxed_answer(text) == self.asked.question.answer for text in self.texts]


def ask(count: int, seed: int = EVALUATION_SEED) -> list[Asked]:
    """The first `count` questions of a seed."""
    rng = Random(seed)
    drawn = [draw(rng) for _ in range(count)]
    ids = encoded([prompt(question.question) for question, _ in drawn])
    return [Asked(question, problem, row) for (question, problem), row in zip(drawn, ids, strict=True)]


def answer(decoder: Decoder, asked: Sequence[Asked], sampling: Sampling) -> list[Answered]:
    """`sampling.samples` answers to each question."""
    rows, size = decoder.generate([one.prompt_ids for one in asked], sampling), sampling.samples
    return [answered(one, rows[i * size : (i + 1) * size]) for i, one in enumerate(asked)]


def answered(asked: Asked, ids: Sequence[list[int]]) -> Answered:
    """Answers with their text."""
    return Answered(asked, tuple(ids), tuple(decoded(ids)))


def evaluate(decoder: Decoder, asked: Sequence[Asked], max_new_tokens: int) -> tuple[dict[str, Any], list[Answered]]:
    """Accuracies (0 to 1) and lengths (tokens) at temperature 1.0 as JSON values, and the answers they come from."""
    sampled = answer(decoder, asked, Sampling(max_new_tokens, samples=SAMPLES_PER_QUESTION))
    greedy = answer(decoder, asked, Sampling(max_new_tokens, temperature=0.0))
    samples = [as_samples(one) for one in sampled]
    figures = {
        "questions": len(asked),
        "pass@1": metrics.pass_at_1(samples),
        "greedy": float(np.mean([one.right for one in greedy])),
        **{f"vote@{size}": metrics.vote_at(size, samples) for size in metrics.VOTE_SIZES},
        f"pass@{SAMPLES_PER_QUESTION}": metrics.pass_at_all(samples),
        "finished": float(np.mean([ids[-1] == TURN_END_ID for one in sampled for ids in one.ids])),
        "tokens": _lengths([len(ids) for one in sampled for ids in one.ids]),
        "by_budget": by_budget(decoder, sampled),
        "by_forced_rechecks": by_forced_rechecks(decoder, sampled, max_new_tokens),
        "by_steps": {steps: round(value, 3) for steps, value in metrics.accuracy_by_steps(samples).items()},
    }
    return rounded(figures), sampled


def by_budget(decoder: Decoder, sampled: Sequence[Answered]) -> dict[int, float]:
    """Accuracy where a thought longer than so many tokens is cut there and the answer forced."""
    closing = encoded([FORCED_CLOSING])[0]
    accuracies = {}
    for budget in BUDGETS:
        rows = [(one, ids) for one in sampled for ids in one.ids[:_FORCED_SAMPLES]]
        cut = [(one, _thought(ids)[:budget]) for one, ids in rows if len(ids) > budget]
        forced = decoder.generate(
            [[*one.asked.prompt_ids, *ids, *closing] for one, ids in cut],
            Sampling(_ANSWER_TOKENS, temperature=0.0),
        )
        texts = decoded(forced)
        right = sum(
            boxed_answer(f"\\boxed{{{text}") == one.asked.question.answer
            for (one, _), text in zip(cut, texts, strict=True)
        )
        whole = [(one, ids) for one, ids in rows if len(ids) <= budget]
        right += sum(_is_right(one, ids) for one, ids in whole)
        accuracies[budget] = right / len(rows)
    return accuracies


def by_forced_rechecks(decoder: Decoder, sampled: Sequence[Answered], max_new_tokens: int) -> dict[int, float]:
    """Accuracy where so often, when the thought would have ended, a re-check is forced instead."""
    recheck = encoded([RECHECK])[0]
    rows = [(one, ids) for one in sampled for ids in one.ids[:_FORCED_SAMPLES] if END_THINK_ID in ids]
    accuracies = {}
    for forced in range(_FORCED_RECHECKS + 1):
        if forced and rows:
            prefixes = [[*_thought(ids), *recheck] for _, ids in rows]
            prompts = [[*a.asked.prompt_ids, *prefix] for (a, _), prefix in zip(rows, prefixes, strict=True)]
            longer = decoder.generate(prompts, Sampling(max_new_tokens, seed=forced))
            rows = [(a, prefix + more) for (a, _), prefix, more in zip(rows, prefixes, longer, strict=True)]
        accuracies[forced] = sum(_is_right(*row) for row in rows) / max(1, len(rows))
    return accuracies


def as_samples(answered: Answered) -> metrics.Samples:
    question = answered.asked.question
    return metrics.Samples(tuple(boxed_answer(text) for text in answered.texts), question.answer, question.steps)


def rounded(value: Any) -> Any:
    """Figures of a nested dictionary to four places."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def _is_right(answered: Answered, ids: Sequence[int]) -> bool:
    return boxed_answer(decoded([ids])[0]) == answered.asked.question.answer


def _thought(ids: Sequence[int]) -> list[int]:
    """The ids before the end of the thought."""
    return list(ids[: ids.index(END_THINK_ID)]) if END_THINK_ID in ids else list(ids)


def _lengths(tokens: Sequence[int]) -> dict[str, float]:
    return {
        "mean": float(np.mean(tokens)),
        "p50": float(np.median(tokens)),
        "p95": float(np.quantile(tokens, 0.95)),
        "max": max(tokens),
    }
