"""Coroutines that a virtual clock's events drive: tasks, futures and turns of an event loop would be most of the time
that a simulated request takes."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

from profiler.simulation.clock import Clock

T = TypeVar("T")


class ForeignWait(TypeError):
    """A coroutine waits for something that no virtual clock can bring about, such as a task of an event loop."""


class Pause:
    """Where one coroutine waits until somebody wakes it; it may be waited for again."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: Steps[Any] | None = None

    def __await__(self) -> Generator[Pause, None, None]:
        yield self

    def wake(self) -> None:
        """It goes on at this time, after all else that is due: what comes at one moment is seen together."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.soon()


class Steps(Generic[T]):
    """Runs a coroutine from pause to pause, the first stretch within `begin`; `on_end` gets what it returns."""

    __slots__ = ("_clock", "_coroutine", "_on_end")

    def __init__(self, coroutine: Coroutine[Any, Any, T], clock: Clock, on_end: Callable[[T], None]) -> None:
        self._coroutine: Coroutine[Any, Any, T] | None = coroutine
        self._clock, self._on_end = clock, on_end

    def begin(self) -> None:
        self._step()

    def soon(self) -> None:
        self._clock.at(self._clock.now(), self._step)

    def stop(self) -> None:
        """It leaves its contexts where it stands, and gives no result."""
        coroutine, self._coroutine = self._coroutine, None
        if coroutine is not None:
            coroutine.close()

    def _step(self) -> None:
        """Raises what the coroutine raises, and ForeignWait."""
        coroutine = self._coroutine
        if coroutine is None:
            return
        try:
            waits_for = coroutine.send(None)
        except StopIteration as end:
            self._coroutine = None
            self._on_end(end.value)
            return
        if not isinstance(waits_for, Pause):
            self.stop()
            raise ForeignWait(f"{coroutine} waits for {waits_for!r}: there is no event loop in virtual time")
        waits_for._waiting = self
