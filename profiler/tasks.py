"""Labelled tasks: questions with gold answers, from a JSONL file or built in.

A task file has one JSON object per line (blank lines are skipped):

    {"question": "What is 2 + 3?", "answer": "5", "grader": "number", "class": "steps-1"}

`answer` is text or a number. `grader` says how an answer is compared with it: `math` (equivalence, the default),
`number` or `exact`. `class` is any label to report accuracy by, such as the difficulty (default `all`).
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from profiler.tinymath import task as tinymath

Answers = Literal["math", "choice", "json", "text"]
"""How the answers of a task are grouped when they vote."""
Grader = Literal["exact", "number", "math"]
"""How an answer is compared with the gold answer."""

DEFAULT_BUILT_IN_COUNT: Final = 200


class TaskError(ValueError):
    """A task that cannot be used; the message names what to change (file, line and key where there is one)."""


class TaskQuestion(BaseModel):
    """One labelled question; the fields are the keys of a task file's line, but for `label` (there: `class`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: str = Field(min_length=1)
    answer: str = Field(min_length=1, coerce_numbers_to_str=True)
    grader: Grader = "math"
    label: str = Field(default="all", min_length=1, alias="class")

    @field_validator("grader")
    @classmethod
    def _a_number_is_compared_with_a_number(cls, grader: Grader, info: ValidationInfo) -> Grader:
        answer = info.data.get("answer")
        if grader == "number" and answer is not None and not _is_number(answer):
            raise ValueError(f"the answer {answer!r} is not a number")
        return grader


@dataclass(frozen=True, slots=True)
class Task:
    """Labelled questions under one name, and how their answers are grouped."""

    name: str
    answers: Answers
    questions: tuple[TaskQuestion, ...]


def load_task(name_or_path: str | Path, *, count: int | None = None, answers: Answers | None = None) -> Task:
    """The built-in task of that name, else the task file at that path.

    `count` takes the first questions only (built-in tasks: any number, 200 unless told; a file: all unless told).
    `answers` says how answers are grouped; unless told it follows a file's graders: `math` or `number` means math;
    `exact` means choice where all answers are single capital letters, json where all are JSON objects or arrays,
    else text. Raises TaskError.
    """
    if count is not None and count < 1:
        raise TaskError(f"task {name_or_path}: count must be at least 1, got {count}")
    if built_in := _BUILT_IN.get(str(name_or_path)):
        questions = built_in(count or DEFAULT_BUILT_IN_COUNT)
        return Task(str(name_or_path), answers or "math", questions)
    path = Path(name_or_path)
    questions = _read(path, count)
    return Task(path.stem, answers or _grouping(path, questions), questions)


def _tinymath(seed: int) -> Callable[[int], tuple[TaskQuestion, ...]]:
    def build(count: int) -> tuple[TaskQuestion, ...]:
        rows = (question.as_task_row() for question in tinymath.questions(count, seed))
        return tuple(TaskQuestion.model_validate({**row, "grader": "number"}) for row in rows)

    return build


_BUILT_IN: Final[Mapping[str, Callable[[int], tuple[TaskQuestion, ...]]]] = MappingProxyType(
    {"tinymath": _tinymath(tinymath.POOL_SEED), "tinymath-held-out": _tinymath(tinymath.HELD_OUT_SEED)}
)


def _read(path: Path, count: int | None) -> tuple[TaskQuestion, ...]:
    try:
        # Lines end at newlines only: str.splitlines would also cut at U+2028, which JSON allows in a string.
        with path.open(encoding="utf-8-sig") as lines:
            filled = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
            questions = tuple(_parse(path, number, line) for number, line in islice(filled, count))
    except FileNotFoundError:
        known = ", ".join(_BUILT_IN)
        raise TaskError(f"task {path}: no such file, and no built-in task (there are: {known})") from None
    except UnicodeDecodeError as error:
        raise TaskError(f"task file {path}: not UTF-8 ({error.reason})") from None
    except OSError as error:
        raise TaskError(f"task file {path}: {error.strerror}") from None
    if len(questions) < (count or 1):
        raise TaskError(f"task file {path}: {len(questions)} questions, {count or 'at least 1'} wanted")
    return questions


def _parse(path: Path, number: int, line: str) -> TaskQuestion:
    try:
        return TaskQuestion.model_validate_json(line)
    except ValidationError as error:
        problems = "; ".join(
            ": ".join([*(f"key {key!r}" for key in detail["loc"][:1]), detail["msg"]])
            for detail in error.errors(include_url=False)
        )
        raise TaskError(f"task file {path}, line {number}: {problems}") from None


def _grouping(path: Path, questions: tuple[TaskQuestion, ...]) -> Answers:
    exact = [question.grader == "exact" for question in questions]
    if not any(exact):
        return "math"
    if not all(exact):
        raise TaskError(f"task file {path}: key 'grader': `exact` and others are mixed; make them one task each")
    gold = [question.answer for question in questions]
    if all(len(answer) == 1 and "A" <= answer <= "Z" for answer in gold):
        return "choice"
    return "json" if all(_is_json_container(answer) for answer in gold) else "text"


def _is_number(answer: str) -> bool:
    try:
        return math.isfinite(float(answer.replace(",", "")))
    except ValueError:
        return False


def _is_json_container(answer: str) -> bool:
    try:
        return isinstance(json.loads(answer), (dict, list))
    except ValueError:
        return False
