"""Finished branches into answer classes: what a vote counts."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, Protocol, TypeAlias, get_args

from strategies.answers.canonical import Key, canonical, is_plain
from strategies.answers.choice import choice
from strategies.answers.extract import extract, split_thinking
from strategies.answers.json_answer import find_json
from strategies.base import Answer

AnswerKind: TypeAlias = Literal["math", "choice", "json", "text", "tools"]
"""How a task's answers are compared: as mathematics, as a letter, as JSON values, as folded text, or as calls of tools
(a JSON list of names and arguments; an answer without calls as text)."""

MAX_CHECKS = 128
"""Slow comparisons that one request may ask for; beyond them unequal formulas count as different."""


class Equivalence(Protocol):
    """A slow judge of two answers as written."""

    async def same(self, a: str, b: str) -> bool:
        """Whether they are equal. Raises anything where it cannot tell."""
        ...


class Grouper:
    """The answer classes of one request. Safe for branches that finish while another is being compared.

    A known answer, or one that is plain (a number, a choice, JSON, text), is classed without suspending. A formula
    that is new as written is compared with the formulas seen before, one branch at a time.
    """

    def __init__(
        self, kind: AnswerKind, equivalence: Equivalence | None = None, schema: dict[str, Any] | None = None
    ) -> None:
        """`equivalence` is asked for "math" and "text" only; without it what is not equal as written is different.
        `schema`: of JSON answers; one that breaks it abstains.

        Raises ValueError on an unknown kind.
        """
        if kind not in get_args(AnswerKind):
            raise ValueError(f"unknown kind of answers {kind!r}: one of {', '.join(get_args(AnswerKind))}")
        self.kind = kind
        self._read = _READERS[kind] if kind != "json" or schema is None else partial(find_json, schema=schema)
        self._equivalence = equivalence if kind in ("math", "text") else None
        self._groups: dict[Key, int] = {}
        self._count = 0
        self._formulas: list[Answer] = []
        self._checks_left = MAX_CHECKS
        self._deciding = asyncio.Lock()
        self.undecided = 0
        """Comparisons that failed, ran out of time or were over `MAX_CHECKS`; each was taken as "different"."""

    @property
    def asks(self) -> bool:
        """Texts are compared by somebody else, who may take long."""
        return self.kind == "text" and self._equivalence is not None

    async def group(self, text: str) -> Answer | None:
        """The answer of a finished branch's text; None: it gives none, abstains and never votes."""
        found = self._read(text)
        if found is None:
            return None
        written, key = found
        group = self._groups.get(key)
        if group is None:
            if self._equivalence is None or (self.kind == "math" and is_plain(key)):
                group = self._open(key)
            else:
                group = await self._group_formula(self._equivalence, written, key)
        return Answer(group, written)

    def _open(self, key: Key) -> int:
        group = self._groups[key] = self._count
        self._count += 1
        return group

    async def _group_formula(self, equivalence: Equivalence, written: str, key: Key) -> int:
        async with self._deciding:  # two new spellings of one answer must not open two classes
            group = self._groups.get(key)
            if group is None:
                group = await self._equal_formula(equivalence, written)
                if group is None:
                    group = self._open(key)
                    self._formulas.append(Answer(group, written))
                self._groups[key] = group
            return group

    async def _equal_formula(self, equivalence: Equivalence, written: str) -> int | None:
        for formula in self._formulas:
            if await self._same(equivalence, formula.text, written):
                return formula.group
        return None

    async def _same(self, equivalence: Equivalence, known: str, new: str) -> bool:
        try:
            if self._checks_left > 0:
                self._checks_left -= 1
                return await equivalence.same(known, new)
        except Exception:  # whatever went wrong, the vote goes on; the count tells
            pass
        self.undecided += 1
        return False


_Reader: TypeAlias = Callable[[str], tuple[str, Key] | None]


def _read_math(text: str) -> tuple[str, Key] | None:
    written = extract(text)
    if written is None:
        return None
    key = canonical(written)
    return None if key == "" else (written, key)


def _read_choice(text: str) -> tuple[str, Key] | None:
    written = extract(text)
    letter = None if written is None else choice(written)
    return None if written is None or letter is None else (written, letter)


def _read_tools(text: str) -> tuple[str, Key] | None:
    calls = find_json(text) if text.startswith('[{"name":') else None
    return calls or _read_text(text)


def _read_text(text: str) -> tuple[str, Key] | None:
    written = split_thinking(text)[1].strip()
    return (written, " ".join(written.split()).casefold()) if written else None


_READERS: dict[AnswerKind, _Reader] = {
    "math": _read_math,
    "choice": _read_choice,
    "json": find_json,
    "text": _read_text,
    "tools": _read_tools,
}
