"""An asyncio event loop in virtual time: whole services run on it, as fast as the CPU goes, and to the same result.

Where nothing is ready, time jumps to the next timer. Only work in threads takes the wall's time: while some runs, the
loop waits for it and virtual time stands still.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar

T = TypeVar("T")
LOOK_EVERY = 256  # turns of the loop between looks at real sockets, for what signals and threads have to say
THREAD_WAIT_S = 0.01
STARTS_AT_S = 1000.0  # not 0: code may take 0 for "never"


class DeadlockError(RuntimeError):
    """Nothing is ready, no timer is set and no thread works: what is awaited will never come."""


class _JumpingSelector(selectors.DefaultSelector):
    """Waits by moving the virtual clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = STARTS_AT_S
        self.threads = 0
        self._turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.threads:
            return super().select(0 if timeout == 0 else THREAD_WAIT_S)
        if timeout is None:
            ready = super().select(0)
            if not ready:
                raise DeadlockError("nothing is ready and no timer is set: what is awaited will never come")
            return ready
        if timeout > 0:
            self.now_s += timeout
        self._turns += 1
        if self._turns % LOOK_EVERY:
            return []
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` is virtual, in seconds."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self._jumping.now_s

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        self._jumping.threads += 1
        future.add_done_callback(self._thread_done)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """A thread of its own waits for those of the executor."""
        self._jumping.threads += 1
        try:
            await super().shutdown_default_executor()
        finally:
            self._jumping.threads -= 1

    def _thread_done(self, future: asyncio.Future[Any]) -> None:
        self._jumping.threads -= 1


def run_virtually(main: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`, in virtual time. Raises DeadlockError where it would wait for ever."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
