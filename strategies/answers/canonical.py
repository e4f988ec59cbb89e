"""A fast normal form of short answers, so that most votes need no symbolic algebra."""

import re
from fractions import Fraction
from typing import TypeAlias

Key: TypeAlias = int | Fraction | str
"""int or Fraction: a plain number, exact. One upper-case letter A-E: a choice. Any other string: text or a formula."""

MAX_DIGITS = 400
"""Longer numbers stay text: converting digits takes quadratic time."""

MAX_FORMULA_CHARS = 512
"""Longer answers are compared as they stand, with white space folded."""

_CHOICES = frozenset("ABCDE")
_WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mathsf|mbox|operatorname|boxed|displaystyle)\s?\{([^{}]*)\}"
)
_NOISE = re.compile(
    r"\\(?:left|right|displaystyle|[bB]ig[lrg]?)(?![a-zA-Z])|\\[!,;:()\[\]$ ]|[$€£¥~]"
    r"|°|\^\{?\\circ\}?|\\degree(?![a-zA-Z])"
)
_FRACTION_COMMAND = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_SHORT_FRACTION = re.compile(r"\\frac ?(\d) ?(\d)")
_SINGLE_BRACED = re.compile(r"([\^_])\{(\w)\}")
_LOOSE_SPACE = re.compile(r"(?<!\d) | (?!\d)")
_UNIT = re.compile(r"(?<=[\d.%}])( ?)([a-zA-Z][a-zA-Z ]{0,60}?) ?(?:\^ ?[23])?$")
# fmt: off
_SHORT_UNITS = frozenset((
    "mm", "cm", "km", "dm", "ft", "in", "yd", "mi", "kg", "mg", "g", "lb", "oz", "s", "ms", "min", "h", "hr", "m", "l",
    "ml", "L", "mL", "W", "kW", "J", "kJ", "N", "Pa", "V", "Hz", "mph", "kph", "rad", "deg",
))
_NOT_UNITS = frozenset((
    "pi", "sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp", "sqrt", "mod", "and", "or", "to", "over",
    "times", "plus", "minus", "alpha", "beta", "theta", "phi", "infinity",
    "dozen", "hundred", "thousand", "million", "billion", "trillion",
))
# fmt: on

_DECIMAL = re.compile(r"([+-]?)(\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d*)(\.\d*)?(%?)")
_RATIO = re.compile(r"([+-]?)(?:(\d+) )?(\d+)/([+-]?\d+)")
_LATEX_RATIO = re.compile(r"([+-]?)(\d*)\\frac\{([+-]?\d+)\}\{([+-]?\d+)\}")
_SCIENTIFIC = re.compile(r"([+-]?\d+(?:\.\d+)?)(?:\\times10\^|\\cdot10\^|[x*×]10\^|[eE])\{?([+-]?\d{1,3})\}?")
_ASSIGNMENT = re.compile(r"[a-zA-Z]=(.+)")
_CHOICE = re.compile(r"(?:option|choice)?[(\[]?([A-Ea-e])[)\].:]?", re.IGNORECASE)


def canonical(answer: str) -> Key:
    r"""The key of an answer: equal keys mean equal answers, and the key's own text has the same key.

    Unequal keys of two plain numbers (or choices) mean different answers; unequal formulas may still be equal
    (`is_plain` tells which). Without meaning, and removed: LaTeX wrappers and spacing, `$`, degrees, units after a
    number, a trailing period, thousands separators, `x=` before a number. `50%` is 1/2; `3\frac{1}{2}` is 7/2.
    Raises nothing; linear in the answer's length.
    """
    if answer.isdecimal() and answer.isascii() and len(answer) <= MAX_DIGITS:
        return int(answer)
    folded = " ".join(answer.split())
    if len(folded) > MAX_FORMULA_CHARS:
        return folded
    plain = _settled(folded)
    assigned = _ASSIGNMENT.fullmatch(plain)
    number = _number(assigned[1] if assigned else plain)
    if number is not None:
        return number
    choice = _CHOICE.fullmatch(plain)
    return choice[1].upper() if choice else plain


def is_plain(key: Key) -> bool:
    """Whether unequal keys are known to be different answers (a number or a choice), without a slow check."""
    return not isinstance(key, str) or key in _CHOICES


def _settled(text: str) -> str:
    """Tidied until nothing changes: what one removal leaves may be another wrapper. Ends: no step undoes another."""
    while (tidied := _tidy(text)) != text:
        text = tidied
    return text


def _tidy(text: str) -> str:
    text = text.replace("−", "-").replace("{,}", ",").replace("\\%", "%")
    if "\\" in text:
        text = _WRAPPER.sub(r" \1 ", text)
        text = _FRACTION_COMMAND.sub(r"\\frac", text)
        text = _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", text)
    text = _NOISE.sub("", text)
    text = " ".join(text.split()).rstrip(" .").lstrip(" =≈")
    text = _SINGLE_BRACED.sub(r"\1\2", text)
    text = _LOOSE_SPACE.sub("", _without_unit(text))
    if text.startswith("{") and text.endswith("}") and text.count("{") == 1:
        text = text[1:-1]
    return text.lower() if len(text) > 1 and text.isalpha() else text


def _without_unit(text: str) -> str:
    unit = _UNIT.search(text)
    if unit is None:
        return text
    words = unit[2].split()
    spaced = bool(unit[1])
    known = unit[2] in _SHORT_UNITS and (spaced or len(unit[2]) > 1)  # `5m` is a product, `5 m` a length
    named = spaced and any(len(word) > 2 for word in words) and _NOT_UNITS.isdisjoint(map(str.lower, words))
    return text[: unit.start()] if known or named else text


def _number(text: str) -> int | Fraction | None:
    if not text or len(text) > MAX_DIGITS or not text.isascii():
        return None
    value = _decimal(text)
    if value is None:
        value = _ratio(text)
    if value is None:
        value = _scientific(text)
    return value if value is None or value.denominator != 1 else value.numerator


def _decimal(text: str) -> Fraction | None:
    match = _DECIMAL.fullmatch(text)
    if match is None:
        return None
    sign, whole, part, percent = match.groups()
    digits = (part or "").removeprefix(".")
    whole = whole.replace(",", "").replace(" ", "")
    if not whole and not digits:
        return None
    value = Fraction(int(whole + digits), 10 ** len(digits) * (100 if percent else 1))
    return -value if sign == "-" else value


def _ratio(text: str) -> Fraction | None:
    match = _RATIO.fullmatch(text) or _LATEX_RATIO.fullmatch(text)
    if match is None:
        return None
    sign, whole, top, bottom = match.groups()
    if int(bottom) == 0:
        return None
    value = int(whole or 0) + Fraction(int(top), int(bottom))
    return -value if sign == "-" else value


def _scientific(text: str) -> Fraction | None:
    match = _SCIENTIFIC.fullmatch(text)
    return Fraction(match[1]) * Fraction(10) ** int(match[2]) if match else None
