"""Multi-step integer arithmetic with checkable answers: problems, phrasings, grading.

The shipped weights were trained on exactly this distribution and these words. Every draw from the random
generator, and its order, is therefore part of the task: a frozen test fails when one of them moves.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import add, floordiv, mod, mul, sub
from random import Random
from typing import Final, Literal

Operator = Literal["+", "-", "*", "//", "%"]

MIN_STEPS: Final = 2
MAX_STEPS: Final = 16

TOKENIZER_SEED: Final = 0
"""The texts that the tokenizer was trained on."""
EVALUATION_SEED: Final = 7
"""The questions that training reports its accuracy on."""
POOL_SEED: Final = 21
"""The quality pool: the questions that quality tables are sampled from."""
HELD_OUT_SEED: Final = 22
"""The questions that published numbers and tests use; nothing is tuned on them."""
FIRST_TRAINING_SEED: Final = 1000
"""Training data chunk i uses FIRST_TRAINING_SEED + i (the shipped weights: i < 300), so stay below it."""

OPERATIONS: Final[Mapping[Operator, Callable[[int, int], int]]] = {
    "+": add,
    "-": sub,
    "*": mul,
    "//": floordiv,
    "%": mod,
}
_OPERATORS: Final[tuple[Operator, ...]] = ("+", "-", "*", "//", "%")

_NAMES: Final = ("Ana", "Bo", "Cara", "Dev", "Eli", "Fay", "Gus", "Hana")
_THINGS: Final = ("apples", "coins", "cards", "pens", "shells", "stamps")
_EXPRESSION_FORMS: Final = ("What is {}?", "Compute {}.", "Calculate {}.", "Evaluate {}.")
_INSTRUCTIONS: Final[Mapping[Operator, str]] = {
    "+": "add {}",
    "-": "subtract {}",
    "*": "multiply by {}",
    "//": "divide by {} and drop the remainder",
    "%": "take the remainder modulo {}",
}
_EVENTS: Final[Mapping[Operator, str]] = {
    "+": "gets {} more",
    "-": "gives away {}",
    "*": "has the number multiplied by {}",
    "//": "shares all in {} equal heaps and keeps one heap",
    "%": "packs boxes of {} and keeps only the rest",
}
_BOXED: Final = re.compile(r"\\boxed\{(-?[0-9]+)\}")


@dataclass(frozen=True, slots=True)
class Step:
    """One operation on the running value."""

    operator: Operator
    operand: int

    def apply(self, value: int) -> int:
        return OPERATIONS[self.operator](value, self.operand)


@dataclass(frozen=True, slots=True)
class Problem:
    """A start value and the steps applied to it, one after the other."""

    start: int
    steps: tuple[Step, ...]

    @property
    def answer(self) -> int:
        value = self.start
        for step in self.steps:
            value = step.apply(value)
        return value


@dataclass(frozen=True, slots=True)
class Question:
    """A phrased problem, its gold answer and its difficulty (number of steps, 2 to 16)."""

    question: str
    answer: int
    steps: int

    def as_task_row(self) -> dict[str, str]:
        """The question as one row of a labelled task (profiler.tasks)."""
        return {"question": self.question, "answer": str(self.answer), "class": f"steps-{self.steps}"}


def questions(count: int, seed: int) -> list[Question]:
    """The first `count` questions of `seed`; a larger count only appends. See the named seeds above."""
    if count < 0:
        raise ValueError(f"count must not be negative, got {count}")
    rng = Random(seed)
    return [draw(rng)[0] for _ in range(count)]


def draw(rng: Random) -> tuple[Question, Problem]:
    """One question and the problem behind it, its number of steps uniform in MIN_STEPS..MAX_STEPS."""
    problem = make_problem(rng, rng.randint(MIN_STEPS, MAX_STEPS))
    return Question(phrase(rng, problem), problem.answer, len(problem.steps)), problem


def make_problem(rng: Random, step_count: int) -> Problem:
    """A chain of `step_count` steps whose running value stays non-negative and mostly below 100,000."""
    start = value = rng.randint(2, 99)
    steps: list[Step] = []
    for _ in range(step_count):
        operator = _draw_operator(rng, value)
        step = Step(operator, _draw_operand(rng, operator, value))
        steps.append(step)
        value = step.apply(value)
    return Problem(start, tuple(steps))


def phrase(rng: Random, problem: Problem) -> str:
    """The problem in words: a nested expression (45 %), instructions (30 %) or a short story (25 %)."""
    style = rng.random()
    if style < 0.45:
        return rng.choice(_EXPRESSION_FORMS).format(_expression(problem))
    if style < 0.75:
        return f"Start with {problem.start}. Then {_listed(_INSTRUCTIONS, problem, ', ')}. What is the result?"
    name, things = rng.choice(_NAMES), rng.choice(_THINGS)
    events = _listed(_EVENTS, problem, ", then ")
    return f"{name} has {problem.start} {things}. {name} {events}. How many {things} does {name} have?"


def boxed_answer(text: str) -> int | None:
    r"""The last `\boxed{integer}` of a generated text; None where there is none."""
    boxed = _BOXED.findall(text)
    if not boxed:
        return None
    try:
        return int(boxed[-1])
    except ValueError:  # a runaway of more digits than Python converts
        return None


def grade(text: str, answer: int) -> bool:
    """Whether a generated text answers with the gold answer."""
    return boxed_answer(text) == answer


def _draw_operator(rng: Random, value: int) -> Operator:
    """Grow small values, bring large ones back: no product from 1,000 on, mostly a remainder from 10,000 on."""
    product = 4 if value < 1000 else 0
    quotient = 2 if value >= 20 else 0
    remainder = 6 if value >= 10_000 else 1 if value >= 100 else 0
    operator = rng.choices(_OPERATORS, weights=[3, 3, product, quotient, remainder])[0]
    return "+" if operator == "-" and value < 12 else operator


def _draw_operand(rng: Random, operator: Operator, value: int) -> int:
    match operator:
        case "+":
            return rng.randint(11, 999) if value > 99 else rng.randint(2, 99)
        case "-":
            return rng.randint(2, value - 1)
        case "*":
            return rng.randint(11, 99) if rng.random() < 0.5 else rng.randint(2, 9)
        case "//":
            return rng.randint(2, 19)
        case "%":
            return 1000 if value >= 10_000 else rng.choice([100, rng.randint(3, 19)])


def _expression(problem: Problem) -> str:
    """The steps as one expression, every step but the last in brackets: `(5 + 3) * 2`."""
    text = str(problem.start)
    for step in problem.steps[:-1]:
        text = f"({text} {step.operator} {step.operand})"
    last = problem.steps[-1]
    return f"{text} {last.operator} {last.operand}"


def _listed(wording: Mapping[Operator, str], problem: Problem, separator: str) -> str:
    return separator.join(wording[step.operator].format(step.operand) for step in problem.steps)
