"""Answers of branches: found in text, brought to a normal form, and grouped into the classes that a vote counts."""

from strategies.answers.canonical import Key, canonical, is_plain
from strategies.answers.choice import choice
from strategies.answers.equivalence import MathVerifyPool
from strategies.answers.errors import Closed, OutOfTime, Overloaded, Undecided
from strategies.answers.extract import CLOSE, OPEN, extract, split_thinking
from strategies.answers.grouping import AnswerKind, Equivalence, Grouper
from strategies.answers.json_answer import canonical_json
from strategies.base import Answer

__all__ = [
    "CLOSE",
    "OPEN",
    "Answer",
    "AnswerKind",
    "Closed",
    "Equivalence",
    "Grouper",
    "Key",
    "MathVerifyPool",
    "OutOfTime",
    "Overloaded",
    "Undecided",
    "canonical",
    "canonical_json",
    "choice",
    "extract",
    "is_plain",
    "split_thinking",
]
