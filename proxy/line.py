"""Who waits on one backend for a seat, and in what order an engine that goes by `priority` takes them.

A branch waits from the moment it was sent until its first token; the time of its prompt, in that too, is a moment
beside a wait.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Dues:
    """The branches of a vote are due one after the other, evenly until its deadline: the first ones tell most. Where
    there is not room for all, every vote goes without its last branches, and none without any. The clock's seconds."""

    arrived_s: float
    patience_s: float
    branches: int

    def of(self, index: int) -> float:
        return self.arrived_s + self.patience_s * min(1.0, (index + 1) / self.branches)


class Line:
    """`due`: the clock's seconds at which each one that waits must be over, ascending."""

    __slots__ = ("due",)

    def __init__(self) -> None:
        self.due: list[float] = []

    def join(self, due_s: float) -> None:
        insort(self.due, due_s)

    def leave(self, due_s: float) -> None:
        """Raises ValueError where nobody who is due then waits."""
        at = bisect_left(self.due, due_s)
        if at == len(self.due) or self.due[at] != due_s:
            raise ValueError(f"nobody who is due at {due_s} waits")
        del self.due[at]

    def behind(self, due_s: float) -> int:
        """How many wait who are due later: one that is due at `due_s` goes before them."""
        return len(self.due) - bisect_right(self.due, due_s)
