"""Letters of multiple-choice answers."""

import re

# Up to J: some benchmarks offer ten options. The letter leads, perhaps in brackets, and no word goes on with it.
_LEADING = re.compile(
    r"(?:\\[a-z]{1,12}\{)?[\W_]{0,6}(?:(?:option|choice)[\W_]{1,3})?([A-J])(?![A-Za-z0-9])", re.IGNORECASE
)


def choice(answer: str) -> str | None:
    r"""The letter, upper-case, of an extracted answer such as `(b)`, `\text{B}` or `B) 12 apples`; None without one."""
    match = _LEADING.match(answer)
    return match[1].upper() if match else None
