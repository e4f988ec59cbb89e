"""What a verifier is worth: best of 16 sampled answers against the vote, on questions not trained on."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from profiler.tinymath import metrics
from profiler.tinymath.task import boxed_answer
from profiler.tinymath.tokens import TURN_END_ID, encoded
from profiler.tinymath.traces import RECHECK
from profiler.tinymath.train_evaluation import SAMPLES_PER_QUESTION, Answered, as_samples, rounded
from profiler.tinymath.verifier_data import NEWLINE_ID, line_labels
from profiler.tinymath.verifiers import Kind, scores

StepScores = Sequence[float]
_AGGREGATES: Final[Mapping[str, Callable[[StepScores], float]]] = {
    "last": lambda steps: steps[-1],
    "min": min,
    "mean": lambda steps: float(np.mean(steps)),
    "product": lambda steps: float(np.prod(steps)),
}
_RECHECK_IDS: Final = encoded([RECHECK])[0]


def evaluate(model: Any, kind: Kind, sampled: Sequence[Answered]) -> dict[str, Any]:
    """Best of 16 and weighted vote for each way to make one score of an answer's step scores, as JSON values."""
    rows = [[*a.asked.prompt_ids, *_without_end(ids)] for a in sampled for ids in a.ids]
    found = scores(model, kind, rows)
    steps = [_steps(kind, a, _without_end(ids), row) for (a, ids), row in zip(_flat(sampled), found, strict=True)]
    right = np.array([flag for answered in sampled for flag in answered.right])
    samples = [as_samples(answered) for answered in sampled]
    figures: dict[str, Any] = {
        "questions": len(sampled),
        "vote@16": metrics.vote_at(SAMPLES_PER_QUESTION, samples),
        "pass@16": metrics.pass_at_all(samples),
        "outcome_accuracy": float(np.mean((np.array([row[-1] for row in found]) > 0.5) == right)),
    }
    for name, aggregate in _AGGREGATES.items() if kind == "prm" else [("last", _AGGREGATES["last"])]:
        scored = np.array([aggregate(one) for one in steps]).reshape(len(sampled), -1)
        figures[name] = {
            "best_of@16": float(np.mean([a.right[int(row.argmax())] for a, row in zip(sampled, scored, strict=True)])),
            "weighted_vote@16": float(
                np.mean([_weighted(a, row.tolist()) for a, row in zip(sampled, scored, strict=True)])
            ),
        }
    if kind == "prm":
        figures["line_accuracy"] = _line_accuracy(sampled, found)
    result: dict[str, Any] = rounded(figures)
    return result


def _steps(kind: Kind, answered: Answered, ids: Sequence[int], row: Sequence[float]) -> StepScores:
    """Scores at the line ends of the last pass and at the last token: earlier passes are taken back by a re-check."""
    if kind == "orm":
        return row
    first, own = _last_pass(ids), row[len(answered.asked.prompt_ids) :]
    return [*(own[i] for i in range(first, len(ids) - 1) if ids[i] == NEWLINE_ID), own[-1]]


def _last_pass(ids: Sequence[int]) -> int:
    """Where the text after the last re-check begins; 0 where there is none."""
    size = len(_RECHECK_IDS)
    starts = [i + size for i in range(len(ids) - size + 1) if ids[i] == _RECHECK_IDS[0]]
    return max((start for start in starts if list(ids[start - size : start]) == _RECHECK_IDS), default=0)


def _line_accuracy(sampled: Sequence[Answered], found: Sequence[Sequence[float]]) -> float:
    hits, lines = 0, 0
    texts = [text for answered in sampled for text in answered.texts]
    for (answered, ids), text, row in zip(_flat(sampled), texts, found, strict=True):
        labels, own = line_labels(answered.asked.problem, text), row[len(answered.asked.prompt_ids) :]
        ends = [i for i, token in enumerate(_without_end(ids)) if token == NEWLINE_ID]
        for end, label in zip(ends, labels, strict=False):
            hits, lines = hits + int((own[end] > 0.5) == label), lines + 1
    return hits / max(1, lines)


def _weighted(answered: Answered, row: Sequence[float]) -> bool:
    weights: dict[int, float] = defaultdict(float)
    for text, score in zip(answered.texts, row, strict=True):
        value = boxed_answer(text)
        if value is not None:
            weights[value] += score
    return bool(weights) and max(weights, key=weights.__getitem__) == answered.asked.question.answer


def _flat(sampled: Sequence[Answered]) -> list[tuple[Answered, list[int]]]:
    return [(answered, ids) for answered in sampled for ids in answered.ids]


def _without_end(ids: Sequence[int]) -> list[int]:
    return [token for token in ids if token != TURN_END_ID] or list(ids)
