"""The branches of one request: started together, iterated in order of arrival, cut at the deadline, cancelled on
leaving.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Generic, Literal, Protocol, Self, TypeVar, cast

from proxy.backend import Backend
from proxy.branch import BranchStream
from proxy.confidence import Confidence
from proxy.errors import ClientGone, InvalidRequest, ProxyError
from proxy.line import Dues
from proxy.metered_branch import FINISHED
from proxy.plan_run import PlanRun
from proxy.scoring import Scoring
from proxy.tool_answer import tool_answer
from strategies.answers import Grouper
from strategies.base import WHOLE, Answer, Branch, Generation, NoScore, Progress, Scorer

E = TypeVar("E")
T = TypeVar("T")


class Requests(Protocol):
    """Where a generation of the request goes, and its bytes."""

    def __call__(self, generation: Generation, index: int, every_tokens: int = 0) -> tuple[Backend, bytes]:
        """`index`: of the branch; `every_tokens`: how often its progress is wanted, 0 for never. Raises ProxyError
        where nobody can serve it."""
        ...


class Replacing(Protocol):
    """Another branch for one that failed and without which its fan-out gives nothing."""

    def delay_s(self, failed: BranchStream, attempts: int) -> float | None:
        """Seconds until it may start; None: there is none."""
        ...

    def request(self, failed: BranchStream, index: int, every_tokens: int) -> tuple[Backend, bytes]:
        """As `Requests`, elsewhere if it can be. Raises ProxyError."""
        ...


class _Open(Protocol):
    """What a request waits for."""

    def abandon(self) -> None: ...
    def end(self) -> None: ...


class Run(PlanRun[BranchStream]):
    """One plan being executed: the `strategies.Context` of its strategy, and the record of all that it did.

    `decide_by`: loop time at which arrivals end; None: no deadline. `dues`: what orders its branches among those that
    wait for a seat. `on_event` gets the payloads of a lone branch as they come, `on_answer` each finished branch's
    answer. `top_logprobs`: the client's own. `answers_wanted`: a strategy that has decided is not over before as many
    branches have finished. `interval`: tokens from chunk to chunk of what is asked with so many
    `every_tokens`.
    """

    def __init__(
        self,
        backend: Backend,
        requests: Requests,
        grouper: Grouper | None,
        *,
        decide_by: float | None,
        dues: Dues | None = None,
        clock: Callable[[], float] = time.monotonic,
        scoring: Scoring | None = None,
        question: Callable[[], str] = str,
        max_tokens: int | None = None,
        room: int | None = None,
        top_logprobs: int | None = None,
        answers_wanted: int = 1,
        on_event: Callable[[bytes], None] | None = None,
        on_answer: Callable[[Answer | None], None] | None = None,
        interval: Callable[[int], int] = lambda every_tokens: 1,
        replacing: Replacing | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(
            backend,
            loop.time,
            decide_by=decide_by,
            question=question,
            max_tokens=max_tokens,
            room=room,
            answers_wanted=answers_wanted,
        )
        self.waves = 0
        self.first_row = 0  # of its branches in the trace: earlier plans may have left theirs
        self.notes: list[str] = []
        self.blamed: set[str] = set()
        self.fault: InvalidRequest | None = None  # a generation that the client's own request does not allow
        self.scoring = scoring
        self.replacing = replacing
        self.attempt: Literal["retry"] | None = None  # of its branches: an earlier plan of the request failed
        self._requests = requests
        self._grouper = grouper
        self._dues = dues
        self._clock = clock
        self._top_logprobs = top_logprobs
        self._on_event = on_event
        self._on_answer = on_answer
        self._interval = interval
        self._loop = loop
        self._open: set[_Open] = set()
        self._client_gone = False

    # -- strategies.Context --

    def sample(self, what: int | Sequence[Generation]) -> FanOut[Branch]:
        return FanOut(self, _generations(what))

    def watch(self, what: int | Sequence[Generation], every_tokens: int) -> FanOut[Branch | Progress]:
        return FanOut(self, _generations(what), every_tokens)

    async def answer(self, branch: Branch) -> Answer | None:
        if self._grouper is None:
            return None
        stream = self.branches[branch.index]
        text = tool_answer(stream.events) if self._grouper.kind == "tools" else None
        if self._grouper.asks:  # the comparison ends at the deadline by itself
            found = await self._aside(partial(self._grouper.group, text or branch.text), None)
        else:
            found = await self._grouper.group(text or branch.text)
        if found is not None:
            stream.answer = found.text
        if self._on_answer is not None and stream.generation.final:
            self._on_answer(found)
        return found

    async def score(self, texts: Sequence[str], by: Scorer, *, so_far: bool = False) -> list[list[float]]:
        if self.scoring is None:
            raise NoScore("the model has no reward model")
        return await self._aside(partial(self.scoring.score, texts, by, so_far=so_far), self._decide_by)

    async def similarity(self, texts: Sequence[str]) -> list[list[float]] | None:
        if self.scoring is None or not self.scoring.embeds:
            return None
        try:
            return await self._aside(partial(self.scoring.similarity, texts), self._decide_by)
        except NoScore:
            return None

    async def _aside(self, work: Callable[[], Coroutine[Any, Any, T]], until: float | None) -> T:
        """Work that is no branch, until it is done, its time comes (NoScore), or the client leaves."""
        if self._client_gone:
            raise ClientGone
        if until is not None and self.out_of_time:  # nothing would arrive: nothing is spent
            self.cut_by_deadline = True
            raise NoScore("the deadline came before the scores")
        task = self._loop.create_task(work())
        aside = _Aside(task)
        self._open.add(aside)
        try:
            async with asyncio.timeout_at(until):
                return await task
        except TimeoutError:
            self.cut_by_deadline = self._time_is_up = True
            raise NoScore("the deadline came before the scores") from None
        except asyncio.CancelledError:
            if self._client_gone:
                raise ClientGone from None
            if self.called_off:
                raise NoScore("the proxy is shutting down") from None
            raise
        finally:
            self._open.discard(aside)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            for call in self.scoring.calls if self.scoring is not None else ():
                call.wave = call.wave or max(1, self.waves)

    # -- the proxy's side --

    def client_gone(self) -> None:
        """Cancel every branch now and make the waiting strategy raise ClientGone."""
        self._client_gone = True
        for fanout in list(self._open):
            fanout.abandon()
        self.cancel_all()

    def call_off(self) -> None:
        """The proxy ends: the deadline is now."""
        self.called_off = self._time_is_up = True
        self.notes.append("the proxy was shutting down")
        for each in list(self._open):
            each.end()

    def cancel_all(self) -> None:
        for branch in self.branches:
            branch.cancel()


class _Aside:
    """What `Run._open` holds for work that is no fan-out."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task = task

    def abandon(self) -> None:
        self._task.cancel()

    def end(self) -> None:
        self._task.cancel()


