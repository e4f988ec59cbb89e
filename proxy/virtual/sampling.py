"""A strategy's context over simulated engines: what `proxy.fanout` is over sockets, to the same times and answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Generic, Self, TypeVar, cast

from profiler.simulation.asked import Refused
from profiler.simulation.clock import Alarm
from proxy.backend import Backend
from proxy.errors import InvalidRequest, ProxyError
from proxy.line import Dues
from proxy.metered_branch import FINISHED
from proxy.plan_run import PlanRun
from proxy.upstream_body import VOTE_STREAM_INTERVAL
from proxy.virtual.branch import VirtualBranch
from proxy.virtual.fleet import VirtualFleet
from proxy.virtual.steps import Pause
from proxy.virtual.wording import Letters
from strategies.answers import Grouper
from strategies.base import WHOLE, Answer, Branch, Generation, NoScore, Progress, Scorer

E = TypeVar("E")


class Sampling(PlanRun[VirtualBranch]):
    """One plan being executed: the `strategies.Context` of its strategy, and the record of all that it did. `letters`:
    what is asked of which engine; `decide_by`: when arrivals end; `seed`, `priority`: the client's own."""

    def __init__(
        self,
        fleet: VirtualFleet,
        backend: Backend,
        letters: Letters,
        grouper: Grouper | None,
        *,
        decide_by: float | None,
        dues: Dues,
        question: Callable[[], str],
        max_tokens: int | None,
        room: int | None,
        answers_wanted: int,
        seed: int | None,
        priority: int | None,
    ) -> None:
        super().__init__(
            backend,
            fleet.clock.now,
            decide_by=decide_by,
            question=question,
            max_tokens=max_tokens,
            room=room,
            answers_wanted=answers_wanted,
        )
        self.fault: InvalidRequest | Refused | None = None
        self._fleet, self._clock, self._letters, self._grouper = fleet, fleet.clock, letters, grouper
        self._dues, self._seed, self._priority = dues, seed, priority

    # -- strategies.Context --

    def sample(self, what: int | Sequence[Generation]) -> VirtualWave[Branch]:
        return VirtualWave(self, (WHOLE,) * what if isinstance(what, int) else what)

    def watch(self, what: int | Sequence[Generation], every_tokens: int) -> VirtualWave[Branch | Progress]:
        return VirtualWave(self, (WHOLE,) * what if isinstance(what, int) else what, every_tokens)

    async def answer(self, branch: Branch) -> Answer | None:
        return None if self._grouper is None else await self._grouper.group(branch.text)

    async def score(self, texts: Sequence[str], by: Scorer, *, so_far: bool = False) -> list[list[float]]:
        raise NoScore("reward models are not simulated")

    async def similarity(self, texts: Sequence[str]) -> list[list[float]] | None:
        return None

    # -- the request's side --

    def cancel_all(self) -> None:
        for branch in self.branches:
            branch.cancel()

    def start(
        self,
        generation: Generation,
        on_over: Callable[[VirtualBranch], None],
        on_progress: Callable[[VirtualBranch], None] | None,
        every_tokens: int,
    ) -> VirtualBranch | None:
        """A branch that waits for its `start`; None where nobody can serve it."""
        index = len(self.branches)
        try:
            backend, asked = self._letters.of(generation, self.backend)
        except (InvalidRequest, Refused) as error:
            self.fault = error
            return None
        except ProxyError:
            return None
        engine = self._fleet.engines[backend.name]
        own_seed = None if self._seed is None or generation.prompt is not None else self._seed + index
        choices = engine.draw(asked, own_seed)
        branch = VirtualBranch(index, backend, engine, asked, choices, on_over, self._dues.of(index))
        branch.generation = generation
        if on_progress is not None:
            branch.tell_progress(every_tokens, on_progress)
        self.branches.append(branch)
        return branch

    def priority(self, branch: VirtualBranch) -> int:
        """The client's own, else, as `Service.priority`, by when it is due, for engines that have a line by it."""
        if self._priority is not None and branch.generation.prompt is None:
            return self._priority
        return 0 if branch.backend.line is None else round(self._dues.of(branch.index) * 1e3)


class VirtualWave(Generic[E]):
    """Async context manager and iterator over finished branches, as `proxy.fanout.FanOut` is."""

    __slots__ = (
        "_arrived",
        "_ended",
        "_every",
        "_generations",
        "_mine",
        "_pause",
        "_pending",
        "_progressed",
        "_run",
        "_timer",
    )

    def __init__(self, run: Sampling, generations: Sequence[Generation], every_tokens: int = 0) -> None:
        self._run, self._generations, self._every = run, generations, every_tokens
        self._arrived: deque[VirtualBranch] = deque()
        self._progressed: dict[int, VirtualBranch] = {}
        self._pending = 0
        self._mine: dict[int, VirtualBranch] = {}
        self._pause = Pause()
        self._timer: Alarm | None = None
        self._ended = False

    async def __aenter__(self) -> Self:
        run = self._run
        if run.out_of_time:  # nothing would arrive: nothing is spent
            self._ended = True
            return self
        if run._decide_by is not None:
            self._timer = run._clock.at(run._decide_by, self._end)
        interval = min(self._every, VOTE_STREAM_INTERVAL)
        told = self._branch_progressed if self._every else None
        for place, generation in enumerate(self._generations):
            branch = run.start(generation, self._branch_over, told, self._every)
            if branch is not None:
                branch.place = place
                self._mine[branch.index] = branch
                self._pending += 1
                branch.start(interval, run.priority(branch))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                while self._run.wants_more and self._pending and not self._ended:
                    await self._pause
        finally:
            self._ended = True
            if self._timer is not None:
                self._timer.cancel()
            for branch in self._mine.values():
                branch.cancel()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> E:
        while not self._arrived and not self._progressed:
            if self._ended or not self._pending:
                raise StopAsyncIteration
            await self._pause
        return cast(E, self._next())

    def _next(self) -> Branch | Progress:
        if self._arrived:
            one = self._arrived.popleft()
            return Branch(one.index, one.text, one.completion_tokens, one.finish_reason, one.confidence, one.place)
        one = self._progressed.pop(next(iter(self._progressed)))
        return Progress(one.index, one.text, one.completion_tokens, tuple(one.confidence), one.place)

    def drop(self, index: int) -> None:
        branch = self._mine[index]
        branch.cancel()
        self._progressed.pop(index, None)
        if branch in self._arrived:
            self._arrived.remove(branch)

    def _branch_over(self, branch: VirtualBranch) -> None:
        self._progressed.pop(branch.index, None)
        if branch.state in FINISHED:
            self._arrived.append(branch)
        self._pending -= 1
        self._pause.wake()

    def _branch_progressed(self, branch: VirtualBranch) -> None:
        if not self._ended:
            self._progressed[branch.index] = branch
            self._pause.wake()

    def _end(self) -> None:
        """The deadline: no more arrivals."""
        self._run._time_is_up = True
        if self._pending:
            self._run.cut_by_deadline = self._ended = True
            self._progressed.clear()
            self._pause.wake()
