"""Mathematical equivalence in a worker process that can be killed."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING

from strategies.answers.errors import Closed, OutOfTime, Overloaded, Undecided
from strategies.answers.worker import equal_mathematics, import_mathematics, ready, start

if TYPE_CHECKING:
    from pebble import ProcessPool

Compare = Callable[[str, str], bool]
"""Picklable by name: it runs in the worker."""


class MathVerifyPool:
    """An `Equivalence` by math-verify, in one worker process that starts with the first call (or `warm`).

    One comparison runs at a time. The worker that runs over its limit, or whose caller is cancelled, is killed and
    replaced. Belongs to one event loop. The interpreter's own resource tracker process stays, as after any spawn.
    """

    def __init__(
        self,
        *,
        limit_s: float = 1.0,
        patience_s: float = 3.0,
        max_waiting: int = 32,
        max_chars: int = 512,
        compare: Compare = equal_mathematics,
        prepare: Callable[[], None] = import_mathematics,
    ) -> None:
        """`limit_s`: of one comparison's work (kept to 0.1 s). `patience_s`: of a call, with its wait for a worker.

        `max_waiting`: calls at once. `max_chars`: of one answer. `compare` and `prepare` run in the worker.
        """
        self._limit_s, self._patience_s = limit_s, patience_s
        self._max_waiting, self._max_chars = max_waiting, max_chars
        self._compare, self._prepare = compare, prepare
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._pool: ProcessPool | None = None
        self._started: Future[None] | None = None
        self._running: Future[bool] | None = None
        self._closed = False
        self.undecided = 0
        """Calls that ended without a verdict, for any reason but cancellation."""

    async def same(self, a: str, b: str) -> bool:
        """Whether two answers as written are mathematically equal.

        Raises Overloaded, OutOfTime, Closed, or plain Undecided where the comparison failed; take each as "different".
        """
        try:
            return await self._admitted(a, b)
        except Undecided:
            self.undecided += 1
            raise

    async def warm(self) -> None:
        """Starts the worker and waits until it can compare (seconds): the first call need not. Raises Undecided."""
        with self._as_undecided():
            async with self._turn:
                await self._worker()

    async def aclose(self) -> None:
        """Kills the worker; calls under way raise Closed. May be called again."""
        self._closed = True
        for future in (self._started, self._running):
            if future is not None:
                future.cancel()
        pool, self._pool = self._pool, None
        if pool is not None:
            await asyncio.to_thread(_discard, pool)

    async def _admitted(self, a: str, b: str) -> bool:
        if self._waiting >= self._max_waiting:
            raise Overloaded(f"{self._waiting} comparisons wait")
        if max(len(a), len(b)) > self._max_chars:
            raise Undecided(f"an answer of more than {self._max_chars} characters is not compared")
        self._waiting += 1
        try:
            with self._as_undecided():
                async with asyncio.timeout(self._patience_s), self._turn:
                    return await self._compared(a, b)
        finally:
            self._waiting -= 1

    @contextmanager
    def _as_undecided(self) -> Iterator[None]:
        try:
            yield
        except Undecided:
            raise
        except TimeoutError as error:
            raise OutOfTime("no verdict in time") from error
        except Exception as error:  # what the comparison raised, or the worker's death
            raise Undecided(f"the comparison failed: {error!r}") from error
        except asyncio.CancelledError:
            if self._closed and not _task_is_cancelled():
                raise Closed("the pool was closed") from None
            raise

    async def _compared(self, a: str, b: str) -> bool:
        pool = await self._worker()
        self._running = future = pool.schedule(self._compare, args=(a, b), timeout=self._limit_s)
        try:
            verdict = await asyncio.wrap_future(future)
        except BaseException:
            self._started = None  # the worker may be gone: wait for the next one before its clock runs
            raise
        finally:
            self._running = None
        return verdict

    async def _worker(self) -> "ProcessPool":
        """The pool, once its worker has started. A caller that goes away does not stop the start."""
        pool = await self._live_pool()
        if self._started is None or (self._started.done() and self._started.exception() is not None):
            # Its limit runs from the moment the worker takes it up: not the start's, but a dying worker's.
            self._started = pool.schedule(ready, timeout=self._limit_s)
        if not self._started.done():
            await asyncio.shield(asyncio.wrap_future(self._started))
        return pool

    async def _live_pool(self) -> "ProcessPool":
        if self._pool is not None and not self._pool.active:  # pebble gives up when an idle worker dies
            broken, self._pool = self._pool, None
            await asyncio.to_thread(_discard, broken)
        if self._closed:
            raise Closed("the pool is closed")
        if self._pool is None:
            self._pool = self._new_pool()
            self._started = None
        return self._pool

    def _new_pool(self) -> "ProcessPool":
        import multiprocessing  # both here: importing this module stays light

        from pebble import ProcessPool

        return ProcessPool(
            max_workers=1,
            initializer=start,
            initargs=(self._prepare,),
            context=multiprocessing.get_context("spawn"),
        )


def _discard(pool: "ProcessPool") -> None:
    pool.stop()  # type: ignore[no-untyped-call]
    pool.join()


def _task_is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
