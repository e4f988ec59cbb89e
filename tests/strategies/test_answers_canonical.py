"""Answers that are spelled differently and mean the same have one key."""

from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from strategies.answers import canonical, choice, is_plain
from strategies.answers.canonical import MAX_FORMULA_CHARS


@pytest.mark.parametrize(
    ("spellings", "key"),
    [
        (["42", "42.", "42.0", "$42$", r"\(42\)", "+42", " 42 ", r"\boxed{42}", "{42}", r"\text{42}", "= 42"], 42),
        (["x = 42", "x=42", "42 cm", r"42\text{ cm}^2", r"42\,\mathrm{cm}", "42 apples a day", r"\$42", "€42"], 42),
        (["1234", "1,234", "1{,}234", r"1\,234", "1 234", r"1.234 \times 10^{3}"], 1234),
        (["1/2", r"\frac{1}{2}", r"\dfrac12", r"\tfrac{2}{4}", "0.5", ".50", "50%", r"50\%"], Fraction(1, 2)),
        (["-3/4", r"-\frac{3}{4}", r"\frac{-3}{4}", "−0.75", "- 3 / 4"], Fraction(-3, 4)),
        (["3 1/2", r"3\frac{1}{2}", "7/2", "3.5"], Fraction(7, 2)),
        (["90", r"90^\circ", r"90^{\circ}", "90°", "90 degrees"], 90),
        (["B", "b", "(B)", "B.", "b)", r"\text{(B)}", "Option B"], "B"),
        (["Tuesday", r"\text{tuesday}.", "TUESDAY"], "tuesday"),
        (["(1, 2)", r"\left(1,2\right)", "( 1,\\; 2 )"], "(1,2)"),
        (["x^{2} + 1", "x^2+1"], "x^2+1"),
    ],
)
def test_spellings_of_one_answer_share_a_key(spellings: list[str], key: object) -> None:
    assert {spelling: canonical(spelling) for spelling in spellings} == dict.fromkeys(spellings, key)


@pytest.mark.parametrize(
    ("a", "b"),
    [("5x", "5"), ("5m", "5"), ("5 million", "5"), ("(1,234)", "1234"), ("1 2 3", "123"), ("1/0", "1"), ("x", "X^2")],
)
def test_what_differs_keeps_different_keys(a: str, b: str) -> None:
    assert canonical(a) != canonical(b)


def test_numbers_and_choices_need_no_slow_check() -> None:
    assert is_plain(canonical("1/3"))
    assert is_plain(canonical("(c)"))
    assert not is_plain(canonical(r"\sqrt{2}"))


def test_huge_numbers_stay_text() -> None:
    assert canonical("9" * 100_000) == "9" * 100_000
    assert canonical("1e999999999") == "1e999999999"
    long = "x +  " * MAX_FORMULA_CHARS
    assert canonical(long) == " ".join(long.split())


@given(st.integers(-(10**12), 10**12))
def test_an_integer_is_its_own_key_however_formatted(number: int) -> None:
    for spelling in (f"{number}", f"{number:,}", f"${number}$", f"{number}.00", f"{number} dollars", f"x = {number}"):
        assert canonical(spelling) == number


@given(st.integers(-999, 999), st.integers(1, 999))
def test_a_fraction_is_exact_however_formatted(top: int, bottom: int) -> None:
    for spelling in (f"{top}/{bottom}", rf"\frac{{{top}}}{{{bottom}}}", rf"\dfrac{{{3 * top}}}{{{3 * bottom}}}"):
        assert canonical(spelling) == Fraction(top, bottom)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**6), max_value=10**6))
def test_decimals_and_percents_are_exact(number: object) -> None:
    assert canonical(f"{number}") == canonical(f"{number}00") == Fraction(str(number))
    assert canonical(f"{number}%") == Fraction(str(number)) / 100


_PIECES = [
    "\\text{", "\\mathrm{", "\\frac", "\\dfrac", "\\te", "xt{", "\\left", "\\right", "\\!", "\\,", "\\", "{", "}", "$",
    "^", "_", "°", "^\\circ", "1", "23", ",", "{,}", ".", "/", "-", "−", "%", " ", "cm", "apples", "x", "=", "A", "(",
    ")", "e",
]  # fmt: skip


@given(st.lists(st.sampled_from(_PIECES) | st.text(max_size=2)).map("".join))
@example(r"\te\!xt{5}")
@example(r"5\text{\mathbf{ apples}}")
@example("\\fr{a}c12")
def test_canonical_is_idempotent(answer: str) -> None:
    key = canonical(answer)
    assert canonical(str(key)) == key


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("b", "B"),
        ("(C) 12", "C"),
        (r"\text{D}", "D"),
        ("B) 12 apples", "B"),
        ("**J**", "J"),
        ("Bananas", None),
        ("42", None),
    ],
)
def test_the_letter_of_a_choice_leads_its_answer(answer: str, letter: str | None) -> None:
    assert choice(answer) == letter
