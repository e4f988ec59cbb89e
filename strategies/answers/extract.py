"""Where in a model's text its answer stands.

Every scan is `str.find`, `str.rfind`, or a regular expression whose repeats are bounded, and every backward search
gives up after `MAX_HOPS` steps: the time is linear in the text's length, whatever the text (a model's output is
untrusted input).
"""

import re

TAIL_CHARS = 65_536
"""Only this much of the end of a text is scanned: an answer stands at the end."""

MAX_HOPS = 64
"""How many earlier mentions of a marker (`\\boxed`, "answer") are tried before the rule gives up."""

OPEN, CLOSE = "<think>", "</think>"
_BOXED = "\\boxed"
_UNCLOSED = "\\boxed{"
_BARE_BOX = re.compile(r"\s{0,8}([^\s{}$\\]{1,64})")
_SPACE_BRACE = re.compile(r"\s{1,8}\{")
_BRACE = re.compile(r"[{}]|\\.", re.DOTALL)  # `\\.` steps over escaped braces

_STATED = re.compile(
    r"(?:answer[*_]{0,3}(?: (?:to|for|of) [^.:\n]{1,80}?)?\s{0,3}(?:(?:is|are|equals)\b|[:=])(?! not\b)"
    r"|answer\*\*\s{0,2}\n"
    r"|####)"
    r"[\s:*_]{0,8}(?:\\[\[(]|\${1,2})?\s{0,4}"
)
_LINE = re.compile(r"[^\n]{1,400}")
_END_OF_STATEMENT = re.compile(r"[.;!]\s|,? (?:because|since|which|so)\b", re.IGNORECASE)
_DECORATION = " \t\r*_`\"'$."

_LETTER_LINE = re.compile(
    r"[\W_]{0,6}(?:(?:option|choice)\s{0,2})?[\W_]{0,4}([A-E])(?:[\W_]{0,6}$|[.):]\s)", re.IGNORECASE
)
_LETTER = re.compile(
    r"(?:(?:ption|hoice|nswer)(?: is)?\W{1,4}|(?<!\w)\((?=.\))|\*\*(?=.\*\*))([A-E])(?!\w)"  # option B, (B), **B**
)

_NUMBER = re.compile(
    r"(?:(?<![\w)\]}])[-−])?"  # a minus, unless it stands between two numbers
    r"(?:\\[dt]?frac\{-?\d{1,64}\}\{-?\d{1,64}\}"
    r"|(?:\\?[$€£¥][-−]?)?"
    r"(?:\d{1,3}(?:,\d{3}){1,100}(?!\d)|(?<!\d)\d{1,400}(?!\d)|(?=\.\d))(?:\.\d{1,400})?"
    r"(?:/\d{1,400}|[eE][-+]?\d{1,3})?(?:\s?\\?%)?)"
)
_NUMBER_WINDOWS = (48, 1024)  # characters before the last digit; nearly every number fits the first


def split_thinking(text: str) -> tuple[str, str]:
    """`(thinking, visible)`: the text inside the last thinking block and the text after it.

    `</think>` alone counts (the opening tag was part of the prompt). After an unclosed `<think>` nothing is visible:
    the model was still thinking. Without tags everything is visible.
    """
    if "<" not in text or "think>" not in text:  # the one-character search is ten times as fast
        return "", text
    opened, closed = text.rfind(OPEN), text.rfind(CLOSE)
    if opened > closed:
        return text[opened + len(OPEN) :], ""
    if closed < 0:
        return "", text
    return text[:closed], text[closed + len(CLOSE) :]


