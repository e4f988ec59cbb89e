"""A vLLM engine in simulated time: continuous batching as V1's scheduler does it, each step as long as a profile says.

Steps run one after the other. Each takes first the running branches, then, within `max_num_batched_tokens`, chunks of
prompts: of those begun, then of those that wait, first come first served, as far as `max_num_seqs` and the KV cache
allow. Where the cache is full, the branch that came last is preempted: it gives back its tokens and computes them
again. A step of B decoding branches with K tokens of their own and S shared ones takes

    g(B) + c_kv·K + c_shared·S                                  seconds;  `steptime.StepTime`
    max(computing, that + stall·computing)                      with prompt chunks, of p_tok·C + p_tok2·Σ(end² − begin²)

times the engine's `Pace`. Before, the host takes a request in: p_branch + p_cached·(cached prompt) one after the other,
and the rest of p0 beside others. The processes that do so also run the steps and bring tokens out: where branches
decode, most of that time is added to the next step. `finish` passes between the last step and the client's knowing.

Between events nothing changes but the number of steps, so whole stretches of them are one event. The clock is injected,
and engine time is what was planned, not when the event ran: a late timer moves nothing.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections import OrderedDict, deque
from dataclasses import dataclass
from itertools import count
from math import floor
from operator import attrgetter
from random import Random

from profiler.simulation.clock import Clock
from profiler.simulation.decoding import Decoding
from profiler.simulation.drafts import Accepted
from profiler.simulation.engine_spec import EngineSpec
from profiler.simulation.generation import Generation, Listener
from profiler.simulation.kv_memory import KvMemory, Prompt
from profiler.simulation.pace import Pace
from profiler.simulation.stretch import Stretch

PROMPTS_KNOWN_TO_HOST = 4096
# Of the time in which a request is taken in, by how much steps that run are later: the share at which the cells that
# the six H200 profiles were fitted to come out right on average (tests/profiler/held_out.py tells of the others).
HELD_UP = 0.7
_PLACE = attrgetter("place")


class QueueFull(Exception):
    """As many requests wait as may."""


@dataclass(slots=True)
class Counters:
    """Totals since the start. `generated` and the drafts are of branches that have ended; `Engine` adds the others."""

    prompts: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated: int = 0
    decode_steps: int = 0
    preemptions: int = 0
    first_tokens: int = 0
    finished: int = 0
    aborted: int = 0


class Engine:
    """Deterministic for its spec, its clock and what it is asked. Not thread-safe; listeners run inside its events."""

    def __init__(self, spec: EngineSpec, clock: Clock) -> None:
        self.spec, self._clock = spec, clock
        self.pace = Pace(spec.sigma, spec.seed)
        self.memory = KvMemory(spec.kv_tokens, prefix_caching=spec.prefix_caching)
        self.counters = Counters()
        self._phases = Random(spec.seed) if spec.draft_tokens else None  # None: no speculation
        self._per_step = spec.acceptance_length if spec.draft_tokens else 1.0
        self._host_free_s = 0.0
        self._waking = False
        self._host_knows: OrderedDict[tuple[int, int], None] = OrderedDict()
        self._order = count()
        self._reset()

    def _reset(self) -> None:
        self._arriving: dict[Generation, float] = {}  # that the host is taking in, and for how many seconds
        self._held_up_s = 0.0  # to be added to the next step
        self.waiting: list[Generation] = []  # the next to run is the last
        self._running: dict[Generation, None] = {}  # in order of admission: prefilling ones, then decoding, mixed
        self._prefilling: deque[Generation] = deque()
        self._doomed: list[Generation] = []
        self._events: list[tuple[int, int, Generation]] = []  # by the step after which the listener is told
        self._steps = 0  # ended, as of the stretch's begin
        self._decoding = Decoding(self.spec.step_time, self._per_step, sharing=self.spec.prefix_caching)
        self._tails = 0  # tokens of running branches' prompts that are in no whole block
        self._ahead = 0  # tokens that prefilling branches had generated before they were preempted
        self._stretch: Stretch | None = None

    # -- asking --

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def queued(self) -> int:
        """Waiting, those included that the host is taking in."""
        return len(self.waiting) + len(self._arriving)

    @property
    def kv_usage(self) -> float:
        return min(1.0, (self.memory.in_blocks + self._own_memory(self._now_steps())) / self.spec.kv_tokens)

    def submit(self, prompt: Prompt, output: int, every: int, listener: Listener, priority: int = 0) -> Generation:
        """Start a branch; the listener is never called before this returns. Raises QueueFull."""
        spec, step = self.spec, self.spec.step_time
        if spec.max_waiting is not None and self.queued >= spec.max_waiting:
            raise QueueFull
        accepted = Accepted(self._per_step, self._phases.random()) if self._phases is not None else None
        generation = Generation(self, prompt, max(1, output), every, listener, accepted)
        generation.place = (-priority if spec.by_priority else 0), -next(self._order)
        now = self._clock.now()
        pace = self.pace.at(now)
        cached_s = pace * step.p_cached_s * prompt.tokens if self._host_has_seen(prompt) else 0.0
        begins_s = max(now, self._host_free_s)
        taking_s = pace * step.p_branch_s + cached_s
        self._host_free_s = begins_s + taking_s
        self._arriving[generation] = taking_s
        self.counters.prompts += 1
        self.counters.prompt_tokens += prompt.tokens
        self._clock.at(begins_s + pace * step.p0_s + cached_s, lambda: self._taken_in(generation))
        return generation

    def abort(self, generation: Generation) -> None:
        before = generation.state
        if before in ("ended", "cancelled"):
            return
        generation.state = "cancelled"
        self.counters.aborted += 1
        if before in ("prefilling", "decoding"):
            self._doomed.append(generation)
            self._interrupt()
        elif before == "waiting":
            self.waiting.remove(generation)

    def tokens_of(self, generation: Generation) -> int:
        if generation.state == "decoding":
            return generation.tokens_after(self._now_steps() - generation.base)
        return generation.tokens_after(generation.steps_done)

    def totals(self) -> tuple[int, int, int]:
        """(tokens generated, steps of a branch that verified drafts, drafts accepted), of running branches too."""
        generated, steps, now = self.counters.generated, self.counters.decode_steps, self._now_steps()
        for generation in self._running:
            done = now - generation.base if generation.state == "decoding" else generation.steps_done
            generated += generation.tokens_after(done)
            steps += max(0, done)
        if self._phases is None:
            return generated, 0, 0
        return generated, steps, generated - steps - self.counters.first_tokens

    def slow_down(self, factor: float) -> None:
        """Every duration from the next step on."""
        self.pace.slow = factor
        self._interrupt()

    def drop_all(self) -> None:
        """The engine's process died: nothing is left of what it ran, and no listener hears of it."""
        for generation in (*self._arriving, *self._running, *self.waiting):
            generation.state = "cancelled"
        if self._stretch is not None and self._stretch.alarm is not None:
            self._stretch.alarm.cancel()
        self.memory.clear()
        self._host_knows.clear()
        self._host_free_s = 0.0
        self._reset()

    # -- the host --

    def _host_has_seen(self, prompt: Prompt) -> bool:
        if not (self.spec.prefix_caching and prompt.blocks):
            return False
        key, known = prompt.key, self._host_knows
        seen = key in known
        known[key] = None
        known.move_to_end(key)
        if len(known) > PROMPTS_KNOWN_TO_HOST:
            known.popitem(last=False)
        return seen

    def _taken_in(self, generation: Generation) -> None:
        self._held_up_s += HELD_UP * self._arriving.pop(generation, 0.0)
        if generation.state == "cancelled":
            return
        generation.state = "waiting"
        self._queue(generation)
        if self._stretch is None:
            if not self._waking:  # after all that come at this very moment
                self._waking = True
                self._clock.at(self._clock.now(), self._wake)
        elif len(self._running) - len(self._doomed) < self.spec.max_num_seqs:
            self._interrupt()

    def _queue(self, generation: Generation) -> None:
        """By priority, then by arrival; who was preempted came before all that wait."""
        insort(self.waiting, generation, key=_PLACE)

    def _wake(self) -> None:
        self._waking = False
        if self._stretch is None:
            self._plan(self._clock.now())

    # -- stepping --

    def _now_steps(self) -> int:
        stretch = self._stretch
        return self._steps if stretch is None else self._steps + stretch.steps_by(self._clock.now())

    def _interrupt(self) -> None:
        """Something changed: the stretch ends with the step that runs now."""
        stretch = self._stretch
        if stretch is None or stretch.steps == 1:
            return
        steps = min(stretch.steps, stretch.steps_by(self._clock.now()) + 1)
        if steps < stretch.steps:
            stretch.steps = steps
            self._schedule(stretch)

    def _schedule(self, stretch: Stretch) -> None:
        if stretch.alarm is not None:
            stretch.alarm.cancel()
        stretch.alarm = self._clock.at(stretch.end_s(stretch.steps), self._boundary)

    def _boundary(self) -> None:
        """A stretch has ended: computed prompts have their first token, listeners are told, the next begins."""
        stretch = self._stretch
        assert stretch is not None
        now = stretch.end_s(stretch.steps)
        self._steps += stretch.steps
        self._stretch = None
        self._bury()
        for generation in self._prefilled():
            if generation.state == "decoding":  # else what another's listener did has ended it
                self._tell(generation, now)
        events = self._events
        while events and events[0][0] <= self._steps:
            _, _, generation = heapq.heappop(events)
            if generation.state == "decoding":
                self._tell(generation, now)
        if self._stretch is None:
            self._plan(now)

    def _bury(self) -> None:
        """Those that were cancelled while they ran give back their places."""
        for generation in self._doomed:
            self._remove(generation)
        self._doomed.clear()

    def _prefilled(self) -> list[Generation]:
        """Those whose prompts are computed now; they decode from here on."""
        done = []
        while self._prefilling and self._prefilling[0].prefilled >= self._prefilling[0].to_prefill:
            generation = self._prefilling.popleft()
            self._begin_decoding(generation)
            done.append(generation)
        return done

    def _begin_decoding(self, generation: Generation) -> None:
        self._ahead -= generation.tokens_after(generation.steps_done)
        generation.state = "decoding"
        self.counters.first_tokens += generation.steps_done < 0
        generation.steps_done += 1
        generation.base = self._steps - generation.steps_done
        self._decoding.add(generation.prompt, generation.base)

    def _tell(self, generation: Generation, now: float) -> None:
        """The listener, if it is due, and the next event."""
        tokens = generation.tokens_after(self._steps - generation.base)
        if tokens >= generation.output:
            self._remove(generation)
            generation.state = "ending"
            self.counters.finished += 1
            self._clock.at(now + self.spec.step_time.finish_s * self.pace.at(now), generation.end)
            return
        if not generation.told or (generation.every and tokens >= generation.told + generation.every):
            generation.told = tokens
            generation.listener(tokens, False)
            if generation.state != "decoding":
                return
        step = generation.base + generation.step_of(generation.next_telling())
        heapq.heappush(self._events, (step, next(self._order), generation))

    def _remove(self, generation: Generation) -> None:
        """It runs no more: ended, cancelled or preempted."""
        del self._running[generation]
        self._tails -= self.memory.own_of(generation.prompt)
        self.memory.give_back(generation.prompt)
        if generation in self._prefilling:
            self._prefilling.remove(generation)
            self._ahead -= generation.tokens_after(generation.steps_done)
        else:
            self._decoding.remove(generation.prompt, generation.base)
            generation.steps_done = self._steps - generation.base
        if generation.state != "waiting":
            self.counters.generated += generation.tokens_after(generation.steps_done)
            self.counters.decode_steps += max(0, generation.steps_done)

    # -- planning --

    def _plan(self, now: float) -> None:
        """Decide what the next steps do, and when they end."""
        self._bury()
        while self._decoding.branches and self._steps_in_memory() < 1 and len(self._running) > 1:
            self._preempt()
        chunks, computing_s = self._chunks()
        if not self._running:
            return
        self.memory.make_room(self._own_memory(self._steps))
        pace, decoding = self.pace.at(now), self._decoding
        base_s, growth_s = decoding.step_s(self._steps) if decoding.branches else (0.0, 0.0)
        held_up_s, self._held_up_s = (self._held_up_s if decoding.branches else 0.0), 0.0
        if chunks or held_up_s:
            both_s = base_s + min(self.spec.step_time.stall, 1.0) * computing_s if decoding.branches else 0.0
            self._begin(Stretch(now, 1, pace * max(computing_s, both_s) + held_up_s, 0.0))
            return
        stretch = Stretch(now, self._steps_ahead(), pace * base_s, pace * growth_s)
        until = self.pace.constant_until(now)
        if stretch.end_s(stretch.steps) > until:
            stretch.steps = max(1, stretch.steps_by(until))
        self._begin(stretch)

    def _begin(self, stretch: Stretch) -> None:
        self._stretch = stretch
        self._schedule(stretch)

    def _steps_ahead(self) -> int:
        """Until somebody must be told, or the memory is full."""
        events = self._events
        while events[0][2].state != "decoding":
            heapq.heappop(events)
        ahead = max(1, events[0][0] - self._steps)
        return max(1, min(ahead, self._steps_in_memory()))

    def _chunks(self) -> tuple[int, float]:
        """Prompt tokens that the next step computes, and the seconds that computing them takes."""
        budget = self.spec.max_num_batched_tokens - self._decoding.branches * (1 + self.spec.draft_tokens)
        step, tokens, squares = self.spec.step_time, 0, 0
        planned = 0
        while budget > 0:
            if planned < len(self._prefilling):
                generation = self._prefilling[planned]
            elif (admitted := self._admit()) is not None:
                generation = admitted
            else:
                break
            planned += 1
            begin = generation.prefilled
            end = min(generation.to_prefill, begin + budget)
            generation.prefilled = end
            budget -= end - begin
            tokens += end - begin
            squares += end * end - begin * begin
            if end < generation.to_prefill:
                break
        return tokens, step.p_tok_s * tokens + step.p_tok2_s * squares

    def _admit(self) -> Generation | None:
        """The first that waits, if there is a place and memory for its prompt and a token of each that runs."""
        if not self.waiting or len(self._running) >= self.spec.max_num_seqs:
            return None
        generation = self.waiting[-1]
        before = generation.tokens_after(generation.steps_done)
        own = self._own_memory(self._steps)
        needed = self.memory.new_tokens(generation.prompt) + before + self._per_step * (self._decoding.branches + 1)
        if self.memory.in_blocks + own + needed > self.spec.kv_tokens and self._running:
            return None
        self.waiting.pop()
        cached = self.memory.cached_tokens(generation.prompt)
        self.counters.cached_tokens += cached
        generation.prefilled = cached
        generation.to_prefill = generation.prompt.tokens + before
        generation.state = "prefilling"
        self.memory.take(generation.prompt)
        self._tails += self.memory.own_of(generation.prompt)
        self._ahead += before
        self._running[generation] = None
        self._prefilling.append(generation)
        return generation

    def _preempt(self) -> None:
        """The branch that came last, of those with the highest `priority`, computes its tokens again later."""
        generation = min(self._running, key=_PLACE) if self.spec.by_priority else next(reversed(self._running))
        generation.state = "waiting"
        generation.preempted += 1
        self.counters.preemptions += 1
        self._remove(generation)
        self._queue(generation)

    def _own_memory(self, steps: int) -> float:
        """Tokens in the KV cache that are no whole block of a prompt."""
        return self._tails + self._ahead + self._decoding.generated(steps)

    def _steps_in_memory(self) -> int:
        free = self.spec.kv_tokens - self.memory.in_blocks - self._own_memory(self._steps)
        return floor(free / (self._decoding.per_step * self._decoding.branches))
