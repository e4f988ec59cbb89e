"""JSON answers, compared by value rather than by spelling."""

import json
from decimal import Decimal
from typing import Any, NamedTuple, NoReturn

from strategies.answers.extract import split_thinking
from strategies.answers.json_schema import normal_form

MAX_JSON_CHARS = 1_048_576
"""Longer texts abstain: parsing them would hold up everyone else's requests."""

_FENCE = "```"
_MAX_INTEGER_DIGITS = 400


class JsonAnswer(NamedTuple):
    """`written`: the JSON as the model wrote it. `key`: its canonical form."""

    written: str
    key: str


def canonical_json(text: str) -> str | None:
    """The JSON in a text (bare, or its last fenced block) with sorted keys, no white space, and 1.0 as 1.

    None where it does not parse, is longer than `MAX_JSON_CHARS`, or holds NaN or an infinity. Raises nothing.
    """
    answer = find_json(text)
    return None if answer is None else answer.key


def find_json(text: str, schema: dict[str, Any] | None = None) -> JsonAnswer | None:
    """The JSON answer of a text, after its thinking block; None as in `canonical_json`, and for a value that breaks
    `schema`."""
    visible = split_thinking(text)[1].strip()
    if len(visible) > MAX_JSON_CHARS:
        return None
    for written in (visible, _last_fenced(visible)):
        key = _key(written, schema) if written else None
        if written and key is not None:
            return JsonAnswer(written, key)
    return None


def _last_fenced(text: str) -> str | None:
    close = text.rfind(_FENCE)
    start = text.rfind(_FENCE, 0, max(close, 0))
    if start < 0:
        return None
    block = text[start + len(_FENCE) : close]
    language, _, body = block.partition("\n")
    return body.strip() if language.strip().lower() in ("", "json") else block.strip().removeprefix("json").strip()


def _key(written: str, schema: dict[str, Any] | None) -> str | None:
    try:
        value = json.loads(written, parse_float=_real, parse_constant=_refuse)
        if schema is not None:
            value = normal_form(value, schema)
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (ValueError, ArithmeticError, RecursionError):
        return None


def _real(literal: str) -> int | float:
    value = Decimal(literal)
    if value.adjusted() < _MAX_INTEGER_DIGITS and value == value.to_integral_value():
        return int(value)
    return float(literal)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
