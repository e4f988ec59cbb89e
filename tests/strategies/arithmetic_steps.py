"""A small "model" for tests of searches: it adds numbers up, one sum a line, and often gets a sum wrong.

    What is 3 + 5 + 2 + 6?      3+5=8⏎ 8+2=10⏎ 10+6=16⏎ \\boxed{16}

Each line is a token of one second. `Adder.line` is what a test may decide; `process_reward` knows the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from strategies.base import Generation, Scorer
from strategies.testing import Scripted

NUMBERS = (3, 5, 2, 6)
LINES = len(NUMBERS)  # three sums and the answer
RIGHT = "3+5=8\n8+2=10\n10+6=16\n\\boxed{16}"


class Adder:
    """`wrong`: how often a sum is off by one. Draws depend on the seed and the branch's index only."""

    def __init__(self, wrong: float = 0.5, seed: int = 0, delimiter: str = "\n") -> None:
        self._wrong, self._seed, self._delimiter = wrong, seed, delimiter

    def __call__(self, generation: Generation, index: int) -> Scripted:
        random = Random(f"{self._seed} {index}")
        text = generation.continues
        written: list[str] = []
        most = LINES if generation.max_tokens is None else generation.max_tokens
        while len(written) < most:
            line = next_line(text, self._delimiter, random.random() < self._wrong)
            written.append(line)
            text += line
            if not line.endswith(self._delimiter):
                return Scripted(len(written), "".join(written), len(written))
            if generation.stop:
                return Scripted(1, line, 1)
        return Scripted(most, "".join(written), most, "length")


def next_line(text: str, delimiter: str = "\n", wrong: bool = False) -> str:
    """What follows these lines; the answer repeats the last sum."""
    lines = [line for line in text.split(delimiter) if line]
    so_far = int(lines[-1].split("=")[1]) if lines else NUMBERS[0]
    if len(lines) == LINES - 1:
        return f"\\boxed{{{so_far}}}"
    number = NUMBERS[len(lines) + 1]
    return f"{so_far}+{number}={so_far + number + wrong}{delimiter}"


def step_scores(text: str, delimiter: str = "\n") -> list[float]:
    """0.9 for each line until the first wrong one, 0.1 from there on."""
    scores: list[float] = []
    reward = 0.9
    for at, line in enumerate(line for line in text.split(delimiter) if line):
        if at < LINES - 1:
            left, total = line.split("=")
            if sum(int(number) for number in left.split("+")) != int(total):
                reward = 0.1
        scores.append(reward)
    return scores


def process_reward(texts: Sequence[str], by: Scorer) -> list[list[float]]:
    assert by == "process-reward"
    return [step_scores(text) for text in texts]


def scores_by(reward: Callable[[str], float]) -> Callable[[Sequence[str], Scorer], list[list[float]]]:
    """One score for each text's every line, of the text as it is."""
    return lambda texts, by: [[reward(text)] for text in texts]
