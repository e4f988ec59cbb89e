"""What verifiers are trained on: answers as token ids, each line labelled by the checker, and the answer as a whole.

A line is right while every line of its pass up to it is that of a sound derivation; a re-check starts anew, since what
it derives does not depend on the pass before. The last row of an answer is right where the boxed answer is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from profiler.tinymath.task import Problem, draw, grade
from profiler.tinymath.tokens import END_THINK_ID, THINK_ID, TURN_END, TURN_END_ID, encoded, prompt
from profiler.tinymath.traces import APPROACHES, RECHECK, Habits, make_trace, sound_lines

UNLABELLED: Final = -100
LABEL_SEED: Final = 900_000
"""Questions whose sampled answers verifiers and the draft are trained on: batch i has seed LABEL_SEED + i."""
SYNTHETIC_SEED: Final = 950_000
NEWLINE_ID: Final = encoded(["\n"])[0][0]
_BARE_SHARE: Final = 0.2
"""Share of answers without the thinking tags: engines drop special tokens unless told to keep them."""


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of prompt and answer, and a label (0, 1 or UNLABELLED) for each; the last token's is the outcome."""

    ids: list[int]
    labels: list[int]


def line_labels(problem: Problem, text: str) -> list[bool]:
    """For each line end of an answer whether the derivation is right so far."""
    sound, labels, at, right = sound_lines(problem), [], 0, True
    for line in text.split("\n")[:-1]:
        if line in APPROACHES or f"{line}\n" == RECHECK:
            at, right = 0, True
        elif " = " in line:
            right = right and at < len(sound) and line == sound[at]
            at += 1
        elif line == "</think>":
            right = right and at == len(sound)
        labels.append(right)
    return labels


def example(rng: Random, problem: Problem, prompt_ids: Sequence[int], ids: Sequence[int], text: str) -> Example | None:
    """One labelled answer, its end as a client may send it: bare, with the end of turn, or with a line end after it.

    None where ids and text do not have the same lines (a token that spans two).
    """
    lines, outcome = line_labels(problem, text), int(grade(text, problem.answer))
    kept = [token for token in ids if token != TURN_END_ID]
    labels = [UNLABELLED] * len(kept)
    ends = [index for index, token in enumerate(kept) if token == NEWLINE_ID]
    if len(ends) != len(lines) or not kept:
        return None
    for index, right in zip(ends, lines, strict=True):
        labels[index] = int(right)
    labels[-1] = outcome
    if rng.random() < _BARE_SHARE:
        tags = (THINK_ID, END_THINK_ID)
        labels = [label for token, label in zip(kept, labels, strict=True) if token not in tags]
        kept = [token for token in kept if token not in tags]
    ending = ([], [TURN_END_ID], [TURN_END_ID, NEWLINE_ID])[rng.randrange(3)]
    return Example([*prompt_ids, *kept, *ending], [UNLABELLED] * len(prompt_ids) + labels + [outcome] * len(ending))


def synthetic_chunk(seed: int, count: int) -> list[Example]:
    """Answers made as the policies' training data are, with more kinds and rates of errors than theirs."""
    rng, examples = Random(seed), []
    drawn = [draw(rng) for _ in range(count)]
    texts = [make_trace(rng, problem, _any_habits(rng)).text for _, problem in drawn]
    prompts = encoded([prompt(question.question) for question, _ in drawn])
    for (_, problem), prompt_ids, ids, text in zip(drawn, prompts, encoded(texts), texts, strict=True):
        one = example(rng, problem, prompt_ids, ids, text + TURN_END)
        examples += [one] if one else []
    return examples


def _any_habits(rng: Random) -> Habits:
    def digits(most: int) -> tuple[int, int, int, int]:
        return rng.randrange(most), rng.randrange(most), rng.randrange(most), rng.randrange(most)

    return Habits(forgotten=digits(6), careful=digits(4), slip=rng.uniform(0.0, 0.06), cut=0.02)
