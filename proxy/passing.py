"""A request without controls: to the backend that is predicted to be fastest now, bytes unchanged both ways.

While the client has no byte, an attempt that comes to nothing is made again, elsewhere first; one that is late may get
a second beside it (`reliability.hedge`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Literal

from proxy import branch_ledgers, ledgers, upstream_body
from proxy.attempt import Attempt
from proxy.backend import Backend
from proxy.call import Call
from proxy.catalog import Served
from proxy.errors import ClientGone, InvalidRequest, ProxyError, UpstreamFailed
from proxy.exchange import Exchange
from proxy.passed_tokens import NONE, PassedTokens, of_answer, of_events, of_silence
from proxy.relay import CutShort, RelaySink, relay
from proxy.reliability.retrying import Failure
from proxy.scale import nobody_serves
from proxy.service import Service
from proxy.ties import one_of
from proxy.trace import BranchTrace, PlanTrace, Trace
from proxy.trace_context import BRANCHES
from proxy.upstream.connection import Headers
from proxy.upstream.errors import ConnectFailed
from proxy.upstream.request import forwarded_lines

_GENERATES = ("/v1/chat/completions", "/v1/completions", "/v1/responses")


async def pass_through(service: Service, exchange: Exchange, models: Sequence[Served]) -> None:
    """Relay, trying another backend while the client has no byte. Raises ProxyError, ClientGone, CutShort."""
    passing = _Passing(service, exchange, models)
    with exchange.client.watch(passing.client_gone):
        while True:
            try:
                await passing.try_once()
                return
            except _TryAgain as again:
                await passing.pause(again.delay_s)


class _TryAgain(Exception):
    def __init__(self, delay_s: float) -> None:
        super().__init__()
        self.delay_s = delay_s


class _Passing:
    """The state of one such request. `running`: the attempts that are open, two while one is hedged."""

    __slots__ = (
        "call",
        "considered",
        "exchange",
        "finish",
        "gone",
        "last",
        "left",
        "lines",
        "models",
        "pausing",
        "running",
        "service",
        "tried",
    )

    def __init__(self, service: Service, exchange: Exchange, models: Sequence[Served]) -> None:
        self.service, self.exchange, self.models = service, exchange, models
        self.call = exchange.call
        self.lines = forwarded_lines(self.call.headers)
        self.left = usable(self.call, models)
        self.considered = len(self.left)
        self.tried = 0
        self.last: Failure | None = None
        self.gone = False
        self.running: list[Attempt] = []
        self.finish = exchange.finish = _Finish(exchange.call)
        self.pausing: asyncio.Future[None] | None = None

    def client_gone(self) -> None:
        self.gone = True
        for attempt in self.running:
            attempt.sink.client_gone()
        if self.pausing is not None and not self.pausing.done():
            self.pausing.set_result(None)

    async def pause(self, seconds: float) -> None:
        """Raises ClientGone."""
        if not self.gone and seconds > 0:
            loop = self.exchange.client.loop
            self.pausing = loop.create_future()
            timer = loop.call_later(seconds, _end_pause, self.pausing)
            try:
                await self.pausing
            finally:
                timer.cancel()
                self.pausing = None
        if self.gone:
            raise ClientGone

    async def try_once(self) -> None:
        """Raises _TryAgain, ProxyError, ClientGone, CutShort."""
        if self.tried:
            self.left = [pair for pair in self.left if pair[1].health.serving]
        if not self.left:  # all were tried: the one that is fastest now, once more
            self.left = usable(self.call, self.models)
        if not self.left:
            raise self._nobody()
        attempt = self._start("retry" if self.tried else None)
        outcome, error, error_type = "failed", None, None
        try:
            attempt = await self._first_byte(attempt)
            sink = attempt.sink
            if sink.gone:
                raise ClientGone
            failure = attempt.failure()
            if failure is not None:
                delay_s = self._again(failure, attempt.backend)
                if delay_s is not None or sink.error is not None:
                    self.last, error, error_type = failure, failure.safe, failure.kind
                    if delay_s is not None:
                        raise _TryAgain(delay_s)
                    last = f"No backend could answer; the last was {attempt.backend.name}:"
                    raise UpstreamFailed(f"{last} {failure.message}.", safe=f"{last} {failure.safe}.")
            await relay(attempt.backend, sink, self.exchange.client, self._headers(attempt.backend), self.service.clock)
            outcome = "completed" if sink.status < 400 else "failed"
            error_type = str(sink.status) if sink.status >= 400 else None
            self.exchange.trace.status = sink.status
        except CutShort as cut:
            error, error_type = str(cut), cut.kind
            raise
        except (_TryAgain, ProxyError):
            raise
        except BaseException:
            outcome = "cancelled"
            raise
        finally:
            for each in list(self.running):  # of a hedge that was decided, the winner
                self._end(each, outcome, error, error_type)

    def _start(self, why: Literal["retry", "hedge"] | None) -> Attempt:
        call, service = self.call, self.service
        served, backend = fastest(self.left, service.rng)
        self.left.remove((served, backend))
        if why != "hedge":
            self.tried += 1
            self.exchange.trace.plan = _plan(served, backend, self.considered)
        number = len(self.exchange.trace.branches) + len(self.running)
        lines = self.lines + self.exchange.trace.context_lines(BRANCHES + number)
        request = backend.head(call.path).with_body(upstream_body.relayed(call, served.name), lines)
        sink, choices = RelaySink(self.exchange.client.loop), call.peek.n or 1
        attempt = Attempt(served, backend, request, sink, service.clock, why, number, choices)
        self.running.append(attempt)
        return attempt

    async def _first_byte(self, attempt: Attempt) -> Attempt:
        """Wait for it; the attempt whose it is, where it was hedged."""
        hedging = self.service.reliability.hedging
        if hedging is None or not self.call.stream:
            await attempt.sink.wait()
            return attempt
        seen = hedging.request_came(attempt.served.name)
        timer = None
        if seen.late_s is not None and self.left and self.tried == 1:
            timer = self.exchange.client.loop.call_later(seen.late_s, attempt.sink.tell_late)
        try:
            await attempt.sink.wait()
        finally:
            if timer is not None:
                timer.cancel()
        if attempt.sink.late:
            attempt.sink.late = False
            usable = [pair for pair in self.left if pair[1].health.serving]
            if not attempt.sink.begun and usable and hedging.take():
                self.left = usable
                attempt = await self._race(attempt, self._start("hedge"))
            else:
                await attempt.sink.wait()
        if attempt.sink.begun and attempt.sink.status < 400:
            seen.observe(self.service.clock() - attempt.started_at)
        return attempt

    async def _race(self, first: Attempt, second: Attempt) -> Attempt:
        """The attempt that has the first byte of an answer; the other is ended, and paid for. Where one fails, the
        other; where both do, the first."""
        loop, hedging = self.exchange.client.loop, self.service.reliability.hedging
        assert hedging is not None
        waits = {loop.create_task(attempt.sink.wait()): attempt for attempt in (first, second)}
        winner = None
        try:
            pending = set(waits)
            while pending and winner is None:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                ready = [attempt for task, attempt in waits.items() if task in done]
                winner = next((each for each in ready if each.sink.gone or each.failure() is None), None)
        finally:
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        winner = winner or first
        loser = second if winner is first else first
        failure = loser.failure() if loser.sink.error is not None or loser.sink.begun else None
        if failure is not None:
            self._end(loser, "failed", failure.safe, failure.kind)
        else:
            self._end(loser, "cancelled", None, None)
        hedging.ended("won" if winner is second else "lost" if failure is None else "failed")
        if winner is second:
            self.exchange.trace.plan = _plan(second.served, second.backend, self.considered)
        return winner

    def _end(self, attempt: Attempt, outcome: str, error: str | None, error_type: str | None) -> None:
        exchange = self.exchange
        self.running.remove(attempt)
        row = attempt.end(exchange.trace, exchange.arrived_at, outcome, error, error_type)
        self.finish.add(attempt, row)

    def _again(self, failure: Failure, left: Backend) -> float | None:
        """Seconds until the next attempt; None: there is none."""
        self.left = [pair for pair in self.left if pair[1].health.serving]
        elsewhere = bool(self.left)
        if not elsewhere and not usable(self.call, self.models):
            return None
        return self.service.reliability.retries.delay_s(
            "pass-through", failure, left, attempts=self.tried, elsewhere=elsewhere
        )

    def _nobody(self) -> ProxyError:
        if self.tried:
            last, told = "No backend could answer; the last one's failure:", self.last
            said, safe = (told.message, told.safe) if told is not None else ("unknown", "unknown")
            return UpstreamFailed(f"{last} {said}.", safe=f"{last} {safe}.")
        return nobody_serves(self.models, f"No backend of {self.call.model} serves now.")

    def _headers(self, backend: Backend) -> Headers:
        trace = self.exchange.trace
        extra = [
            (b"x-request-id", (trace.request_id or trace.id).encode()),
            (b"x-tts-strategy", b"none"),
            (b"x-tts-n", b"1"),
            (b"x-tts-backend", backend.name.encode()),
        ]
        if not self.call.stream:
            extra.append((b"x-slo-status", b"none"))
        return extra


def _end_pause(pausing: asyncio.Future[None]) -> None:
    if not pausing.done():
        pausing.set_result(None)


def usable(call: Call, models: Sequence[Served]) -> list[tuple[Served, Backend]]:
    """The backends that may get it."""
    return [
        (served, backend)
        for served in models
        for backend in served.backends
        if backend.health.serving and backend.unfit(call.greedy) is None
    ]


def fastest(candidates: list[tuple[Served, Backend]], rng: Random) -> tuple[Served, Backend]:
    """Lowest predicted latency of one branch under the load now; about equal ones by chance, so that replicas do not
    herd."""
    if len(candidates) == 1:
        return candidates[0]
    return candidates[one_of([served.single_latency_s(backend) for served, backend in candidates], rng)]


def _plan(served: Served, backend: Backend, considered: int) -> PlanTrace:
    return PlanTrace(backend.name, served.name, "none", 1, considered, note="pass-through")


class _Finish:
    """Reads the usage off the answer's tail and prices the request: in the trace writer's thread, not in the
    request's way."""

    def __init__(self, call: Call) -> None:
        self._attempts: list[tuple[Attempt, BranchTrace]] = []
        self._call = call

    def add(self, attempt: Attempt, row: BranchTrace) -> None:
        self._attempts.append((attempt, row))

    def __call__(self, trace: Trace) -> None:
        if len(self._attempts) > 1:  # in the order of their start, as their spans are numbered
            self._attempts.sort(key=lambda pair: pair[0].number)
            trace.branches = [row for _, row in self._attempts]
        for attempt, branch in self._attempts:
            backend, branch.index = attempt.backend, attempt.number
            found = self._tokens(branch, attempt.served, backend, attempt.sink, attempt.lasted_s)
            found = found.with_overrun(backend.overrun, 0 if _whole(attempt.sink) else attempt.choices)
            branch.prompt_tokens, branch.cached_tokens = found.prompt, found.cached
            branch.completion_tokens, branch.estimated_tokens = found.completion, found.estimated
            trace.tokens_exact &= found.exact
            trace.prompt_tokens += branch.prompt_tokens
            trace.completion_tokens += branch.completion_tokens
            rate = trace.rates[backend.name] = backend.pricing.at(trace.received_at)
            branch.cost_usd = ledgers.cost_usd(
                rate, branch.gpu_seconds, branch.prompt_tokens, branch.cached_tokens, branch.completion_tokens
            )
        trace.ledgers = branch_ledgers.of_trace(trace)

    def _tokens(
        self, branch: BranchTrace, served: Served, backend: Backend, sink: RelaySink, seconds: float
    ) -> PassedTokens:
        """Of one attempt."""
        call = self._call
        if sink.status >= 400 or isinstance(sink.error, ConnectFailed):
            return NONE
        choices = call.peek.n or 1
        if (told := of_answer(sink)) is not None:
            if not sink.events:
                backend.pace.observe_whole(told.completion // choices, seconds)
            return told
        if call.path not in _GENERATES or (branch.outcome == "completed" and not sink.events):
            return NONE
        if sink.events or call.stream:
            found = of_events(sink, chat=call.chat)
        else:
            found = of_silence(backend.pace, seconds, choices, call.max_tokens)
        return found._replace(prompt=_prompt_tokens(call, served))


def _whole(sink: RelaySink) -> bool:
    """The engine was done; the client may have left all the same, before the last byte."""
    return sink.ended or b"data: [DONE]" in sink.tail


def _prompt_tokens(call: Call, served: Served) -> int:
    """As the proxy itself counts them; 0 where it cannot."""
    if served.counter is None:
        return 0
    try:
        body = call.decoded()
        return (served.counter.count_chat(body) if call.chat else served.counter.count_completion(body)) or 0
    except InvalidRequest:  # the backend has judged it already
        return 0