def extract(text: str) -> str | None:
    r"""The answer as written, never empty, or None where the text gives none (its branch abstains).

    Of the visible text, in order: the last `\boxed{…}`; "the final answer is …", "answer: …" or "#### …"; a choice
    letter in the last line; the last number. Where nothing is visible (cut off while thinking) only a `\boxed{…}` in
    the thinking counts: a box is a deliberate claim, a number in a thought is not.
    Scans at most the last `TAIL_CHARS` characters of either part. Raises nothing.
    """
    thinking, visible = split_thinking(text)
    if not visible or visible.isspace():
        return _last_boxed(thinking[-TAIL_CHARS:])
    tail = visible[-TAIL_CHARS:]
    return _last_boxed(tail) or _last_stated(tail) or _choice_letter(tail) or last_number(tail)


def _last_boxed(text: str) -> str | None:
    end = len(text)
    for _ in range(MAX_HOPS):
        start = text.rfind(_BOXED, 0, end)
        if start < 0:
            return None
        content = _box_content(text, start + len(_BOXED), end)
        if content:
            return content
        end = start  # an empty or unclosed box is no answer: try the one before, over disjoint text
    return None


def _box_content(text: str, at: int, end: int) -> str | None:
    if text[at : at + 1] != "{":
        spaced = _SPACE_BRACE.match(text, at, end)
        if spaced is None:
            bare = _BARE_BOX.match(text, at, end)
            return bare[1] if bare else None
        at = spaced.end() - 1
    close = text.find("}", at, end)
    if close < 0:
        return None
    if text.find("{", at + 1, close) < 0 and text[close - 1] != "\\":
        return text[at + 1 : close].strip()
    return _balanced(text, at, end)


def _balanced(text: str, at: int, end: int) -> str | None:
    depth = 0
    for token in _BRACE.finditer(text, at, end):
        brace = token[0]
        depth += (brace == "{") - (brace == "}")
        if depth == 0 and brace == "}":
            return text[at + 1 : token.start()].strip()
    return None


def _last_stated(text: str) -> str | None:
    lower = text.lower()
    if len(lower) != len(text):  # a character whose lower case is longer would shift the offsets
        lower = text
    end = len(text)
    for _ in range(MAX_HOPS):
        start = max(lower.rfind("answer", 0, end), lower.rfind("####", 0, end))
        if start < 0:
            return None
        marker = _STATED.match(lower, start)
        statement = _statement(text, marker.end()) if marker else None
        if statement:
            return statement
        end = start
    return None


def _statement(text: str, at: int) -> str | None:
    line = _LINE.match(text, at)
    if line is None:
        return None
    written = _END_OF_STATEMENT.split(line[0], maxsplit=1)[0].strip(_DECORATION)
    for bracket in ("\\]", "\\)"):
        written = written.removesuffix(bracket)
    written = written.strip(_DECORATION)
    if written.startswith(_UNCLOSED) and "}" not in written:  # the text was cut inside its box
        written = written.removeprefix(_UNCLOSED).strip()
    if written.count(" ") > 3 and "\\" not in written:
        return last_number(written) or written  # a sentence about the answer: votes need its number
    return written or None


def _choice_letter(text: str) -> str | None:
    stripped = text.rstrip()
    line = stripped[stripped.rfind("\n") + 1 :][-400:]
    alone = _LETTER_LINE.match(line)
    if alone and (alone[1].isupper() or alone.end() == len(line)):
        return alone[1].upper()
    letters = _LETTER.findall(line)
    return letters[-1] if letters else None


def last_number(text: str) -> str | None:
    r"""The last number as written: commas, decimals, `a/b`, `\frac{a}{b}`, percent, minus and currency included.

    None where there is none, or where it is longer than any answer would be (hundreds of digits).
    """
    end = _last_digit(text)
    if end < 0:
        return None
    for window in _NUMBER_WINDOWS:
        start = max(0, end - window)
        matches = list(_NUMBER.finditer(text[start : end + 8]))
        whole = matches and matches[-1].end() > end - start and (start == 0 or matches[-1].start() > window // 2)
        if whole:
            return matches[-1][0].strip()
    return None


def _last_digit(text: str) -> int:
    return max(text.rfind(digit) for digit in "0123456789")
