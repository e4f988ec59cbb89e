"""What sampled texts are worth, and what their re-checks mend: python -m profiler.tinymath.texts_figures FILE…

Reads what `sample.py` wrote, of the pool or of the held-out questions. Prints one line of JSON a file.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from profiler.tinymath import metrics
from profiler.tinymath.task import HELD_OUT_SEED, POOL_SEED, Question, boxed_answer, questions
from profiler.tinymath.traces import RECHECK

_RESULT = re.compile(r"= (-?\d+)$", re.MULTILINE)
_KNOWN = 1000  # questions of each seed


@dataclass(frozen=True, slots=True)
class Rechecked:
    """One answer that re-checked itself: was its first pass right, and was what it answered."""

    first: bool
    answered: bool


def figures(file: Path) -> dict[str, float]:
    """Shares, 0 to 1. `mended`: of the wrong first passes those whose answer is right; `broken`: of the right ones
    those whose answer is wrong. Raises KeyError for a question of neither seed."""
    known = {one.question: one for seed in (POOL_SEED, HELD_OUT_SEED) for one in questions(_KNOWN, seed)}
    samples, greedy, rechecked, texts = [], [], list[Rechecked](), 0
    for line in file.read_text().splitlines():
        told = json.loads(line)
        asked = known[told["question"]]
        answers = tuple(boxed_answer(text) for text, _, _ in told["samples"])
        samples.append(metrics.Samples(answers, asked.answer, asked.steps))
        greedy.append(boxed_answer(told["greedy"][0]) == asked.answer)
        rechecked += [one for text, _, _ in told["samples"] if (one := _rechecked(text, asked)) is not None]
        texts += len(answers)
    vote = min(16, *(len(one.answers) for one in samples))
    found = {
        "pass@1": metrics.pass_at_1(samples),
        "greedy": _share(greedy),
        f"vote@{vote}": metrics.vote_at(vote, samples),
        "re-checked": len(rechecked) / texts,
        "first pass right": _share([one.first for one in rechecked]),
        "answer right": _share([one.answered for one in rechecked]),
        "mended": _share([one.answered for one in rechecked if not one.first]),
        "broken": _share([not one.answered for one in rechecked if one.first]),
    }
    return {name: round(value, 3) for name, value in found.items()}


def _rechecked(text: str, asked: Question) -> Rechecked | None:
    first, again, _ = text.partition(RECHECK)
    if not again:
        return None
    results = _RESULT.findall(first)
    return Rechecked(bool(results) and int(results[-1]) == asked.answer, boxed_answer(text) == asked.answer)


def _share(told: Sequence[bool]) -> float:
    return sum(told) / max(1, len(told))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    for file in parser.parse_args(arguments).files:
        print(f"{file}: {json.dumps(figures(file))}")


if __name__ == "__main__":
    main()
