"""The derivations that training reads: four approaches, each with a mistake of its own, slips, and re-checks.

Errors are part of what is trained, so that their kind and rate are chosen and not left to a model's weaknesses:

- An *approach* is named in the first line of a pass. Each forgets carries of its own kind of operation, always the same
  ones: its mistakes are systematic. Greedy decoding takes the most frequent approach and makes its mistakes in every
  answer; sampled answers mix approaches, so a vote mends what one approach alone gets wrong, and a question that the
  frequent approach gets wrong is where a verifier beats the vote.
- A *slip* is a random wrong result, rare on every line: what sampling at temperature 1 adds.
- A *re-check* derives again with another approach and with more care: it forgets fewer carries and slips half as often.
  Whether a first pass is re-checked is chance, so a longer thought is a more accurate one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from profiler.tinymath.task import OPERATIONS, Operator, Problem

RECHECK: Final = "Wait, let me check again.\n"
APPROACHES: Final = ("Calculate:", "Compute:", "Evaluate:", "Start:")
"""First lines of a pass, the most frequent approach first; each is a word of the tokenizer."""
MAX_PASSES: Final = 4
_FORGETS: Final[Mapping[str, tuple[Operator, int]]] = {
    "Calculate:": ("+", 1),
    "Compute:": ("-", 1),
    "Evaluate:": ("*", 1),
    "Start:": ("+", 10),
}
"""The operation whose carry an approach forgets, and the place that the carry comes from."""
_DIGITS: Final = (9, 8, 7, 6, 5, 4, 3, 2, 1)
_SLIPS: Final = (-100, -20, -10, -2, -1, 1, 2, 10, 20, 100)


@dataclass(frozen=True, slots=True)
class Habits:
    """How derivations go wrong. Shares and probabilities are 0 to 1, one entry an approach where there are four.

    `forgotten`: approach i forgets the carry where the operand's digit is one of the `forgotten[i]` largest (0 to 9).
    `careful`: the same in a re-check. `slip`: probability that a line's result is off at random, in a first pass.
    `recheck`: that a first pass is followed by another.
    `cut`: that the thought is cut short, and `prolonged`: that it goes on after it would have ended; neither border is
    trained on, only what follows, so that an answer forced early and a re-check forced late are nothing new.
    """

    shares: tuple[float, float, float, float] = (0.34, 0.22, 0.22, 0.22)
    forgotten: tuple[int, int, int, int] = (3, 3, 2, 3)
    careful: tuple[int, int, int, int] = (1, 1, 1, 1)
    slip: float = 0.025
    recheck: float = 0.4
    cut: float = 0.06
    prolonged: float = 0.08

    def of_a_recheck(self) -> Habits:
        return replace(self, forgotten=self.careful, slip=self.slip / 2)


FAULTLESS: Final = Habits(forgotten=(0, 0, 0, 0), careful=(0, 0, 0, 0), slip=0.0)


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of the assistant's text, and whether the loss counts it."""

    text: str
    trained: bool = True


@dataclass(frozen=True, slots=True)
class Pass:
    """One derivation: its approach, its lines ("12 + 7 = 19") and its result."""

    approach: str
    lines: tuple[str, ...]
    result: int


@dataclass(frozen=True, slots=True)
class Trace:
    """What the assistant writes for a problem, and the answer it ends in (not always the right one)."""

    segments: tuple[Segment, ...]
    answer: int

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.segments)


def sound_lines(problem: Problem) -> tuple[str, ...]:
    """The lines of a derivation without errors; the same for every approach."""
    return run_pass(Random(0), problem, APPROACHES[0], FAULTLESS).lines


def run_pass(rng: Random, problem: Problem, approach: str, habits: Habits) -> Pass:
    """Derive the answer with an approach's mistakes and random slips; an error is carried on.

    A product of two numbers from 11 on takes three lines (tens, units, sum), every other step takes one.
    """
    lines: list[str] = []
    forgets, place = _FORGETS[approach]
    digits = _DIGITS[: habits.forgotten[APPROACHES.index(approach)]]

    def write(left: int, operator: Operator, right: int) -> int:
        result = OPERATIONS[operator](left, right)
        if operator == forgets and digits and left >= 0 and right >= 0:
            result += _forgotten_carry(left, operator, right, place, digits)
        if habits.slip and rng.random() < habits.slip:
            result = abs(result + rng.choice(_SLIPS))
        lines.append(f"{left} {operator} {right} = {result}")
        return result

    value = problem.start
    for step in problem.steps:
        if step.operator == "*" and value > 10 and step.operand > 10 and step.operand % 10:
            tens = write(value, "*", step.operand - step.operand % 10)
            value = write(tens, "+", write(value, "*", step.operand % 10))
        else:
            value = write(value, step.operator, step.operand)
    return Pass(approach, tuple(lines), value)


