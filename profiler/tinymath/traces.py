"""The derivations that training uses: reasoning traces with corrupted passes and re-checks."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from profiler.tinymath.task import Problem

RECHECK: Final = "Wait, let me check again.\n"
SINGLE_PASS_SHARE: Final = 0.55
"""Share of traces that derive the answer once, without a corrupted step."""
CORRUPTED_PASS_SHARE: Final = 0.35
"""Share of corrupted passes among those of a re-checking trace."""
MAX_PASSES: Final = 5
_SLIPS: Final = (-100, -20, -10, -2, -1, 1, 2, 10, 20, 100)


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of the assistant's text, and whether the loss counts it."""

    text: str
    trained: bool = True


@dataclass(frozen=True, slots=True)
class Pass:
    """One derivation: its lines ("12 + 7 = 19"), its result, and the index of its corrupted step, if any."""

    lines: tuple[str, ...]
    result: int
    corrupted: int | None


@dataclass(frozen=True, slots=True)
class Trace:
    """What the assistant writes for a problem, and the answer it ends in (not always the right one)."""

    segments: tuple[Segment, ...]
    answer: int


def run_pass(rng: Random, problem: Problem, corruption: float) -> Pass:
    """Derive the answer; with probability `corruption` one step slips and the error is carried on."""
    slip_at = rng.randrange(len(problem.steps)) if rng.random() < corruption else None
    value, lines = problem.start, []
    for index, step in enumerate(problem.steps):
        result = step.apply(value)
        if index == slip_at:
            result = abs(result + rng.choice(_SLIPS))
        lines.append(f"{value} {step.operator} {step.operand} = {result}")
        value = result
    return Pass(tuple(lines), value, slip_at)


def make_trace(rng: Random, problem: Problem, corruption: float = CORRUPTED_PASS_SHARE) -> Trace:
    """One clean pass, or passes until one repeats an earlier result (at most MAX_PASSES).

    The result of a corrupted step is never trained on: the model is to learn to re-check, not to slip.
    """
    rechecks = rng.random() >= SINGLE_PASS_SHARE
    segments, results = [Segment("<think>\n")], list[int]()
    while True:
        derivation = run_pass(rng, problem, corruption if rechecks else 0.0)
        segments += _segments(derivation)
        agreed = derivation.result in results
        results.append(derivation.result)
        if not rechecks or agreed or len(results) >= MAX_PASSES:
            break
        segments.append(Segment(RECHECK))
    answer = _settle(results)
    segments.append(Segment(f"</think>\nThe answer is \\boxed{{{answer}}}."))
    return Trace(tuple(segments), answer)


def _segments(derivation: Pass) -> list[Segment]:
    segments = []
    for index, line in enumerate(derivation.lines):
        if index == derivation.corrupted:
            head, slipped = line.split("= ")
            segments += [Segment(head + "= "), Segment(slipped + "\n", trained=False)]
        else:
            segments.append(Segment(line + "\n"))
    return segments


def _settle(results: Sequence[int]) -> int:
    """The most frequent result; of equally frequent ones the latest."""
    newest_first = results[::-1]
    return max(newest_first, key=results.count)
