"""A budget for extra requests: a share of the recent ones, so that what we add cannot multiply an outage."""

from __future__ import annotations

from proxy.reliability.window import Window

WINDOW_S = 10.0


class Budget:
    """One more may be spent while those of the last ten seconds are fewer than `share` of that time's requests, plus
    `reserve`. `spent`: all so far."""

    __slots__ = ("_recent", "reserve", "share", "spent")

    def __init__(self, share: float, reserve: int) -> None:
        self.share = share
        self.reserve = reserve
        self.spent = 0
        self._recent = Window(WINDOW_S)

    def deposit(self, now: float) -> None:
        """A request has come."""
        self._recent.add(now)

    def take(self, now: float) -> bool:
        """Spend one; False where there is none left."""
        if self.left(now) < 1:
            return False
        self._recent.add(now, total=0, of_kind=1)
        self.spent += 1
        return True

    def left(self, now: float) -> float:
        recent = self._recent.at(now)
        return self.share * recent.total + self.reserve - recent.of_kind