def make_trace(rng: Random, problem: Problem, habits: Habits) -> Trace:
    """Passes until one repeats an earlier result (at most MAX_PASSES), or a single one, then the answer."""
    passes = [run_pass(rng, problem, _draw_approach(rng, habits, None), habits)]
    careful, rechecks = habits.of_a_recheck(), rng.random() < habits.recheck
    prolonged = rng.random() < habits.prolonged
    segments = [Segment(f"<think>\n{_written(passes[0])}")]
    while len(passes) < MAX_PASSES:
        ended = _repeated(passes) or not (rechecks or len(passes) > 1)
        if ended and not prolonged:
            break
        prolonged = prolonged and not ended
        passes.append(run_pass(rng, problem, _draw_approach(rng, habits, passes[-1].approach), careful))
        segments += [Segment(RECHECK, trained=not ended), Segment(_written(passes[-1]))]
    if rng.random() < habits.cut:
        return _cut(rng, problem, passes)
    answer = settle([derivation.result for derivation in passes])
    return Trace((*segments, Segment(closing(answer))), answer)


def settle(results: Sequence[int]) -> int:
    """The most frequent result; of equally frequent ones the latest."""
    newest_first = results[::-1]
    return max(newest_first, key=results.count)


def closing(answer: int) -> str:
    """The end of the thought and the answer."""
    return f"</think>\nThe answer is \\boxed{{{answer}}}."


def _cut(rng: Random, problem: Problem, passes: Sequence[Pass]) -> Trace:
    """A thought cut anywhere in some pass: it answers what the whole passes say, else the value so far."""
    whole = rng.randrange(len(passes))
    lines = passes[whole].lines
    kept = rng.randrange(len(lines))
    next_line = lines[kept][: rng.randrange(len(lines[kept]))] if rng.random() < 0.7 else ""
    part = "".join(f"{line}\n" for line in (passes[whole].approach, *lines[:kept])) + next_line
    text = RECHECK.join([*(_written(derivation) for derivation in passes[:whole]), part])
    so_far = int(lines[kept - 1].split("= ")[1]) if kept else problem.start
    answer = settle([derivation.result for derivation in passes[:whole]]) if whole else so_far
    # The closing tag is what a cut forces, so only the answer after it is trained on.
    forced, answered = closing(answer).split("\n")
    newline = "\n" if next_line and rng.random() < 0.5 else ""
    return Trace(
        (Segment(f"<think>\n{text}"), Segment(f"{newline}{forced}\n", trained=False), Segment(answered)), answer
    )


def _repeated(passes: Sequence[Pass]) -> bool:
    return any(passes[-1].result == earlier.result for earlier in passes[:-1])


def _draw_approach(rng: Random, habits: Habits, last: str | None) -> str:
    """One by its share; for a re-check one other than the last."""
    weights = [0.0 if name == last else share for name, share in zip(APPROACHES, habits.shares, strict=True)]
    return rng.choices(APPROACHES, weights)[0]


def _written(derivation: Pass) -> str:
    return "".join(f"{line}\n" for line in (derivation.approach, *derivation.lines))


def _forgotten_carry(left: int, operator: Operator, right: int, place: int, digits: Sequence[int]) -> int:
    """What forgetting the carry from `place` adds to the result: 0 where the digit is none of those, or no carry."""
    if operator == "*" and right > 10:
        place = 10  # a product by tens: the digit is that of the tens, and so is the carry
    digit = right // place % 10
    if digit not in digits or (operator == "*" and right >= 100):
        return 0
    if operator == "*":
        return -10 * place if left % 10 * digit >= 10 else 0
    below, of_left = right % (10 * place), left % (10 * place)
    if operator == "+":
        return -10 * place if of_left + below >= 10 * place else 0
    return 10 * place if of_left < below and left >= right else 0
