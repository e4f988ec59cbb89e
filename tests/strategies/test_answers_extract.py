"""Where the answer of a text stands."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.answers import extract, split_thinking
from strategies.answers.extract import TAIL_CHARS


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"So the answer is \boxed{42}.", "42"),
        (r"\boxed{1} was wrong, so \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
        (r"\boxed {7}", "7"),
        (r"$\boxed 7$", "7"),
        (r"\boxed{3}; the form asked for was \boxed{}", "3"),
        (r"\boxed{3}, or rather \boxed{\frac{1}{", "3"),
        (r"Answer: 5. In the form asked for: \boxed{6}", "6"),
    ],
)
def test_the_last_complete_box_wins(text: str, answer: str) -> None:
    assert extract(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The final answer is 42. I hope it is correct.", "42"),
        ("Answer: 42\nThis took 3 steps.", "42"),
        ("**Answer:** 42", "42"),
        ("**Final Answer**\n\n\\[\n42\n\\]", "42"),
        (r"The final answer is $\frac{1}{2}$.", r"\frac{1}{2}"),
        ("The answer to the second question is 12 because 3 * 4 = 12 and 7 > 1", "12"),
        ("The final answer is that she has 18 dollars left.", "18"),
        ("5 + 3 = 8\n#### 1,234", "1,234"),
        ("ANSWER = x + 1", "x + 1"),
        ("The answer is 4. An answer: not always", "4"),
    ],
)
def test_a_stated_answer_comes_second(text: str, answer: str) -> None:
    assert extract(text) == answer


@pytest.mark.parametrize(
    "text",
    ["B", "(B)", "**B**", "b)", "B. twelve of 30", "I compared all four.\nIt must be (B)", "The correct option is B."],
)
def test_a_choice_letter_of_the_last_line_comes_third(text: str) -> None:
    assert extract(text) == "B"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so it must be 42 apples", "42"),
        ("which costs $1,200.50 in all.", "$1,200.50"),
        ("that leaves 3/4 of it", "3/4"),
        (r"= -\frac{3}{4}", r"-\frac{3}{4}"),
        ("it falls by −7.5 %", "−7.5 %"),
        ("between 3-5", "5"),
        ("so P(A) = .5", ".5"),
        ("**A note**: (A lucky guess) gives 9", "9"),
        ("that is 1e5 of them", "1e5"),
    ],
)
def test_the_last_number_comes_last(text: str, answer: str) -> None:
    assert extract(text) == answer


@pytest.mark.parametrize("text", ["", "  \n", "I cannot tell.", r"\boxed{}", "1" * 5000])
def test_a_text_without_answer_abstains(text: str) -> None:
    assert extract(text) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"<think>maybe \boxed{1}</think>The answer is 2.", "2"),
        (r"maybe \boxed{1}</think>The answer is 2.", "2"),
        (r"<think>1</think>no<think>2</think>The answer is 3.", "3"),
        ("<think>it may be 17", None),
        ("The answer is 4. <think>or 5", None),
        (r"<think>that is \boxed{17}, let me check", "17"),
        (r"<think>that is \boxed{17}</think>" + "\n", "17"),
        (r"<think>it may be 17</think>", None),
        ("if x < 3 the answer is 5", "5"),
    ],
)
def test_thoughts_do_not_vote_unless_boxed_and_nothing_follows(text: str, answer: str | None) -> None:
    assert extract(text) == answer


def test_thinking_and_visible_text_come_apart() -> None:
    assert split_thinking("<think>a</think>b") == ("<think>a", "b")
    assert split_thinking("a</think>b") == ("a", "b")
    assert split_thinking("b") == ("", "b")
    assert split_thinking("b<think>a") == ("a", "")


def test_only_the_tail_is_read() -> None:
    assert extract(r"\boxed{1}" + " " * (TAIL_CHARS - 2) + "and") is None
    assert extract("x" * 10_000_000 + r" \boxed{1}") == "1"


_PIECES = [
    "\\boxed", "\\boxed{", "{", "}", "\\", "answer", "Answer: ", "answer to ", "####", "**", "<think>", "</think>",
    "(A)", "B", "option ", "\n", " ", "12", "1,234", ".", "/", "-", "%", "$", "\\frac{1}{", "İ", "²", "٣",
]  # fmt: skip


@given(st.lists(st.sampled_from(_PIECES) | st.text(max_size=3)).map("".join))
def test_any_text_gives_an_answer_or_none(text: str) -> None:
    answer = extract(text)
    assert answer is None or answer.strip()


_ADVERSARIAL = [
    "\\boxed{", "\\boxed{}", "\\boxed{{", "\\boxed{\\}", "{\\boxed", "\\boxed ", "}", "{", "\\", "answer", "answer ",
    "answer to ", "answer: ", "####", "answer is\n", "<think>", "</think>", "think>", "(A", "option ", "**A", "1", "1,",
    "1,234", "-", "1/", ".", "1.", "\\frac{1}{", "$", " ", "\n", "_", "a", "İ",
]  # fmt: skip


def _work_s(text: str) -> float:
    def once() -> float:
        start = time.thread_time()
        extract(text)
        return time.thread_time() - start

    return min(once() for _ in range(5))


@pytest.mark.parametrize("piece", _ADVERSARIAL)
def test_work_grows_linearly_on_adversarial_text(piece: str) -> None:
    """32 times the text: linear work grows 32 times, quadratic work 1,024 times. Beyond the tail it hardly grows."""
    small, tail, megabyte = (piece * (size // len(piece)) for size in (2048, TAIL_CHARS, 1_048_576))
    floor_s = 5e-6  # below this the clock and the constant part rule
    tail_s = _work_s(tail)
    assert tail_s < 200 * max(_work_s(small), floor_s)
    assert _work_s(megabyte) < 100 * max(tail_s, floor_s)


def test_an_answer_that_was_cut_inside_its_box_is_what_stands_there() -> None:
    assert extract("</think>\nThe answer is \\boxed{51") == "51"
