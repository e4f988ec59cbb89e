"""Replays a strategy's shape on stored samples: what it would have answered, how long it would have run, what it
would have spent.

All branches of a replay advance one token a step, so branches arrive in the order of their lengths. The replay's work
is told as the tokens of each branch until the decision: any backend's step-time model turns those into seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from strategies.base import Shape


@dataclass(frozen=True, slots=True)
class Sample:
    """One stored generation: `answer` is its class among the question's answers (None abstains)."""

    answer: str | None
    tokens: int
    correct: bool


@dataclass(frozen=True, slots=True)
class Replays:
    """R replays of a shape of N branches. `question` (R,): whose samples were drawn; `correct` (R,).

    `lengths` (R, N): tokens that each branch generated until the decision, ascending; cancelled ones included.
    """

    question: np.ndarray
    correct: np.ndarray
    lengths: np.ndarray


def replay(pool: Sequence[Sequence[Sample]], shape: Shape, per_question: int, seed: int = 0) -> Replays:
    """`per_question` draws without replacement of `shape.branches` samples from each question's pool.

    Raises ValueError where a question has fewer samples than the shape needs branches.
    """
    rng = np.random.default_rng(seed)
    rows: list[tuple[int, bool, list[int]]] = []
    for index, samples in enumerate(pool):
        if len(samples) < shape.branches:
            raise ValueError(f"question {index} has {len(samples)} samples; the shape needs {shape.branches}")
        for _ in range(per_question):
            drawn = [samples[i] for i in rng.permutation(len(samples))[: shape.branches]]
            rows.append((index, *_one(drawn, shape)))
    question, correct, lengths = zip(*rows, strict=True)
    return Replays(np.array(question), np.array(correct), np.array(lengths))


def _one(drawn: list[Sample], shape: Shape) -> tuple[bool, list[int]]:
    """One replay: whether the answer is right, and the branches' lengths when it was decided, ascending."""
    arrivals = sorted(drawn, key=lambda sample: sample.tokens)
    counts: dict[str, int] = {}
    shortest: dict[str, Sample] = {}
    ended = arrivals[-1].tokens
    for arrived, sample in enumerate(arrivals, 1):
        if sample.answer is not None:
            counts[sample.answer] = counts.get(sample.answer, 0) + 1
            shortest.setdefault(sample.answer, sample)
        if shape.stop.decided(list(counts.values()), arrived, shape.branches):
            ended = sample.tokens
            break
    winner = min(counts, key=lambda a: (-counts[a], shortest[a].tokens)) if counts else None
    correct = shortest[winner].correct if winner is not None else arrivals[0].correct
    return correct, [min(sample.tokens, ended) for sample in arrivals]
