"""What models write is untrusted: whatever the text, answers are found without an exception and in linear time."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from effort import examples
from hypothesis import given
from hypothesis import strategies as st

from proxy.same_answer import _YES
from strategies.answers import canonical, canonical_json, choice, extract, is_plain, split_thinking
from strategies.answers.grouping import Grouper
from strategies.judging import read_score
from strategies.overlap import overlap
from strategies.prompting import clipped, listed
from strategies.self_refine import _CONTENT
from strategies.universal_consistency import _ALONE, _MENTIONED, _NAMED

FRAGMENTS = [
    *(
        "\\boxed{",
        "\\boxed",
        "{",
        "}",
        "\\}",
        "\\{",
        "\\",
        "$",
        "$$",
        "\\frac{1}{2}",
        "\\frac12",
        "\\dfrac",
        "\\text{",
        "^{x}",
    ),
    *(
        "answer",
        "Answer: ",
        "the answer is ",
        "answer for ",
        "**",
        "####",
        "#",
        "is ",
        ": ",
        "= ",
        "not ",
        "because ",
        "so ",
    ),
    *(
        "option ",
        "choice ",
        "(B)",
        "(b",
        "A",
        "E",
        "B) ",
        "\n",
        " ",
        "\t",
        "\r",
        ".",
        ",",
        ";",
        "!",
        "?",
        "-",
        "−",
        "_",
        "`",
    ),
    *(
        "1",
        "12",
        "123",
        ",123",
        ".5",
        "/",
        "e",
        "e9",
        "%",
        "€",
        "x",
        "x=",
        "×10^",
        "10^{",
        "cm",
        "pi",
        " 000",
        "°",
        "^2",
    ),
    *(
        "<think>",
        "</think>",
        "<",
        "think>",
        "```",
        "```json\n",
        "[",
        "]",
        '"',
        '{"a":',
        "null",
        "NaN",
        "1e999",
        "\\u0000",
    ),
    *(
        "score",
        "Score: ",
        "score (",
        "out of",
        "/10",
        "response",
        "Response 1",
        "most consistent response",
        "yes",
        "é",
        "İ",
        "ß",
    ),
    *("NO CHANGES", "1. ", "- ", "* ", "\\left(", "\\right)", "\\,", "\\$", "~", "\x00", "\ud800", "🙂", "١", "²"),
]
READERS: dict[str, Callable[[str], object]] = {
    "extract": extract,
    "canonical": canonical,
    "canonical_json": canonical_json,
    "choice": choice,
    "is_plain": is_plain,
    "split_thinking": split_thinking,
    "read_score": read_score,
    "listed": lambda text: listed(text, 8),
    "clipped": lambda text: clipped(text, 300),
    "overlap": lambda text: overlap(text, text[1:]),
    "no changes": _CONTENT.search,
    "named response": _NAMED.findall,
    "mentioned response": _MENTIONED.findall,
    "response alone": _ALONE.fullmatch,
    "yes": _YES.search,
}
texts = st.one_of(st.text(), st.lists(st.sampled_from(FRAGMENTS), max_size=60).map("".join))


@pytest.mark.parametrize("reader", READERS)
@examples(50)
@given(text=texts)
def test_a_reader_raises_nothing(reader: str, text: str) -> None:
    READERS[reader](text)


@pytest.mark.parametrize("kind", ["math", "choice", "json", "text", "tools"])
@examples(33)
@given(answers=st.lists(texts, max_size=5))
async def test_answers_are_grouped_whatever_they_are(kind: str, answers: list[str]) -> None:
    """Alike ones together."""
    grouper = Grouper(kind)  # type: ignore[arg-type]
    first = [await grouper.group(text) for text in answers]
    again = [await grouper.group(text) for text in answers]
    assert [found and found.group for found in first] == [found and found.group for found in again]


def cost_s(reader: Callable[[str], object], text: str) -> float:
    """CPU time of this thread: others' load does not count. The least of three."""
    took = []
    for _ in range(3):
        began = time.thread_time()
        reader(text)
        took.append(time.thread_time() - began)
        if took[-1] < 1e-3:
            break
    return min(took)


SMALL = 4096  # characters
NOTHING_S = 0.01
NEARLY_LINEAR = 3  # times as long as linear; a square would be eight times


def suspicious(reader: Callable[[str], object], prefix: str, unit: str, suffix: str) -> str | None:
    """Says so where a text eight times as long takes much more than eight times the time."""
    small, large = (prefix + unit * (size // len(unit)) + suffix for size in (SMALL, 8 * SMALL))
    long_s = cost_s(reader, large)
    if long_s < NOTHING_S:
        return None
    short_s = max(cost_s(reader, small), 1e-4)
    if long_s <= 8 * NEARLY_LINEAR * short_s:
        return None
    return f"{prefix!r} + {unit!r}*n + {suffix!r}: {short_s * 1e3:.1f} ms, then {long_s * 1e3:.1f} ms"


QUICK = [name for name in READERS if name != "overlap"]  # which is no search, and slow enough to make this slow


@pytest.mark.parametrize("reader", QUICK)
def test_no_text_takes_more_than_linear_time(reader: str) -> None:
    """Each fragment repeated, after and before what a pattern begins and must not end with."""
    for unit in FRAGMENTS:
        assert suspicious(READERS[reader], "", unit, "") is None
    for unit in ("1", " ", "a", "\\boxed{", "answer", "{", "1,", "**", "\n", "(", "1 ", "-", "_", "x=", "```"):
        for prefix, suffix in (
            ("\\boxed{", "!"),
            ("answer is ", "\x00"),
            ("score (", "x"),
            ("<think>", "1"),
            ("1", "!"),
        ):
            assert suspicious(READERS[reader], prefix, unit, suffix) is None


@pytest.mark.parametrize("reader", QUICK)
@examples(8)
@given(parts=st.tuples(st.sampled_from(FRAGMENTS), st.sampled_from(FRAGMENTS), texts))
def test_no_pair_of_fragments_takes_more_than_linear_time(reader: str, parts: tuple[str, str, str]) -> None:
    assert suspicious(READERS[reader], parts[2], parts[0] + parts[1], parts[2][::-1]) is None
