"""Which branches answer the client, once the strategy has decided or the deadline has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from strategies.base import Generation, Outcome


class Ended(Protocol):
    """What is looked at of a branch that is over. `spoke`: it has said something."""

    index: int
    generation: Generation
    completion_tokens: int

    @property
    def state(self) -> str: ...
    @property
    def spoke(self) -> bool: ...


B = TypeVar("B", bound=Ended)


def winners(branches: Sequence[B], finished: Sequence[B], outcome: Outcome, wanted: int) -> list[B]:
    """The strategy's ranking; without one, the longest unfinished branch that has said something, or a part of an
    answer that no further part followed in time."""
    ranked = [branches[index] for index in outcome.ranking[:wanted]]
    if ranked:
        return [*ranked, *_further(finished, outcome, wanted - len(ranked))]
    finals = [branch for branch in branches if branch.spoke and branch.generation.final]
    unfinished = [branch for branch in finals if branch.state == "cancelled"] or [b for b in finals if b in finished]
    return sorted(unfinished, key=lambda branch: (-len(branch.generation.continues), -branch.completion_tokens))[:1]


def _further(finished: Sequence[B], outcome: Outcome, count: int) -> list[B]:
    """Whole answers that came after the decision, for a client that wants more than were ranked."""
    if count <= 0:
        return []
    ranked = set(outcome.ranking)
    return [branch for branch in finished if branch.generation.final and branch.index not in ranked][:count]
