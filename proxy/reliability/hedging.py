"""A second request for those whose first byte is late: on another backend, and only for a small share of requests.

Only streamed ones: their first byte tells how busy the backend is. That of a whole answer comes with its end, and is
late mostly because the answer is long; to ask for a long answer twice would be no hedge but a second bill.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from proxy.reliability.budget import Budget
from proxy.reliability.settings import HedgeConfig

KEPT = 512
AT_LEAST = 64  # fewer first bytes tell no percentile
SORT_EVERY = 32
Hedge = Literal["won", "lost", "failed"]


class FirstBytes:
    """The last times to the first byte of one model, in seconds, and a percentile of them; O(1) but for a sort of
    `KEPT` numbers every so many."""

    __slots__ = ("_at", "_kept", "_percentile", "_since", "late_s")

    def __init__(self, percentile: float) -> None:
        self.late_s: float | None = None
        self._percentile = percentile
        self._kept: list[float] = []
        self._at = 0
        self._since = 0

    def observe(self, seconds: float) -> None:
        if len(self._kept) < KEPT:
            self._kept.append(seconds)
        else:
            self._kept[self._at] = seconds
            self._at = (self._at + 1) % KEPT
        self._since += 1
        if self._since >= SORT_EVERY and len(self._kept) >= AT_LEAST:
            self._since = 0
            self.late_s = sorted(self._kept)[int(self._percentile * len(self._kept))]


class Hedging:
    """Of one process. `counts`: hedges by how they ended; `denied`: those that the budget did not allow."""

    def __init__(self, config: HedgeConfig, clock: Callable[[], float]) -> None:
        self.counts: dict[Hedge, int] = {}
        self.denied = 0
        self._config = config
        self._clock = clock
        self._budget = Budget(config.budget, reserve=0)
        self._models: dict[str, FirstBytes] = {}  # names from the configuration

    def request_came(self, model: str) -> FirstBytes:
        """Counts towards the budget."""
        self._budget.deposit(self._clock())
        found = self._models.get(model)
        if found is None:
            found = self._models[model] = FirstBytes(self._config.after_percentile)
        return found

    def take(self) -> bool:
        """Whether one more may be sent."""
        if self._budget.take(self._clock()):
            return True
        self.denied += 1
        return False

    def ended(self, how: Hedge) -> None:
        self.counts[how] = self.counts.get(how, 0) + 1
