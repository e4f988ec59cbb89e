"""Counts over the last seconds, in constant memory."""

from __future__ import annotations

SLOTS = 10


class Window:
    """How many there were, and how many of them were of a kind, over the last `seconds`: in slots, so that what is
    counted is between 90% and 100% of that long.

    Times are of a clock that never goes back; one that did all the same counts as standing still.
    """

    __slots__ = ("_all", "_at", "_of_kind", "_slot_s", "of_kind", "total")

    def __init__(self, seconds: float) -> None:
        self._slot_s = seconds / SLOTS
        self.clear()

    def clear(self) -> None:
        self._all = [0] * SLOTS
        self._of_kind = [0] * SLOTS
        self._at = 0
        self.total = 0
        self.of_kind = 0

    def add(self, now: float, total: int = 1, of_kind: int = 0) -> None:
        slot = int(now / self._slot_s)
        if slot > self._at:
            self._turn(slot)
        index = self._at % SLOTS
        self._all[index] += total
        self._of_kind[index] += of_kind
        self.total += total
        self.of_kind += of_kind

    def at(self, now: float) -> Window:
        """Itself, without what has become too old by now."""
        slot = int(now / self._slot_s)
        if slot > self._at:
            self._turn(slot)
        return self

    def _turn(self, slot: int) -> None:
        for passed in range(max(self._at + 1, slot - SLOTS + 1), slot + 1):
            index = passed % SLOTS
            self.total -= self._all[index]
            self.of_kind -= self._of_kind[index]
            self._all[index] = self._of_kind[index] = 0
        self._at = slot
