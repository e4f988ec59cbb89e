"""A request without controls: to the backend that is predicted to be fastest now, bytes unchanged both ways."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from proxy import branch_ledgers, ledgers, upstream_body
from proxy.backend import Backend
from proxy.call import Call
from proxy.catalog import Served
from proxy.errors import InvalidRequest, Unavailable, UpstreamFailed
from proxy.passed_tokens import NONE, PassedTokens, of_answer, of_events, of_silence
from proxy.relay import CutShort, NothingSent, RelaySink, relay
from proxy.scale import Exchange
from proxy.service import Service
from proxy.ties import one_of
from proxy.trace import BranchTrace, PlanTrace, Trace
from proxy.trace_context import BRANCHES
from proxy.upstream.errors import ConnectFailed
from proxy.upstream.request import forwarded_lines

_GENERATES = ("/v1/chat/completions", "/v1/completions", "/v1/responses")


async def pass_through(service: Service, exchange: Exchange, models: Sequence[Served]) -> None:
    """Relay, trying another backend while the client has no byte. Raises ProxyError, ClientGone, CutShort."""
    call, trace = exchange.call, exchange.trace
    lines = forwarded_lines(call.headers)
    candidates = _usable(call, models)
    considered = len(candidates)
    last: str | None = None
    exchange.finish = finish = _Finish(call)
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
            await _metered(service, served, backend, exchange, request, extra, finish, may_retry=bool(candidates))
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
    served: Served,
    backend: Backend,
    exchange: Exchange,
    request: bytes,
    extra: list[tuple[bytes, bytes]],
    finish: _Finish,
    *,
    may_retry: bool,
) -> None:
    """One attempt, with its branch in the trace whatever becomes of it."""
    clock, trace = service.clock, exchange.trace
    choices = exchange.call.peek.n or 1  # which the engine runs as a branch each
    started, mark = clock(), backend.gpu_time.enter(choices)
    outcome, error, error_type, sink = "failed", None, None, RelaySink(exchange.client.loop)
    try:
        await relay(backend, request, exchange.client, extra, sink, may_retry=may_retry, clock=clock)
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
        ended, gpu_seconds = clock(), backend.gpu_time.leave(mark, choices)
        branch = BranchTrace(
            index=len(trace.branches),
            backend=backend.name,
            outcome=outcome,
            start_ms=round((started - exchange.arrived_at) * 1e3, 3),
            end_ms=round((ended - exchange.arrived_at) * 1e3, 3),
            gpu_seconds=round(gpu_seconds, 9),
            first_token_ms=trace.ttft_ms,
            error=error,
            error_type=error_type,
        )
        trace.branches.append(branch)
        finish.attempts.append((served, backend, sink, ended - started))


class _Finish:
    """Reads the usage off the answer's tail and prices the request: in the trace writer's thread, not in the
    request's way. `attempts`: one a branch, with what came back and its seconds."""

    def __init__(self, call: Call) -> None:
        self.attempts: list[tuple[Served, Backend, RelaySink, float]] = []
        self._call = call

    def __call__(self, trace: Trace) -> None:
        for branch, (served, backend, sink, seconds) in zip(trace.branches, self.attempts, strict=True):
            found = self._tokens(branch, served, backend, sink, seconds)
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


def _prompt_tokens(call: Call, served: Served) -> int:
    """As the proxy itself counts them; 0 where it cannot."""
    if served.counter is None:
        return 0
    try:
        body = call.decoded()
        return (served.counter.count_chat(body) if call.chat else served.counter.count_completion(body)) or 0
    except InvalidRequest:  # the backend has judged it already
        return 0
