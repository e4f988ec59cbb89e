"""A bounded queue and the one thread that empties it: for work that may be slow, or stuck, and that no request may wait
for. What finds the queue full is dropped and counted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
log = logging.getLogger("paretoproxy.outbox")


class Outbox(Generic[T]):
    """`deliver` gets what waited, oldest first, at most `batch` at once, in the thread; what it raises is logged once
    in a row and ends nothing. `dropped`: what found the queue full, or still waited when `close` gave up."""

    def __init__(
        self,
        name: str,
        deliver: Callable[[list[T]], None],
        *,
        size: int,
        batch: int = 1,
        every_s: float = 0.0,
    ) -> None:
        self._deliver = deliver
        self._queue: deque[T] = deque()
        self._size = size
        self._batch = batch
        self._every_s = every_s
        self._awake = threading.Event()
        self._closing = threading.Event()
        self._gave_up = False
        self._busy = False
        self._said_failing = False
        self.dropped = 0
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def put(self, item: T) -> bool:
        """From any thread, without waiting; False where it was dropped."""
        if len(self._queue) >= self._size or self._closing.is_set():
            self.dropped += 1
            return False
        self._queue.append(item)
        if not self._awake.is_set():
            self._awake.set()
        return True

    def flush(self, within_s: float) -> bool:
        """Wait until all that waits now is delivered; False where that took too long."""
        until = time.monotonic() + within_s
        while self._queue or self._busy:
            if time.monotonic() >= until or not self._thread.is_alive():
                return False
            time.sleep(0.002)
        return True

    def close(self, within_s: float, give_up: Callable[[], None] | None = None) -> None:
        """Deliver what waits, for so long at most; then `give_up` is to interrupt the delivery under way. Blocks; the
        thread may outlive it where the delivery cannot be interrupted."""
        self._closing.set()
        self._awake.set()
        self._thread.join(within_s)
        self._gave_up = True
        if give_up is not None:
            give_up()
        if self._thread.is_alive():
            self._thread.join(0.1)
        self.dropped += len(self._queue)
        self._queue.clear()

    def _work(self) -> None:
        while True:
            self._awake.wait()
            if self._every_s:  # let a batch gather
                self._closing.wait(self._every_s)
            self._awake.clear()
            while self._queue and not self._gave_up:
                self._busy = True
                taken = [self._queue.popleft() for _ in range(min(self._batch, len(self._queue)))]
                self._hand_over(taken)
                self._busy = False
            if self._closing.is_set() and (self._gave_up or not self._queue):
                return

    def _hand_over(self, taken: list[T]) -> None:
        try:
            self._deliver(taken)
            self._said_failing = False
        except Exception as error:
            self.dropped += len(taken)
            if not self._said_failing:
                self._said_failing = True
                log.error("%s: %s: %s", self._thread.name, type(error).__name__, error)
