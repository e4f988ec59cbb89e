"""Branches with equal answers share a class."""

import asyncio
import subprocess
import sys
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.answers import Answer, Grouper, OutOfTime
from strategies.answers.grouping import MAX_CHECKS, AnswerKind


class Table:
    """An Equivalence that knows some pairs, counts what it is asked, and may be held up."""

    def __init__(self, *equal: set[str]) -> None:
        self.equal = equal
        self.asked: list[set[str]] = []
        self.open = asyncio.Event()
        self.open.set()

    async def same(self, a: str, b: str) -> bool:
        self.asked.append({a, b})
        await self.open.wait()
        return {a, b} in self.equal


class Broken:
    async def same(self, a: str, b: str) -> bool:
        raise OutOfTime("no verdict")


async def _groups(grouper: Grouper, *texts: str) -> list[int | None]:
    answers = [await grouper.group(text) for text in texts]
    return [None if answer is None else answer.group for answer in answers]


def _box(answer: str) -> str:
    return rf"thus \boxed{{{answer}}}"


async def test_classes_are_numbered_by_first_sight_and_abstentions_have_none() -> None:
    grouper = Grouper("math")
    assert await grouper.group(_box(r"\frac12")) == Answer(0, r"\frac12")
    assert await _groups(grouper, _box("7"), "hm", "The answer is 0.5", _box("7.0")) == [1, None, 0, 1]
    assert grouper.undecided == 0


@pytest.mark.parametrize(
    ("kind", "texts", "groups"),
    [
        ("choice", ["(B)", "Answer: B) 12", r"\boxed{\text{b}}", "C", r"\boxed{42}"], [0, 0, 0, 1, None]),
        ("json", ['{"a": 1}', '```json\n{"a": 1.0}\n```', "[]", "none"], [0, 0, 1, None]),
        ("text", ["<think>x</think>Yes,  sir", "yes, SIR\n", "No", " "], [0, 0, 1, None]),
    ],
)
async def test_a_task_says_how_answers_compare(kind: AnswerKind, texts: list[str], groups: list[int | None]) -> None:
    assert await _groups(Grouper(kind), *texts) == groups


def test_an_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"'maths': one of math, choice, json, text"):
        Grouper("maths")  # type: ignore[arg-type]


async def test_formulas_are_compared_once_per_spelling() -> None:
    table = Table({r"\sqrt{8}", r"2\sqrt{2}"})
    grouper = Grouper("math", table)
    texts = [_box(answer) for answer in (r"\sqrt{8}", r"2\sqrt{2}", r"2 \sqrt{2}", r"\sqrt{3}")]
    assert await _groups(grouper, *texts) == [0, 0, 0, 1]
    assert table.asked == [{r"\sqrt{8}", r"2\sqrt{2}"}, {r"\sqrt{8}", r"\sqrt{3}"}]


async def test_plain_answers_never_ask() -> None:
    table = Table()
    grouper = Grouper("math", table)
    assert await _groups(grouper, _box(r"\sqrt{8}"), _box("2"), _box("A"), _box("3"), _box(r"\pi")) == [0, 1, 2, 3, 4]
    assert table.asked == [{r"\sqrt{8}", r"\pi"}]


async def test_without_equivalence_unequal_formulas_differ() -> None:
    assert await _groups(Grouper("math"), _box("x+1"), _box("1+x"), _box("x + 1")) == [0, 1, 0]


async def test_a_failed_comparison_means_different_and_is_counted() -> None:
    grouper = Grouper("math", Broken())
    assert await _groups(grouper, _box("x+1"), _box("1+x"), _box("1+x")) == [0, 1, 1]
    assert grouper.undecided == 1


async def test_comparisons_are_bounded_per_request() -> None:
    table = Table()
    grouper = Grouper("math", table)
    await _groups(grouper, *(_box(f"x+{number}") for number in range(20)))
    assert len(table.asked) == MAX_CHECKS
    assert grouper.undecided == 20 * 19 // 2 - MAX_CHECKS


async def test_branches_that_finish_during_a_comparison_are_classed_once() -> None:
    table = Table({"x+1", "1+x"})
    grouper = Grouper("math", table)
    await grouper.group(_box("x+1"))
    table.open.clear()
    twice = [asyncio.create_task(grouper.group(_box("1+x"))) for _ in range(2)]
    await asyncio.sleep(0)
    number = await grouper.group(_box("5"))  # plain: does not wait for the comparison
    assert number == Answer(1, "5")
    table.open.set()
    assert await asyncio.gather(*twice) == [Answer(0, "1+x")] * 2
    assert len(table.asked) == 1


async def test_a_cancelled_comparison_leaves_the_grouper_usable() -> None:
    table = Table()
    grouper = Grouper("math", table)
    await grouper.group(_box("x+1"))
    table.open.clear()
    task = asyncio.create_task(grouper.group(_box("1+x")))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    table.open.set()
    assert await grouper.group(_box("1+x")) == Answer(1, "1+x")


@given(st.lists(st.sampled_from(["1", "1.0", "2/2", "2", "4/2", "0.5", "50%", "7", "7.00"])), st.randoms())
def test_numeric_classes_do_not_depend_on_arrival_order(answers: list[str], random: Random) -> None:
    def partition(arrivals: list[str]) -> set[frozenset[str]]:
        groups = asyncio.run(_groups(Grouper("math"), *map(_box, arrivals)))
        return {frozenset(a for a, g in zip(arrivals, groups, strict=True) if g == group) for group in set(groups)}

    shuffled = answers.copy()
    random.shuffle(shuffled)
    assert partition(answers) == partition(shuffled)


def test_importing_answers_stays_light() -> None:
    program = "import sys, strategies.answers; print(*{'sympy', 'math_verify', 'pebble', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
