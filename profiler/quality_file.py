"""The quality table: accuracy of one model on one task for every strategy setting, derived from a stored pool of
samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from profiler import files
from profiler.quality_sections import AgreementCurve, BudgetCurve, Lengths
from profiler.replay import Replays, replayed
from profiler.votes import Drawn, Sample, draw
from strategies.base import Shape

SCHEMA = 2
T = TypeVar("T")
DRAWS = 128


class QualityError(ValueError):
    """A quality file that cannot be used; the message names the file and what to do."""


class StoredSample(msgspec.Struct, frozen=True, array_like=True):
    """A sample as stored: final answer as extracted, tokens, why it ended, and whether it was right.

    `logprob_mean`, `logprob_low`: the mean log probability of its tokens and the lowest over a stretch of them
    (`logprobs.confidence`); None where the engine was not asked.
    """

    answer: str | None
    tokens: int
    finish_reason: str
    correct: bool
    logprob_mean: float | None = None
    logprob_low: float | None = None


class StoredQuestion(msgspec.Struct, frozen=True):
    """One question's samples; `greedy` is the answer at temperature 0. One line of the samples file."""

    question: str
    answer: str
    group: str
    prompt_tokens: int
    greedy: StoredSample
    samples: list[StoredSample]


class Curve(msgspec.Struct, frozen=True, omit_defaults=True):
    """One strategy setting. `accuracy_lower`: 5th percentile of the bootstrap over questions.

    `lengths`: draws of the setting's work, each the tokens of every branch until the decision, ascending; the draws are
    ordered by the last. `later`: per further wave the same of its branches, draw by draw (0: not started). `aside_s`:
    seconds that else are waited for, on average, `aside_gpu_s`: what that takes. `runs`: answered requests that it was
    measured on, where it was not derived from stored samples.
    """

    strategy: str
    params: dict[str, Any]
    greedy: bool
    accuracy: float
    accuracy_lower: float
    lengths: list[list[int]]
    later: list[list[list[int]]] = []
    aside_s: float = 0.0
    aside_gpu_s: float = 0.0
    runs: int = 0


class Quality(msgspec.Struct, frozen=True):
    """`temperature`: what the samples were drawn at; requests at another one make the accuracy an approximation.

    `budgets`, `agreement`, `lengths`: what else the samples say; files of earlier versions have none.
    """

    model: str
    task: str
    answers: str
    temperature: float
    questions: int
    samples_per_question: int
    mean_prompt_tokens: float
    curves: list[Curve]
    environment: dict[str, Any] = {}
    schema: int = SCHEMA
    budgets: list[BudgetCurve] = []
    agreement: list[AgreementCurve] = []
    lengths: Lengths | None = None


def derive(shape: Shape, pool: list[StoredQuestion], *, greedy: bool, seed: int = 0) -> tuple[Replays, float, float]:
    """Replays of a shape, its mean accuracy, and the lower bound over questions."""
    replays = replayed(drawn(pool, shape, greedy=greedy, seed=seed), shape, draws_per_question(shape, greedy=greedy))
    by_question = np.array([replays.correct[replays.question == q].mean() for q in range(len(pool))])
    return replays, float(by_question.mean()), bootstrap_lower(by_question, seed=seed)


def drawn(pool: Sequence[StoredQuestion], shape: Shape, *, greedy: bool = False, seed: int = 0) -> Drawn:
    """Draws of the shape's branches from each question's samples, after its answer at temperature 0 where the shape
    begins with that; `greedy`: from that answer alone. Raises ValueError."""
    at_zero = [_sample(question.greedy) for question in pool]
    samples = [[sample] for sample in at_zero] if greedy else [[_sample(s) for s in q.samples] for q in pool]
    first = at_zero if shape.greedy and not greedy else None
    return draw(samples, shape.branches, draws_per_question(shape, greedy=greedy), seed, first)


def _sample(stored: StoredSample) -> Sample:
    return Sample(stored.answer, stored.tokens, stored.correct)


def draws_per_question(shape: Shape, *, greedy: bool = False) -> int:
    if greedy or (shape.greedy and shape.branches == 1):
        return 1
    return 32 if shape.branches == 1 else 24


def bootstrap_lower(by_question: np.ndarray, *, draws: int = 1000, level: float = 0.05, seed: int = 0) -> float:
    """The `level` quantile of the mean over questions drawn with replacement; `by_question`: (questions,) in 0..1."""
    rng = np.random.default_rng(seed)
    picks = rng.integers(len(by_question), size=(draws, len(by_question)))
    return float(np.quantile(by_question[picks].mean(axis=1), level))


def curve(strategy: str, params: dict[str, Any], shape: Shape, pool: list[StoredQuestion], *, greedy: bool) -> Curve:
    """Derive one setting's curve from the pool."""
    replays, accuracy, lower = derive(shape, pool, greedy=greedy)
    waited = replays.lengths[:, -1] + sum(wave[:, -1] for wave in replays.later)
    order = np.argsort(waited, kind="stable")
    chosen = order[np.linspace(0, len(order) - 1, min(DRAWS, len(order))).round().astype(int)]
    return Curve(
        strategy=strategy,
        params=params,
        greedy=greedy,
        accuracy=round(accuracy, 4),
        accuracy_lower=round(lower, 4),
        lengths=replays.lengths[chosen].tolist(),
        later=[wave[chosen].tolist() for wave in replays.later],
    )


def read(path: Path) -> Quality:
    """Raises QualityError."""
    try:
        quality = msgspec.json.decode(path.read_bytes(), type=Quality)
    except OSError as error:
        raise QualityError(f"cannot read the quality table {path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise QualityError(f"{path} is not a quality table ({error}); make it with `paretoproxy quality`") from error
    if quality.schema != SCHEMA:
        raise QualityError(f"{path} has schema {quality.schema}, this version reads {SCHEMA}; derive it again")
    return quality


def write(quality: Quality, path: Path) -> None:
    files.replace(path, msgspec.json.encode(quality))


def read_samples(path: Path) -> Iterator[StoredQuestion]:
    """Lines of a samples file, none where there is no file. Raises QualityError."""
    return read_lines(path, StoredQuestion)


def read_lines(path: Path, kind: type[T]) -> Iterator[T]:
    """A file of JSON lines; a last line cut short by an interruption is left out. Raises QualityError."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield msgspec.json.decode(line, type=kind)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise QualityError(f"{path}:{number}: {error}") from error
