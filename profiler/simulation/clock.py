"""Time as the simulation sees it: a heap of events in virtual time, or an event loop's own timers."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from itertools import count
from typing import Protocol

Event = Callable[[], None]


class Alarm(Protocol):
    """An event that is due; `cancel` is safe after it has run."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """Seconds since some start. `at` runs an event once that time has come, those of one time in order of asking."""

    def now(self) -> float: ...

    def at(self, when_s: float, event: Event) -> Alarm: ...


class _Due:
    __slots__ = ("event",)

    def __init__(self, event: Event) -> None:
        self.event: Event | None = event

    def cancel(self) -> None:
        self.event = None


class LoopClock:
    """The clock of an asyncio loop: the wall's, or virtual where the loop is a `loop.VirtualLoop`. One loop timer for
    all events: a heap of tuples is cheaper than the loop's own of objects."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.now = loop.time
        self._due: list[tuple[float, int, _Due]] = []
        self._order = count()
        self._armed_s = float("inf")

    def at(self, when_s: float, event: Event) -> _Due:
        due = _Due(event)
        heapq.heappush(self._due, (when_s, next(self._order), due))
        if when_s < self._armed_s:
            self._arm(when_s)
        return due

    def _arm(self, when_s: float) -> None:
        self._armed_s = when_s
        self._loop.call_at(when_s, self._wake, when_s)

    def _wake(self, armed_s: float) -> None:
        if armed_s != self._armed_s:  # a later timer than the one that was set since
            return
        due, now = self._due, max(self._loop.time(), armed_s)
        self._armed_s = float("-inf")  # events that are set meanwhile need no timer: the end of this sees to them
        try:
            while due and due[0][0] <= now:
                event = heapq.heappop(due)[2].event
                if event is not None:
                    event()
        finally:
            self._armed_s = float("inf")
            while due and due[0][2].event is None:
                heapq.heappop(due)
            if due:
                self._arm(due[0][0])


class VirtualClock:
    """Jumps from event to event; nothing else moves it."""

    def __init__(self, start_s: float = 0.0) -> None:
        self._now = start_s
        self._due: list[tuple[float, int, _Due]] = []
        self._order = count()

    def now(self) -> float:
        return self._now

    def at(self, when_s: float, event: Event) -> _Due:
        due = _Due(event)
        heapq.heappush(self._due, (when_s, next(self._order), due))
        return due

    def run(self, until_s: float = float("inf")) -> None:
        """Until nothing is due any more, or until then; events of `until_s` itself still run."""
        while self._due and self._due[0][0] <= until_s:
            when_s, _, due = heapq.heappop(self._due)
            self._now = max(self._now, when_s)
            if due.event is not None:
                due.event()
        if until_s != float("inf"):
            self._now = max(self._now, until_s)
