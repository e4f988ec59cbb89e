"""The branches of one request: started together, iterated in order of arrival, cut at the deadline, cancelled on
leaving.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from types import TracebackType

from proxy.backend import Backend
from proxy.branch import BranchStream
from proxy.errors import ClientGone
from strategies.answers import Grouper
from strategies.base import Answer, Branch

FINISHED = ("completed", "truncated")


class Run:
    """One plan being executed: the `strategies.Context` of its strategy, and the record of all that it did.

    `decide_by`: loop time at which arrivals end; None: no deadline. `on_event` gets the payloads of a lone branch
    as they come, `on_answer` each finished branch's answer.
    """

    def __init__(
        self,
        backend: Backend,
        requests: Callable[[int], bytes],
        grouper: Grouper | None,
        *,
        decide_by: float | None,
        on_event: Callable[[bytes], None] | None = None,
        on_answer: Callable[[Answer | None], None] | None = None,
    ) -> None:
        self.backend = backend
        self.branches: list[BranchStream] = []
        self.cut_by_deadline = False
        self._requests = requests
        self._grouper = grouper
        self._decide_by = decide_by
        self._on_event = on_event
        self._on_answer = on_answer
        self._loop = asyncio.get_running_loop()
        self._open: set[FanOut] = set()
        self._client_gone = False

    def sample(self, count: int) -> FanOut:
        return FanOut(self, count)

    async def answer(self, branch: Branch) -> Answer | None:
        if self._grouper is None:
            return None
        found = await self._grouper.group(branch.text)
        if found is not None:
            self.branches[branch.index].answer = found.text
        if self._on_answer is not None:
            self._on_answer(found)
        return found

    def client_gone(self) -> None:
        """Cancel every branch now and make the waiting strategy raise ClientGone."""
        self._client_gone = True
        for fanout in list(self._open):
            fanout.abandon()
        self.cancel_all()

    def cancel_all(self) -> None:
        for branch in self.branches:
            branch.cancel()

    @property
    def finished(self) -> list[BranchStream]:
        return [branch for branch in self.branches if branch.state in FINISHED]

    @property
    def failed(self) -> list[BranchStream]:
        return [branch for branch in self.branches if branch.state == "failed"]


class FanOut:
    """Async context manager and iterator over finished branches. No task per branch: sockets call back into it."""

    def __init__(self, run: Run, count: int) -> None:
        self._run = run
        self._count = count
        self._arrived: deque[BranchStream] = deque()
        self._pending = 0
        self._mine: list[BranchStream] = []
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False

    async def __aenter__(self) -> AsyncIterator[Branch]:
        run = self._run
        if run._client_gone:
            raise ClientGone
        run._open.add(self)
        if run._decide_by is not None:
            self._timer = run._loop.call_at(run._decide_by, self._deadline)
        clock, pool = time.monotonic, run.backend.pool
        for _ in range(self._count):
            branch = BranchStream(len(run.branches), run.backend, clock, self._branch_over, run._on_event)
            run.branches.append(branch)
            self._mine.append(branch)
            self._pending += 1
            branch.exchange = pool.send(run._requests(branch.index), branch)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        for branch in self._mine:
            branch.cancel()
        self._run._open.discard(self)

    def __aiter__(self) -> AsyncIterator[Branch]:
        return self

    async def __anext__(self) -> Branch:
        while not self._arrived:
            if self._run._client_gone:
                raise ClientGone
            if self._ended or self._pending == 0:
                raise StopAsyncIteration
            self._waiter = self._run._loop.create_future()
            await self._waiter
        stream = self._arrived.popleft()
        return Branch(stream.index, stream.text, stream.completion_tokens, stream.finish_reason)

    def abandon(self) -> None:
        """The client has gone: wake whoever waits."""
        self._arrived.clear()
        self._wake()

    def _branch_over(self, stream: BranchStream) -> None:
        self._pending -= 1
        if stream.state in FINISHED:
            self._arrived.append(stream)
        self._wake()

    def _deadline(self) -> None:
        if self._pending:
            self._run.cut_by_deadline = True
            self._ended = True
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
