"""No request for ever: one that is still under way after so many seconds is ended, streamed or not.

One timer for all of them, which looks at the oldest: a timer per request would cost each a microsecond.
"""

from __future__ import annotations

import asyncio
from typing import Any


class TimeLimit:
    """`enter` with each request, `leave` with its end. A task that is over the limit is cancelled; `ended` then tells
    that it was this that cancelled it."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._began: dict[asyncio.Task[Any], float] = {}  # oldest first
        self._over: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def enter(self, loop: asyncio.AbstractEventLoop) -> asyncio.Task[Any] | None:
        task = asyncio.current_task(loop)
        if task is not None:
            self._began[task] = loop.time()
            if self._timer is None:
                self._timer = loop.call_later(self.limit_s, self._look, loop)
        return task

    def leave(self, task: asyncio.Task[Any] | None) -> None:
        if task is not None:
            self._began.pop(task, None)
            self._over.discard(task)

    def ended(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether it is this that has cancelled the task; the task goes on then, to say so."""
        if task is None or task not in self._over:
            return False
        task.uncancel()
        return True

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        for task, began in list(self._began.items()):
            left_s = began + self.limit_s - now
            if left_s > 1e-3:
                self._timer = loop.call_later(left_s, self._look, loop)
                return
            del self._began[task]
            self._over.add(task)
            task.cancel()
