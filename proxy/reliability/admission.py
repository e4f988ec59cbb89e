"""How much the proxy takes on: requests under way and waiting per model, and bytes of bodies in all.

An engine queues by itself, and knows neither deadlines nor classes; what waits here can still be refused, or overtaken.
Where the queue is full, strict requests that cannot be in time any more go first, then the lowest class, youngest
first. What is refused is told when to come back, by how fast requests lately ended.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from math import ceil
from typing import Literal

from proxy.call import Call
from proxy.errors import ClientGone, DeadlineExceeded, Overloaded, SloInfeasible
from proxy.reliability.settings import AdmissionConfig
from proxy.reliability.window import Window
from proxy.server_protocol import Client
from proxy.upstream.connection import Headers

WINDOW_S = 10.0
SWEEP_EVERY_S = 0.1
RETRY_AFTER_S = (1, 60)
DEFAULT_CLASS = "default"
Reason = Literal["full", "displaced", "slo", "deadline", "queue-time", "bytes"]
Refusal = Overloaded | SloInfeasible | DeadlineExceeded | ClientGone


class Admission:
    """Of one process. `shed`: refused requests by (model, class, reason); those refused before the body was read, for
    the bytes that are held, have no model yet."""

    __slots__ = ("_clock", "config", "gates", "held_bytes", "shed")

    def __init__(self, config: AdmissionConfig, clock: Callable[[], float]) -> None:
        self.config = config
        self.gates: dict[str, Gate] = {}  # by the names of the configuration
        self.held_bytes = 0
        self.shed: dict[tuple[str, str, Reason], int] = {}
        self._clock = clock

    def gate(self, model: str) -> Gate:
        """`model`: a name that is known to be served."""
        found = self.gates.get(model)
        if found is None:
            found = self.gates[model] = Gate(self, model, self._clock)
        return found

    def hold(self, n_bytes: int) -> int:
        """Give them back by `let_go`. A body alone is always taken: `server.max_body_bytes` bounds it. Raises
        Overloaded."""
        if self.held_bytes and self.held_bytes + n_bytes > self.config.max_held_bytes:
            self.count("", "", "bytes")
            limit = self.config.max_held_bytes
            message = f"The proxy holds {self.held_bytes} bytes of requests, of {limit} at most."
            raise Overloaded(message, retry_after_s=1)
        self.held_bytes += n_bytes
        return n_bytes

    def let_go(self, n_bytes: int) -> None:
        self.held_bytes -= n_bytes

    def count(self, model: str, of_class: str, reason: Reason) -> None:
        key = (model, of_class, reason)
        self.shed[key] = self.shed.get(key, 0) + 1

    def class_of(self, call: Call) -> tuple[int, str]:
        """(rank, name): by OpenAI's `service_tier`; one that is not configured, `auto` say, is `default`."""
        tier = call.peek.service_tier
        classes = self.config.classes
        if isinstance(tier, str) and tier in classes:
            return classes[tier], tier
        return classes.get(DEFAULT_CLASS, 0), DEFAULT_CLASS


def announced_bytes(headers: Headers, limit_bytes: int) -> int:
    """What a body that is still on its way may come to, `limit_bytes` at most."""
    for name, value in headers:
        if name == b"content-length" and value.isdigit():
            return min(int(value[:19]), limit_bytes)
    return limit_bytes


