"""What sampled answers are worth: pass@1, pass@k, majority vote."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

VOTE_SIZES: Final = (3, 4, 5, 8, 16)
_VOTE_DRAWS: Final = 20


@dataclass(frozen=True, slots=True)
class Samples:
    """The answers sampled for one question (None: no boxed answer), its gold answer and difficulty."""

    answers: tuple[int | None, ...]
    gold: int
    steps: int

    @property
    def accuracy(self) -> float:
        """Share of right answers, 0 to 1."""
        return sum(answer == self.gold for answer in self.answers) / len(self.answers)


def pass_at_1(sampled: Sequence[Samples]) -> float:
    """Expected accuracy of one sample, 0 to 1."""
    return sum(samples.accuracy for samples in sampled) / len(sampled)


def pass_at_all(sampled: Sequence[Samples]) -> float:
    """Share of questions that any of their samples answers: what a perfect verifier would reach."""
    return sum(samples.gold in samples.answers for samples in sampled) / len(sampled)


def vote_at(size: int, sampled: Sequence[Samples], seed: int = 1) -> float:
    """Accuracy of a majority vote over `size` samples, estimated over 20 random subsets per question.

    A tie goes to the answer drawn first; samples without an answer do not vote.
    Raises ValueError where a question has fewer than `size` samples.
    """
    rng = Random(seed)
    right = sum(
        _majority(rng.sample(samples.answers, size)) == samples.gold for samples in sampled for _ in range(_VOTE_DRAWS)
    )
    return right / len(sampled) / _VOTE_DRAWS


def accuracy_by_steps(sampled: Sequence[Samples]) -> dict[int, float]:
    """pass@1 for each difficulty, easiest first."""
    difficulties = sorted({samples.steps for samples in sampled})
    return {steps: pass_at_1([s for s in sampled if s.steps == steps]) for steps in difficulties}


def _majority(answers: Sequence[int | None]) -> int | None:
    votes = Counter(answer for answer in answers if answer is not None)
    return votes.most_common(1)[0][0] if votes else None
