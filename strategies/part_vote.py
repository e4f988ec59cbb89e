"""A vote over some of a request's branches."""

from __future__ import annotations

from strategies.base import Answer, Branch
from strategies.voting import Vote


class PartVote(Vote):
    """A `Vote` whose classes are numbered by first sight in it, not in the request: others may have come before."""

    def __init__(self) -> None:
        super().__init__()
        self._groups: dict[int, int] = {}

    def add(self, branch: Branch, answer: Answer | None, weight: float | None = None) -> None:
        if answer is not None:
            answer = Answer(self._groups.setdefault(answer.group, len(self._groups)), answer.text)
        super().add(branch, answer, weight)

    @property
    def lead(self) -> float:
        """How much the heaviest class has more than the next one."""
        first, second = sorted([*self.weights, 0.0, 0.0], reverse=True)[:2]
        return first - second
