"""How alike two texts are by the words they share: what there is where no embedding model is."""

from __future__ import annotations

import re
from collections.abc import Sequence

WORDS = 3
_WORD = re.compile(r"\w+|[^\w\s]")


def overlap(a: str, b: str) -> float:
    """Jaccard index of the sets of three successive words (signs are words of their own), 0 to 1; by shorter runs where
    one of the texts has fewer words. Case is folded. 0 where one has no word."""
    return _jaccard(_words(a), _words(b))


def overlaps(texts: Sequence[str]) -> list[list[float]]:
    """Of each pair, (n, n)."""
    words = [_words(text) for text in texts]
    return [[_jaccard(one, other) for other in words] for one in words]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _jaccard(a: Sequence[str], b: Sequence[str]) -> float:
    run = min(WORDS, len(a), len(b))
    if not run:
        return 0.0
    first, second = _runs(a, run), _runs(b, run)
    return len(first & second) / len(first | second)


def _runs(words: Sequence[str], run: int) -> set[tuple[str, ...]]:
    return {tuple(words[at : at + run]) for at in range(len(words) - run + 1)}
