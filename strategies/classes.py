"""Answer classes for votes in which not every answer that was looked at takes part."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from strategies.base import Answer, Branch
from strategies.voting import Vote

Ballot = tuple[Branch, Answer | None, float | None]
"""A branch, its answer, and its weight (None: 1)."""


def count(ballots: Iterable[Ballot]) -> Vote:
    """The vote over these. A context numbers classes in order of first sight, a vote in order of the first vote: they
    are numbered anew."""
    vote, classes = Vote(), dict[int, int]()
    for branch, answer, weight in ballots:
        if answer is not None:
            answer = replace(answer, group=classes.setdefault(answer.group, len(classes)))
        vote.add(branch, answer, weight)
    return vote
