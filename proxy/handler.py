"""One request's life: read, understand, pass through or scale, answer, trace. The hot routes are raw ASGI; see
docs/architecture.md.
"""

from __future__ import annotations

import asyncio
import logging
import time

from proxy.aliases import named
from proxy.asgi import Receive, Scope, Send, read_body, send_error
from proxy.authorization import authorize
from proxy.call import Call, parse
from proxy.controls import Controls
from proxy.current import current_trace
from proxy.errors import (
    ClientGone,
    InvalidControl,
    MethodNotAllowed,
    ProxyError,
    ShuttingDown,
    UpstreamFailed,
)
from proxy.passing import pass_through
from proxy.relay import CutShort
from proxy.scale import Exchange, scale
from proxy.server_protocol import EXTENSION, Client
from proxy.service import Service
from proxy.trace import Trace
from proxy.trace_context import incoming
from proxy.upstream.connection import Headers

log = logging.getLogger("paretoproxy")

SCALED_PATHS = ("/v1/chat/completions", "/v1/completions")
RELAYED_PATHS = ("/v1/embeddings", "/tokenize", "/detokenize", "/v1/responses")


class Handler:
    """The raw ASGI application of `SCALED_PATHS` and `RELAYED_PATHS`."""

    def __init__(self, service: Service) -> None:
        self._service = service

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
        try:
            if scope["method"] != "POST":
                raise MethodNotAllowed(scope["method"], scope["path"], "POST")
            authorize(self._service.api_keys, headers)
            limit = self._service.config.server.max_body_bytes
            body = await read_body(headers, client.receive, limit, is_here=client.body_is_here)
            call = parse(scope["path"], headers, body, self._service.config.slo.defaults)
            exchange = Exchange(call, client, arrived_at, trace)
            await self._dispatch(exchange)
        except ProxyError as error:
            trace.outcome = "refused" if error.http_status < 500 or error.code == "slo_infeasible" else "failed"
            trace.error, trace.error_code, trace.status = error.safe, error.code or error.type, error.http_status
            await send_error(client, error, [(b"x-request-id", request_id.encode())])
        except ClientGone:
            trace.outcome, trace.status = "client_gone", 499
            if client.cut:
                await _cut(client, trace, request_id)
        except asyncio.CancelledError:  # by the server, at the very end of its grace
            await _cut(client, trace, request_id)
            raise
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
            trace.latency_ms = round((self._service.clock() - arrived_at) * 1e3, 3)
            self._service.record(trace, exchange.finish if exchange is not None else None)
            client.end()

    async def _dispatch(self, exchange: Exchange) -> None:
        call, trace = exchange.call, exchange.trace
        trace.model, trace.stream = call.model, call.stream
        exchange.call, models = named(call, self._service.catalog)
        call, trace.model = exchange.call, exchange.call.model
        if not _scaled(call.controls):
            await pass_through(self._service, exchange, models)
            return
        if call.path not in SCALED_PATHS:
            raise InvalidControl("x-slo-* / x-tts-*", f"controls are not supported on {call.path}")
        trace.slo, trace.controls = _shown(call)
        await scale(self._service, exchange, models)


async def _cut(client: Client, trace: Trace, request_id: str) -> None:
    """The proxy ends before the answer does: say so where nothing was said yet."""
    error = ShuttingDown()
    trace.outcome, trace.error, trace.error_code = "failed", error.safe, error.code
    trace.status = 200 if client.started else error.http_status
    if not client.started:
        await send_error(client, error, [(b"x-request-id", request_id.encode())])


class _BreakConnection(Exception):
    """Raised through the server so that it closes the connection: the only way to say that an answer is not whole."""


def _scaled(controls: Controls) -> bool:
    """`none` pinned and nothing demanded is pass-through under another name."""
    if not controls.given:
        return False
    demanded = controls.slo != type(controls.slo)() or controls.max_tokens is not None
    refusable = controls.n not in (None, 1) or bool(controls.params)  # the planner's side tells why
    return controls.pinned != "none" or demanded or refusable


def _shown(call: Call) -> tuple[dict[str, object], dict[str, object]]:
    controls, slo = call.controls, call.controls.slo
    fields = ("latency_ms", "ttft_ms", "tpot_ms", "cost_usd", "quality", "objective")
    shown: dict[str, object] = {name: getattr(slo, name) for name in fields if getattr(slo, name) is not None}
    shown["mode"] = "strict" if slo.strict else "best-effort"
    pins = {"strategy": controls.strategy, "n": controls.n, "max_tokens": controls.max_tokens, "task": controls.task}
    return shown, {**{name: value for name, value in pins.items() if value is not None}, **controls.params}
