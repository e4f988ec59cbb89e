"""A fleet in virtual time: engines that step as their StepTime says, and proxies that decide for real on old metrics.

Only time and engines are made up. A proxy has backends, busy-time ledgers, corrections and tables of its own, and sees
its neighbours' branches only by looking at the engines' counts, every half second.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from random import Random

from planner_tables import STEP, backend, served

from profiler.prediction import Setting
from proxy.correction import Forecast
from proxy.load_metrics import EngineLoad
from proxy.planner import choose
from proxy.plans import Ask, Decision
from proxy.probe import LOAD_EVERY_S

Event = Callable[[], None]


class Clock:
    """Virtual seconds. What is due runs in order of time, then of asking."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Event]] = []
        self._order = count()

    def __call__(self) -> float:
        return self.now

    def at(self, when: float, event: Event) -> None:
        heapq.heappush(self._due, (when, next(self._order), event))

    def run(self, until: float) -> None:
        while self._due and self._due[0][0] <= until:
            self.now, _, event = heapq.heappop(self._due)
            event()
        self.now = until


class Engine:
    """All running branches are a step further every g(B) seconds; beyond `max_num_seqs` they wait in line."""

    def __init__(self, clock: Clock, max_num_seqs: int) -> None:
        self._clock, self.max_num_seqs = clock, max_num_seqs
        self._steps, self._since = 0.0, 0.0  # made so far, as of when
        self._running: list[tuple[float, int, Event]] = []  # by the step that is their last
        self.waiting: deque[tuple[float, Event]] = deque()
        self._order = count()
        self._state = 0  # a wake-up of an earlier state is void

    @property
    def running(self) -> int:
        return len(self._running)

    def start(self, steps: float, done: Event) -> None:
        self._advance()
        self.waiting.append((steps, done))
        self._admit()

    def _advance(self) -> None:
        now = self._clock.now
        if self._running:
            self._steps += (now - self._since) / float(STEP.g_s(self.running))
        self._since = now

    def _admit(self) -> None:
        while self.waiting and self.running < self.max_num_seqs:
            steps, done = self.waiting.popleft()
            heapq.heappush(self._running, (self._steps + steps, next(self._order), done))
        self._state += 1
        if self._running:
            left_s = (self._running[0][0] - self._steps) * float(STEP.g_s(self.running))
            state = self._state
            self._clock.at(self._clock.now + max(left_s, 0.0), lambda: self._wake(state))

    def _wake(self, state: int) -> None:
        if state != self._state:
            return
        self._advance()
        while self._running and self._running[0][0] <= self._steps + 1e-9:
            heapq.heappop(self._running)[2]()
        self._admit()


@dataclass(slots=True)
class Asked:
    """One request: when it came, what was decided, and how long it took (None: still running)."""

    at_s: float
    decision: Decision
    latency_s: float | None = None

    @property
    def backend(self) -> str:
        return self.decision.plan.backend.name


class Proxy:
    """Decides alone. With `naive`, it always takes the first of equal plans and believes every count at once."""

    def __init__(
        self, clock: Clock, engines: Sequence[Engine], table: tuple[Setting, ...], seed: int, *, naive: bool
    ) -> None:
        self._clock, self._engines, self._naive = clock, engines, naive
        self._lengths, self._rng = Random(seed), None if naive else Random(-1 - seed)
        self._backends = [
            backend(str(i), clock=clock, max_num_seqs=engine.max_num_seqs) for i, engine in enumerate(engines)
        ]
        self._models = served(*self._backends, table=table)
        self.asked: list[Asked] = []

    def look(self) -> None:
        """Read every engine's count, now and ever after."""
        for engine, seen in zip(self._engines, self._backends, strict=True):
            if self._naive:
                seen.load = None
            seen.note_load(EngineLoad(engine.running, len(engine.waiting), 0.0))
        self._clock.at(self._clock.now + LOAD_EVERY_S, self.look)

    def ask(self, ask: Ask) -> None:
        """Decide, start the branches, and learn when the last one ends."""
        decision = choose(ask, self._models, self._rng)
        assert isinstance(decision, Decision)
        asked = Asked(self._clock.now, decision)
        self.asked.append(asked)
        plan = decision.plan
        table = self._models[0].settings(None, None)
        setting = next(s for s in table if (s.strategy, s.params) == (plan.strategy, plan.params))
        lengths = setting.lengths[self._lengths.randrange(len(setting.lengths))]
        engine, running = self._engines[self._backends.index(plan.backend)], [len(lengths)]

        def start(steps: float) -> None:
            mark = plan.backend.gpu_time.enter()
            engine.start(steps, lambda: end(mark))

        def end(mark: float) -> None:
            plan.backend.gpu_time.leave(mark)
            running[0] -= 1
            if not running[0]:
                self._finish(asked)

        for length in lengths:
            start(STEP.p0_s / STEP.step_s[0] + length - 1)  # the prompt as steps of its own

    def _finish(self, asked: Asked) -> None:
        asked.latency_s = self._clock.now - asked.at_s
        predicted, plan = asked.decision.plan.predicted, asked.decision.plan
        forecast = Forecast(
            predicted.median_ms / 1e3,
            predicted.latency_ms / 1e3,
            plan.served.percentile,
            predicted.bias,
            predicted.spread,
        )
        plan.backend.correction.observe(asked.latency_s, forecast)


class Fleet:
    """Equal engines behind equal proxies, which all look at the same instants: the worst case of herding."""

    def __init__(
        self,
        engines: int,
        proxies: int,
        table: tuple[Setting, ...],
        *,
        seed: int = 0,
        naive: bool = False,
        max_num_seqs: int = 256,
    ) -> None:
        self.clock = Clock()
        self.engines = [Engine(self.clock, max_num_seqs) for _ in range(engines)]
        self._random = Random(seed)
        self.proxies = [Proxy(self.clock, self.engines, table, seed + i, naive=naive) for i in range(proxies)]
        self.loads: list[list[int]] = []  # running per engine, every tenth of a second
        for proxy in self.proxies:
            self.clock.at(0.0, proxy.look)
        self.clock.at(0.0, self._sample)

    def arrive(self, ask: Ask, per_s: float, from_s: float, to_s: float) -> None:
        """Requests at random times (Poisson), each to a proxy at random."""
        when = from_s + self._random.expovariate(per_s)
        while when < to_s:
            proxy = self._random.choice(self.proxies)
            self.clock.at(when, lambda proxy=proxy: proxy.ask(ask))
            when += self._random.expovariate(per_s)

    def _sample(self) -> None:
        self.loads.append([engine.running for engine in self.engines])
        self.clock.at(self.clock.now + 0.1, self._sample)

    @property
    def asked(self) -> list[Asked]:
        return sorted((one for proxy in self.proxies for one in proxy.asked), key=lambda one: one.at_s)
