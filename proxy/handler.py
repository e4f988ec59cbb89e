"""One request's life: read, understand, pass through or scale, answer, trace. The hot routes are raw ASGI; see
docs/architecture.md.
"""

from __future__ import annotations

import asyncio
import logging
import time

from proxy.aliases import named
from proxy.asgi import Receive, Scope, Send, read_body, send_error
from proxy.authorization import authorize, check_model, check_samples
from proxy.call import Call, parse
from proxy.config import SloDefaults
from proxy.current import current_trace
from proxy.errors import (
    ClientGone,
    DeadlineExceeded,
    InvalidControl,
    InvalidRequest,
    MethodNotAllowed,
    Overloaded,
    ProxyError,
    ShuttingDown,
    SloInfeasible,
    UpstreamFailed,
)
from proxy.exchange import Exchange
from proxy.limits import Amount
from proxy.passing import pass_through
from proxy.prompt_length import BYTES_PER_TOKEN
from proxy.relay import CutShort
from proxy.reliability.admission import Gate, announced_bytes
from proxy.scale import scale
from proxy.server_protocol import EXTENSION, Client
from proxy.service import Service
from proxy.tenancy import cache_salt
from proxy.time_limit import TimeLimit
from proxy.trace import Trace
from proxy.trace_context import incoming, new_id
from proxy.upstream.connection import Headers

log = logging.getLogger("paretoproxy")

SCALED_PATHS = ("/v1/chat/completions", "/v1/completions")
RELAYED_PATHS = ("/v1/embeddings", "/tokenize", "/detokenize", "/v1/responses")


class Handler:
    """The raw ASGI application of `SCALED_PATHS` and `RELAYED_PATHS`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._time_limit = TimeLimit(service.config.server.max_stream_s)

    def close(self) -> None:
        self._time_limit.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrived_at = self._service.clock()
        headers: Headers = scope["headers"]
        told = incoming(headers, self._service.config.telemetry.sample_ratio)
        trace = Trace(told.trace_id, round(time.time(), 6), scope["path"], told.request_id)
        trace.parent_id, trace.root_id, trace.tracestate, trace.sampled = told[2:]
        request_id = trace.request_id or trace.id
        current_trace.set(trace.id)
        client: Client = scope["extensions"][EXTENSION]
        exchange: Exchange | None = None
        admission, held = self._service.reliability.admission, 0
        task = self._time_limit.enter(client.loop)
        try:
            if scope["method"] != "POST":
                raise MethodNotAllowed(scope["method"], scope["path"], "POST")
            caller = authorize(self._service.keys, headers)
            trace.key = caller.name
            limit, is_here = self._service.config.server.max_body_bytes, client.body_is_here
            if not is_here:
                held = admission.hold(announced_bytes(headers, limit))
            body = await read_body(headers, client.receive, limit, is_here=is_here)
            admission.let_go(held)
            held = 0
            held = admission.hold(len(body))
            self._service.reliability.retries.budget.deposit(arrived_at)
            defaults = self._service.config.slo.defaults if scope["path"] in SCALED_PATHS else _NO_DEFAULTS
            call = parse(scope["path"], headers, body, defaults)
            exchange = Exchange(call, client, arrived_at, trace, caller=caller)
            await self._dispatch(exchange)
        except ProxyError as error:
            await _refuse(client, trace, error, request_id)
        except RecursionError:
            if client.started:
                raise
            nested = InvalidRequest("The request body is nested too deeply.", code="invalid_json")
            await _refuse(client, trace, nested, request_id)
        except ClientGone:
            trace.outcome, trace.status = "client_gone", 499
            if client.cut:
                await _cut(client, trace, request_id)
        except asyncio.CancelledError:
            if not self._time_limit.ended(task):  # by the server, at the very end of its grace
                await _cut(client, trace, request_id)
                raise
            late = DeadlineExceeded(
                f"The request took longer than {self._time_limit.limit_s:g} s (server.max_stream_s)."
            )
            if client.started:
                trace.outcome, trace.error, trace.error_code = "failed", late.safe, late.code or late.type
                raise _BreakConnection(late.safe) from None
            await _refuse(client, trace, late, request_id)
        except CutShort as error:
            trace.outcome, trace.error, trace.error_code = "failed", str(error), "cut_short"
            raise _BreakConnection(str(error)) from None
        except Exception as error:
            log.exception("request %s failed", request_id)
            trace.outcome, trace.error, trace.error_code = "failed", type(error).__name__, "internal"
            trace.status = 500
            if not client.started:
                internal = UpstreamFailed("The proxy failed to handle the request; its log says why.")
                await send_error(client, internal, [(b"x-request-id", request_id.encode())])
        finally:
            admission.let_go(held)
            trace.latency_ms = round((self._service.clock() - arrived_at) * 1e3, 3)
            self._time_limit.leave(task)
            finish = exchange.finish if exchange is not None else None
            if exchange is not None and exchange.admission is not None:
                self._settle(exchange)
                finish = None
            self._service.record(trace, finish)
            client.end()

    async def _dispatch(self, exchange: Exchange) -> None:
        call, trace = exchange.call, exchange.trace
        trace.model, trace.stream = call.model, call.stream
        trace.choices, trace.max_tokens = call.answers_wanted, call.max_tokens
        exchange.call, models = named(call, self._service.catalog)
        call, trace.model = exchange.call, exchange.call.model
        await self._admit(exchange)
        scaled = call.controls.scaled
        if scaled and call.path not in SCALED_PATHS:
            raise InvalidControl("x-slo-* / x-tts-*", f"controls are not supported on {call.path}")
        if scaled:
            trace.slo, trace.controls = _shown(call)
        gate = self._service.reliability.admission.gate(call.model)
        if not gate.enter():
            await self._queue(gate, exchange)
        try:
            if scaled:
                await scale(self._service, exchange, models)
            else:
                await pass_through(self._service, exchange, models)
        finally:
            gate.leave()

    async def _queue(self, gate: Gate, exchange: Exchange) -> None:
        call, trace = exchange.call, exchange.trace
        try:
            waited_s = await gate.wait(call, exchange.client, exchange.arrived_at)
        except (Overloaded, DeadlineExceeded):
            if call.controls.slo.demanding:
                trace.slo_status = "missed"
            raise
        trace.queued_ms = round(waited_s * 1e3, 3)

    async def _admit(self, exchange: Exchange) -> None:
        """What the caller's key allows, before anything is spent. Raises Forbidden, LimitExceeded, Unavailable."""
        call, caller = exchange.call, exchange.caller
        if caller.name is None:
            return
        check_model(caller, call.model)
        samples = max(call.answers_wanted, call.peek.best_of or 1)
        check_samples(caller, samples, "n")
        call.salt = cache_salt(caller, call)
        most = 0.0 if call.path in _WITHOUT_ANSWER else None
        if call.max_tokens is not None and (call.controls.n is not None or not call.controls.scaled):
            most = float(call.max_tokens * max(samples, call.controls.n or 1))
        lease = new_id()  # not the trace's, which a client may choose
        prompt_tokens = len(call.body) / BYTES_PER_TOKEN
        exchange.admission = await self._service.limiter.admit(caller, lease, prompt_tokens, most)

    def _settle(self, exchange: Exchange) -> None:
        """Charge what it took. Here, not in the trace writer's thread, which may be full or behind."""
        trace, admission = exchange.trace, exchange.admission
        assert admission is not None
        try:
            if exchange.finish is not None:
                exchange.finish(trace)
        except Exception:  # the rest of the request's end must come all the same
            log.exception("what request %s used could not be read", trace.id)
        tokens = _tokens(exchange, admission.expected.tokens)
        self._service.limiter.settle(admission, Amount(tokens, trace.cost_usd or 0.0))