def _generations(what: int | Sequence[Generation]) -> Sequence[Generation]:
    return (WHOLE,) * what if isinstance(what, int) else what


class FanOut(Generic[E]):
    """Async context manager and iterator over finished branches, and, where asked for, over the progress of those that
    run. No task per branch: sockets call back into it."""

    def __init__(self, run: Run, generations: Sequence[Generation], every_tokens: int = 0) -> None:
        self._run = run
        self._generations = generations
        self._every_tokens = every_tokens
        self._arrived: deque[BranchStream] = deque()
        self._progressed: dict[int, BranchStream] = {}  # insertion order is the order of time
        self._pending = 0
        self._mine: dict[int, tuple[int, BranchStream]] = {}  # by index: the place among the generations
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._again: asyncio.TimerHandle | None = None  # the start of a replacement
        self._replaced = 0
        self._finished = False  # a branch of it has
        self._ended = False

    async def __aenter__(self) -> Self:
        run = self._run
        if run._client_gone:
            raise ClientGone
        if run.out_of_time:  # nothing would arrive: nothing is spent
            run.cut_by_deadline = self._ended = True
            return self
        run._open.add(self)
        run.waves += 1
        if run._decide_by is not None:
            self._timer = run._loop.call_at(run._decide_by, self.end)
        for place, generation in enumerate(self._generations):
            try:
                backend, request = run._requests(generation, len(run.branches), self._every_tokens)
            except ProxyError as error:
                run.notes.append(error.message)
                if isinstance(error, InvalidRequest):
                    run.fault = error
                continue
            self._start(place, generation, backend, request)
        return self

    def _start(
        self, place: int, generation: Generation, backend: Backend, request: bytes, *, replacement: bool = False
    ) -> None:
        run = self._run
        # Only what the client asked for itself may be sent to it before the strategy has decided.
        on_event = run._on_event if not run.branches and generation.as_asked else None
        due_s = None if run._dues is None else run._dues.of(len(run.branches))
        branch = BranchStream(len(run.branches), backend, run._clock, self._branch_over, on_event, due_s)
        branch.wave, branch.generation = run.waves, generation
        branch.interval = run._interval(self._every_tokens)
        branch.blamed = run.blamed
        branch.attempt = "replacement" if replacement else run.attempt
        if generation.confidence:
            branch.confidence = Confidence(run._top_logprobs)
        if self._every_tokens:
            branch.tell_progress(self._every_tokens, self._branch_progressed)
        run.branches.append(branch)
        self._mine[branch.index] = place, branch
        self._pending += 1
        branch.exchange = backend.pool.send(request, branch)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                await self._enough_answers()
        finally:
            self._close()

    def _close(self) -> None:
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        if self._again is not None:
            self._again.cancel()
            self._again = None
        for _, branch in self._mine.values():
            branch.cancel()
        self._run._open.discard(self)
        self._mine.clear()

    async def _enough_answers(self) -> None:
        """Until the client's `n` can be given, the deadline comes, or nothing is left to wait for."""
        run = self._run
        while run.wants_more and self._pending and not self._ended:
            self._waiter = run._loop.create_future()
            await self._waiter
            if run._client_gone:
                raise ClientGone

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> E:
        while not self._arrived and not self._progressed:
            if self._run._client_gone:
                raise ClientGone
            if self._ended or self._pending == 0:
                raise StopAsyncIteration
            self._waiter = self._run._loop.create_future()
            await self._waiter
        return cast(E, self._next())

    def _next(self) -> Branch | Progress:
        if self._arrived:
            stream = self._arrived.popleft()
            confidence = stream.confidence.per_token if stream.confidence is not None else ()
            return Branch(
                stream.index,
                stream.text,
                stream.completion_tokens,
                stream.finish_reason,
                confidence,
                self._mine[stream.index][0],
            )
        stream = self._progressed.pop(next(iter(self._progressed)))
        told = tuple(stream.confidence.per_token) if stream.confidence is not None else ()
        return Progress(stream.index, stream.text, stream.completion_tokens, told, self._mine[stream.index][0])

    def drop(self, index: int) -> None:
        """Cancel a branch: it arrives no more."""
        stream = self._mine[index][1]
        stream.cancel()
        self._progressed.pop(index, None)
        if stream in self._arrived:
            self._arrived.remove(stream)

    def abandon(self) -> None:
        """The client has gone: wake whoever waits."""
        self._arrived.clear()
        self._progressed.clear()
        self._wake()

    def _branch_over(self, stream: BranchStream) -> None:
        self._progressed.pop(stream.index, None)
        if stream.state in FINISHED:
            self._finished = True
            self._arrived.append(stream)
        elif stream.state == "failed" and (delay_s := self._until_replaced(stream)) is not None:
            self._again = self._run._loop.call_later(delay_s, self._replace, stream)
            return
        self._pending -= 1
        self._wake()

    def _until_replaced(self, failed: BranchStream) -> float | None:
        """None where it is not replaced. Branches are many so that some may fail: only where all of a fan-out did has
        its strategy nothing to go on with. Not in the first: nothing is lost when that is planned again."""
        run = self._run
        if run.replacing is None or self._ended or run._client_gone or self._pending > 1 or self._finished:
            return None
        if run.waves == 1 and failed.generation.model == "own":
            return None
        return run.replacing.delay_s(failed, self._replaced + 1)

    def _replace(self, failed: BranchStream) -> None:
        self._again = None
        self._pending -= 1
        run = self._run
        if not self._ended and not run._client_gone and run.replacing is not None:
            try:
                backend, request = run.replacing.request(failed, len(run.branches), self._every_tokens)
            except ProxyError as error:
                run.notes.append(error.message)
            else:
                self._replaced += 1
                place = self._mine[failed.index][0]
                self._start(place, failed.generation, backend, request, replacement=True)
                return
        self._wake()

    def _branch_progressed(self, stream: BranchStream) -> None:
        if not self._ended:
            self._progressed[stream.index] = stream
            self._wake()

    def end(self) -> None:
        """No more arrivals: as at the deadline."""
        self._run._time_is_up = True
        if self._pending:
            self._run.cut_by_deadline = True
            self._ended = True
            self._progressed.clear()
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
