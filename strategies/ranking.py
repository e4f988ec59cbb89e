"""Finished branches in the order of their scores, as an `Outcome` lists them; and what a scorer is shown of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from strategies.answers import split_thinking
from strategies.base import Answer, Branch

Seen = Sequence[tuple[Branch, Answer | None]]


def ranking(seen: Seen, scores: Mapping[int, float]) -> tuple[int, ...]:
    """Branch indices, best score first, at most one per distinct answer, then the rest. `scores`: by branch index.

    A branch without a score comes after those with one, and one that was cut off before any answer after those. Equal
    scores go to the more frequent answer, then the shorter branch, then the earlier. A branch without an answer counts
    as distinct.
    """
    votes = Counter(answer.group for _, answer in seen if answer is not None)

    def worth(item: tuple[Branch, Answer | None]) -> tuple[bool, bool, float, int, int]:
        branch, answer = item
        cut_off = answer is None and branch.finish_reason == "length"
        score = scores.get(branch.index)
        support = votes[answer.group] if answer is not None else 1
        return cut_off, score is None, -(score or 0.0), -support, branch.tokens

    first, rest = list[int](), list[int]()
    groups = set[int]()
    for branch, answer in sorted(seen, key=worth):
        known = answer is not None and answer.group in groups
        (rest if known else first).append(branch.index)
        if answer is not None:
            groups.add(answer.group)
    return (*first, *rest)


def visible(text: str) -> str:
    """An answer without its thinking; "" where it was cut off while thinking."""
    return split_thinking(text)[1].strip()


def scorable(text: str) -> str:
    """What a scorer that knows solutions, not thoughts, is shown. All of it where nothing else is there."""
    return visible(text) or text


def shortened(text: str, most_chars: int) -> str:
    """The end of a long text: the answer stands there."""
    return text if len(text) <= most_chars else "…" + text[-most_chars:]
