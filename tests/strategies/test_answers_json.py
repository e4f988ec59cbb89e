"""JSON answers compare by value."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.answers import canonical_json

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=3), children, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "b": [2, 0.5]}',
        '{"b": [2.0, 5e-1], "a": 1.0}',
        'Here it is:\n```json\n{"a":1,"b":[2,0.50]}\n```\nHope it helps.',
        'First {"a": 2}; then\n```\n{"a":1,"b":[2,0.5]}\n```',
        '<think>{"a": 3}</think> {"a":1,"b":[2,0.5]}',
    ],
)
def test_one_value_has_one_form(text: str) -> None:
    assert canonical_json(text) == '{"a":1,"b":[2,0.5]}'


def test_true_is_not_one_and_large_integers_stay_exact() -> None:
    assert canonical_json("[true]") != canonical_json("[1]")
    assert canonical_json("9007199254740993") != canonical_json("9007199254740992.0")


def test_a_fence_within_a_string_is_not_a_block() -> None:
    assert canonical_json('{"code": "```json\\n1\\n```"}') == '{"code":"```json\\n1\\n```"}'


@pytest.mark.parametrize(
    "text",
    ["", "no JSON", '{"a": ', "```json\n{\n```", "[NaN]", "1e999", "1e99999999999999999999", "[" * 100_000, "1" * 5000],
)
def test_what_is_not_json_abstains(text: str) -> None:
    assert canonical_json(text) is None


@given(_VALUES)
def test_spacing_and_key_order_do_not_matter(value: object) -> None:
    form = canonical_json(json.dumps(value))
    assert form is not None
    assert form == canonical_json(json.dumps(value, indent=2, sort_keys=True)) == canonical_json(form)