def _tokens(exchange: Exchange, expected: float) -> float:
    """What the request is charged: as the backend told, or, where it did not, its prompt by its size; one that left or
    broke before the backend could tell is charged as expected, else leaving early would be free."""
    trace, call = exchange.trace, exchange.call
    told = float(trace.prompt_tokens + trace.completion_tokens)
    refused = 400 <= trace.status < 499
    if not trace.branches or trace.prompt_tokens or refused or call.path in ("/tokenize", "/detokenize"):
        return told
    guessed = told + len(call.body) / BYTES_PER_TOKEN
    return guessed if trace.status == 200 else max(guessed, expected)


_NO_DEFAULTS = SloDefaults()  # of paths that take no controls
_WITHOUT_ANSWER = ("/v1/embeddings", "/tokenize", "/detokenize")


async def _refuse(client: Client, trace: Trace, error: ProxyError, request_id: str) -> None:
    refused = error.http_status < 500 or isinstance(error, SloInfeasible | Overloaded)
    trace.outcome = "refused" if refused else "failed"
    trace.error, trace.error_code, trace.status = error.safe, error.code or error.type, error.http_status
    await send_error(client, error, [(b"x-request-id", request_id.encode())])


async def _cut(client: Client, trace: Trace, request_id: str) -> None:
    """The proxy ends before the answer does: say so where nothing was said yet."""
    error = ShuttingDown()
    trace.outcome, trace.error, trace.error_code = "failed", error.safe, error.code
    trace.status = 200 if client.started else error.http_status
    if not client.started:
        await send_error(client, error, [(b"x-request-id", request_id.encode())])


class _BreakConnection(Exception):
    """Raised through the server so that it closes the connection: the only way to say that an answer is not whole."""


def _shown(call: Call) -> tuple[dict[str, object], dict[str, object]]:
    controls, slo = call.controls, call.controls.slo
    fields = ("latency_ms", "ttft_ms", "tpot_ms", "cost_usd", "quality", "objective")
    shown: dict[str, object] = {name: getattr(slo, name) for name in fields if getattr(slo, name) is not None}
    shown["mode"] = "strict" if slo.strict else "best-effort"
    pins = {"strategy": controls.strategy, "n": controls.n, "max_tokens": controls.max_tokens, "task": controls.task}
    return shown, {**{name: value for name, value in pins.items() if value is not None}, **controls.params}
