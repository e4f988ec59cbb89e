"""Texts for prompts, and the parts that strategies of several calls share."""

import pytest

from strategies.base import Answer, Branch
from strategies.part_vote import PartVote
from strategies.prompting import clipped, listed, numbered, replaces, visible


def _branch(text: str, finish_reason: str | None = "stop", index: int = 0) -> Branch:
    return Branch(index, text, 10, finish_reason)


def test_thinking_never_goes_into_a_prompt() -> None:
    assert visible(_branch("<think>secret</think>\n It is 7. "), 100) == "It is 7."
    assert visible(_branch("<think>still at it"), 100) == ""


def test_a_long_answer_keeps_its_beginning_and_its_end() -> None:
    text = clipped("first " + "x" * 5000 + " last", 100)
    assert len(text) <= 100
    assert text.startswith("first ") and text.endswith(" last") and "[…]" in text
    assert clipped("short", 5) == "short"


def test_answers_are_numbered_under_headings() -> None:
    assert numbered(["a", "b"], "Answer") == "Answer 1:\na\n\nAnswer 2:\nb"


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("1. Algebra\n2) Geometry", ["Algebra", "Geometry"]),
        ("Here they are:\n\n- **Algebra**: set up x\n* _Guess_\n• Draw it\n\nGood luck!", None),
        ("1. Algebra\n2. algebra\n3. Geometry", ["Algebra", "Geometry"]),
        ("I would use algebra.", []),
        ("2.5 is near\n-7 too", []),
        ("", []),
    ],
)
def test_lists_are_read_in_their_usual_forms(text: str, items: list[str] | None) -> None:
    assert listed(text, 4) == (["Algebra: set up x", "Guess", "Draw it"] if items is None else items)


def test_a_list_is_bounded_in_items_and_in_their_length() -> None:
    long = listed("\n".join(f"{i}. {i}{'x' * 5000}" for i in range(1, 9)), 3)
    assert [len(item) for item in long] == [300, 300, 300]


@pytest.mark.parametrize(
    ("new", "old", "better"),
    [
        (_branch("b"), _branch("a"), True),
        (_branch("b", "length"), _branch("a"), False),
        (_branch("b", "length"), _branch("a", "length"), True),
        (_branch("<think>b"), _branch("a"), False),
        (_branch("", "tool_calls"), _branch("a"), True),
    ],
)
def test_a_cut_off_or_empty_version_replaces_no_whole_one(new: Branch, old: Branch, better: bool) -> None:
    assert replaces(new, old) is better


def test_a_part_vote_numbers_its_own_classes() -> None:
    vote = PartVote()
    vote.add(_branch("b", index=4), Answer(2, "b"))
    vote.add(_branch("c", index=5), Answer(5, "c"))
    vote.add(_branch("b", index=6), Answer(2, "b"))
    assert (vote.counts, vote.lead) == ([2, 1], 1.0)
    assert vote.outcome().answer == "b"