class _Waiter:
    """`deadline`: in the clock's time; `answer`: None lets it in, anything else is why not."""

    __slots__ = ("answer", "deadline", "name", "rank", "strict")

    def __init__(
        self, rank: int, name: str, strict: bool, deadline: float | None, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.rank = rank
        self.name = name
        self.strict = strict
        self.deadline = deadline
        self.answer: asyncio.Future[Refusal | None] = loop.create_future()


class Gate:
    """One model's. `waited_s` and `waited`: of those that were let in from the queue."""

    __slots__ = (
        "_admission",
        "_clock",
        "_ended",
        "_lines",
        "_most",
        "_swept_at",
        "in_flight",
        "model",
        "queued",
        "waited",
        "waited_s",
    )

    def __init__(self, admission: Admission, model: str, clock: Callable[[], float]) -> None:
        self.model = model
        self.in_flight = 0
        self.queued = 0
        self.waited = 0
        self.waited_s = 0.0
        self._admission = admission
        self._clock = clock
        self._most = admission.config.max_in_flight
        self._ended = Window(WINDOW_S)
        self._lines: dict[int, OrderedDict[_Waiter, None]] = {
            rank: OrderedDict() for rank in sorted({*admission.config.classes.values(), 0})
        }
        self._swept_at = 0.0

    def enter(self) -> bool:
        """Whether it may run at once; then `leave` when it is over."""
        if self.queued or self.in_flight >= self._most:
            return False
        self.in_flight += 1
        return True

    def leave(self) -> None:
        self.in_flight -= 1
        self._ended.add(self._clock())
        while self.queued and self.in_flight < self._most:
            line = next(line for line in self._lines.values() if line)
            waiter, _ = line.popitem(last=False)
            self.queued -= 1
            self.in_flight += 1
            waiter.answer.set_result(None)

    async def wait(self, call: Call, client: Client, arrived_at: float) -> float:
        """Seconds that it waited; then `leave` when it is over. Raises Overloaded, SloInfeasible, DeadlineExceeded,
        ClientGone."""
        rank, name = self._admission.class_of(call)
        slo, now = call.controls.slo, self._clock()
        deadline = None if slo.latency_ms is None else arrived_at + slo.latency_ms / 1e3
        waiter = _Waiter(rank, name, slo.strict, deadline, client.loop)
        self._make_room(waiter, now)
        self._lines[rank][waiter] = None
        self.queued += 1
        reason: Reason = "queue-time"
        limit_s = self._admission.config.max_queue_s
        if deadline is not None and deadline - now < limit_s:
            limit_s, reason = max(0.0, deadline - now), "deadline"
        timer = client.loop.call_later(limit_s, self._refuse, waiter, reason)
        try:
            with client.watch(partial(self._gone, waiter)):
                refusal = await waiter.answer
        except asyncio.CancelledError:
            if waiter.answer.done() and not waiter.answer.cancelled() and waiter.answer.result() is None:
                self.leave()  # it had been let in
            raise
        finally:
            timer.cancel()
            self._forget(waiter)
        if refusal is not None:
            raise refusal
        waited_s = self._clock() - now
        self.waited += 1
        self.waited_s += waited_s
        return waited_s

    @property
    def ends_per_s(self) -> float:
        """How fast requests lately ended."""
        return self._ended.at(self._clock()).total / WINDOW_S

    def expected_wait_s(self, ahead: int) -> float | None:
        """Until so many others and then this one may run; None where nothing has ended lately."""
        rate = self.ends_per_s
        return (ahead + 1) / rate if rate > 0 else None

    # -- inside --

    def _make_room(self, waiter: _Waiter, now: float) -> None:
        """Raises what the newcomer is refused with."""
        ahead = sum(len(line) for rank, line in self._lines.items() if rank <= waiter.rank)
        if self._hopeless(waiter, ahead, now):
            raise self._refusal(waiter, "slo")
        if self.queued < self._admission.config.max_queued:
            return
        if now - self._swept_at >= SWEEP_EVERY_S:
            self._swept_at = now
            self._sweep(now)
        if self.queued < self._admission.config.max_queued:
            return
        lowest = next((line for line in reversed(self._lines.values()) if line), None)
        if lowest is None or next(iter(lowest)).rank <= waiter.rank:
            raise self._refusal(waiter, "full")
        self._refuse(next(reversed(lowest)), "displaced")

    def _hopeless(self, waiter: _Waiter, ahead: int, now: float) -> bool:
        """A strict request whose turn would come after its deadline."""
        if not waiter.strict or waiter.deadline is None:
            return False
        wait_s = self.expected_wait_s(ahead)
        return now >= waiter.deadline or (wait_s is not None and now + wait_s > waiter.deadline)

    def _sweep(self, now: float) -> None:
        ahead = 0
        for line in self._lines.values():
            for waiter in list(line):
                if self._hopeless(waiter, ahead, now):
                    self._refuse(waiter, "slo")
                else:
                    ahead += 1

    def _refuse(self, waiter: _Waiter, reason: Reason) -> None:
        if not waiter.answer.done():
            self._forget(waiter)
            waiter.answer.set_result(self._refusal(waiter, reason))

    def _gone(self, waiter: _Waiter) -> None:
        if not waiter.answer.done():
            self._forget(waiter)
            waiter.answer.set_result(ClientGone())

    def _forget(self, waiter: _Waiter) -> None:
        if waiter in self._lines[waiter.rank]:
            del self._lines[waiter.rank][waiter]
            self.queued -= 1

    def _refusal(self, waiter: _Waiter, reason: Reason) -> Refusal:
        self._admission.count(self.model, waiter.name, reason)
        seconds = self._retry_after_s()
        where = f"{self.in_flight} requests of {self.model} run and {self.queued} wait"
        if reason == "slo" or (reason == "deadline" and waiter.strict):
            return SloInfeasible(f"{where}: its turn would come after its deadline.", retry_after_s=seconds)
        if reason == "deadline":
            return DeadlineExceeded(f"{where}: the deadline came before its turn.")
        most_s = self._admission.config.max_queue_s
        told = {
            "full": f"{where}, as many as may (admission.max_queued).",
            "displaced": f"{where}, as many as may, and one of a higher class has come.",
            "queue-time": f"{where}: its turn did not come within {most_s:g} s (admission.max_queue_s).",
        }
        return Overloaded(told[reason], retry_after_s=seconds)

    def _retry_after_s(self) -> int:
        """Until all that wait now will have begun, at the rate at which requests lately ended."""
        least, most = RETRY_AFTER_S
        wait_s = self.expected_wait_s(self.queued)
        return most if wait_s is None else max(least, min(most, ceil(wait_s)))
