"""Replays a strategy's shape on stored samples: what it would have answered, how long it would have run, what it
would have spent.

All branches of a replay advance one token a step, so branches arrive in the order of their lengths. The replay's work
is told as the tokens of each branch until the decision: any backend's step-time model turns those into seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from profiler.votes import Drawn, Sample, draw, vote
from strategies.base import Shape


@dataclass(frozen=True, slots=True)
class Replays:
    """R replays of a shape of N branches. `question` (R,): whose samples were drawn; `correct` (R,).

    `lengths` (R, N): tokens that each branch generated until the decision, ascending; cancelled ones included. `later`:
    the same of each further window.
    """

    question: np.ndarray
    correct: np.ndarray
    lengths: np.ndarray
    later: tuple[np.ndarray, ...] = ()


def replay(pool: Sequence[Sequence[Sample]], shape: Shape, per_question: int, seed: int = 0) -> Replays:
    """`per_question` draws without replacement of `shape.branches` samples from each question's pool.

    Raises ValueError where a question has fewer samples than the shape needs branches.
    """
    return replayed(draw(pool, shape.branches, per_question, seed), shape, per_question)


def replayed(drawn: Drawn, shape: Shape, per_question: int) -> Replays:
    """Of draws that are at hand."""
    votes = vote(drawn, shape)
    questions = np.arange(len(drawn.tokens) // per_question)
    return Replays(np.repeat(questions, per_question), votes.correct, votes.lengths, votes.later)
