"""A request without controls: to the backend that is predicted to be fastest now, bytes unchanged both ways."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import msgspec

from proxy import ledgers, upstream_body
from proxy.backend import Backend
from proxy.call import Call
from proxy.catalog import Served
from proxy.errors import Unavailable, UpstreamFailed
from proxy.relay import CutShort, NothingSent, RelaySink, relay
from proxy.scale import Exchange
from proxy.service import Service
from proxy.ties import one_of
from proxy.trace import BranchTrace, PlanTrace, Trace
from proxy.trace_context import BRANCHES
from proxy.upstream.request import forwarded_lines


async def pass_through(service: Service, exchange: Exchange, models: Sequence[Served]) -> None:
    """Relay, trying another backend while the client has no byte. Raises ProxyError, ClientGone, CutShort."""
    call, trace = exchange.call, exchange.trace
    lines = forwarded_lines(call.headers)
    candidates = _usable(call, models)
    considered = len(candidates)
    last: str | None = None
    while candidates:
        served, backend = _fastest(candidates, service.rng)
        candidates.remove((served, backend))
        trace.plan = _plan(served, backend, considered)
        body = upstream_body.relayed(call, served.name)
        context = trace.context_lines(BRANCHES + len(trace.branches))
        request = backend.head(call.path).with_body(body, lines + context)
        extra = [
            (b"x-request-id", (trace.request_id or trace.id).encode()),
            (b"x-tts-strategy", b"none"),
            (b"x-tts-n", b"1"),
            (b"x-tts-backend", backend.name.encode()),
        ]
        if not call.stream:
            extra.append((b"x-slo-status", b"none"))
        try:
            await _metered(service, backend, exchange, request, extra, may_retry=bool(candidates))
            return
        except NothingSent as error:
            last = f"{backend.name}: {error}"
    if last is None:
        raise Unavailable(f"No backend of {call.model} serves now.")
    raise UpstreamFailed(f"No backend could answer; the last was {last}.")


def _usable(call: Call, models: Sequence[Served]) -> list[tuple[Served, Backend]]:
    return [
        (served, backend)
        for served in models
        for backend in served.backends
        if backend.health.serving and backend.unfit(call.greedy) is None
    ]


def _fastest(candidates: list[tuple[Served, Backend]], rng: Random) -> tuple[Served, Backend]:
    """Lowest predicted latency of one branch under the load now; about equal ones by chance, so that replicas do not
    herd."""
    if len(candidates) == 1:
        return candidates[0]
    return candidates[one_of([served.single_latency_s(backend) for served, backend in candidates], rng)]


def _plan(served: Served, backend: Backend, considered: int) -> PlanTrace:
    return PlanTrace(backend.name, served.name, "none", 1, considered, note="pass-through")


async def _metered(
    service: Service,
    backend: Backend,
    exchange: Exchange,
    request: bytes,
    extra: list[tuple[bytes, bytes]],
    *,
    may_retry: bool,
) -> None:
    """One attempt, with its branch in the trace whatever becomes of it."""
    clock, trace = service.clock, exchange.trace
    started, mark = clock(), backend.gpu_time.enter()
    outcome, error, error_type, sink = "failed", None, None, None
    try:
        sink = await relay(backend, request, exchange.client, extra, may_retry=may_retry, clock=clock)
        outcome = "completed" if sink.status < 400 else "failed"
        trace.status = sink.status
        if sink.status >= 400:
            error_type = str(sink.status)
        if sink.events and sink.first_at is not None:
            trace.ttft_ms = round((sink.first_at - exchange.arrived_at) * 1e3, 3)
    except (NothingSent, CutShort) as failure:
        error, error_type = str(failure), failure.kind
        raise
    except BaseException:
        outcome = "cancelled"
        raise
    finally:
        ended, gpu_seconds = clock(), backend.gpu_time.leave(mark)
        branch = BranchTrace(
            index=len(trace.branches),
            backend=backend.name,
            outcome=outcome,
            start_ms=round((started - exchange.arrived_at) * 1e3, 3),
            end_ms=round((ended - exchange.arrived_at) * 1e3, 3),
            gpu_seconds=round(gpu_seconds, 9),
            cost_usd=ledgers.usd(backend, gpu_seconds),
            first_token_ms=trace.ttft_ms,
            error=error,
            error_type=error_type,
        )
        trace.branches.append(branch)
        exchange.finish = _Finish(backend, sink, ended - started)


class _Finish:
    """Reads the usage off the answer's tail and prices the request: in the trace writer's thread, not in the
    request's way."""

    def __init__(self, backend: Backend, sink: RelaySink | None, wall_s: float) -> None:
        self._backend = backend
        self._sink = sink
        self._wall_s = wall_s

    def __call__(self, trace: Trace) -> None:
        usage = _usage(self._sink.tail, streamed=self._sink.events > 0) if self._sink is not None else None
        branch = trace.branches[-1]
        if usage is not None:
            branch.prompt_tokens, branch.completion_tokens = usage.prompt_tokens, usage.completion_tokens or 0
        elif self._sink is not None and self._sink.events:
            branch.completion_tokens, trace.tokens_exact = max(0, self._sink.events - 1), False
        gpu_seconds = 0.0
        for row in trace.branches:
            trace.prompt_tokens += row.prompt_tokens
            trace.completion_tokens += row.completion_tokens
            gpu_seconds += row.gpu_seconds
        part = ledgers.Part(self._backend, gpu_seconds, self._wall_s, trace.completion_tokens)
        trace.ledgers = ledgers.of_request([part])


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = 0


class _HasUsage(msgspec.Struct):
    usage: _Usage | None = None


def _usage(tail: bytes, *, streamed: bool) -> _Usage | None:
    """From a whole JSON body, or from the last event that has one; None where the answer told none."""
    documents = [tail]
    if streamed:
        lines = [line for line in tail.split(b"\n") if line.startswith(b"data: {") and b'"usage":{' in line]
        documents = [line[6:] for line in lines[-1:]]
    for document in documents:
        try:
            return msgspec.json.decode(document, type=_HasUsage).usage
        except msgspec.DecodeError:
            return None
    return None
