"""The ASGI application: two hot routes as raw ASGI, everything else in FastAPI, one error envelope for all of it."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypedDict

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from proxy.asgi import Receive, Scope, Send, read_body
from proxy.authorization import authorize, check_admin
from proxy.backend import Backend
from proxy.client_keys import Caller
from proxy.config import Config
from proxy.console_routes import add_console
from proxy.costs import costs_view
from proxy.errors import InvalidRequest, MethodNotAllowed, NotFound, ProxyError, envelope
from proxy.limits import Amount
from proxy.live import Live
from proxy.openapi import document
from proxy.plan_view import plan_view
from proxy.process_metrics import ProcessMetrics
from proxy.reload import Reloader
from proxy.server_protocol import EXTENSION
from proxy.service import Service
from proxy.supervisor import Place
from proxy.trace_context import new_id
from proxy.trace_routes import as_proxy_error, list_traces, one_trace, own_key
from proxy.trace_store import StoreError
from proxy.worker_metrics import Exchange
from strategies.registry import Registry

log = logging.getLogger("paretoproxy")

ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class State(TypedDict):
    """What the lifespan hands to the server, and the server to every request."""

    service: Service
    live: Live


def build(
    config: Config,
    registry: Registry | None = None,
    source: Path | None = None,
    place: Place | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> ASGIApp:
    """The application for one configuration; its lifespan starts and ends the service. `registry`: by default of all
    installed strategies; `source`: the file that the configuration is from, which is then watched; `overrides`: of
    its section `server`, by the command line; `place`: of one of several workers."""
    side = _side_routes()
    asgi_side: ASGIApp = side  # type: ignore[assignment]  # Starlette's own ASGI types are wider
    lives: list[Live] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[State]:
        service = await Service.start(config, registry)
        live = Live(service)
        lives[:] = [live]
        if source is not None:
            live.reloader = Reloader(source, live, overrides or {})
            await live.reloader.start()
        service.metrics.add(ProcessMetrics())
        if place is not None:
            live.exchange = Exchange(place.folder, place.name, service.metrics.read)
            await live.exchange.start()
        try:
            yield {"service": service, "live": live}
        finally:
            await live.aclose()

    side.router.lifespan_context = lifespan

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await asgi_side(scope, receive, send)
            return
        generation = lives[0].current
        generation.requests += 1
        try:
            if (handler := generation.handlers.get(scope["path"])) is not None:
                await handler(scope, receive, send)
                return
            scope["state"]["service"] = generation.service
            try:
                await asgi_side(scope, receive, send)
            finally:
                if (client := scope.get("extensions", {}).get(EXTENSION)) is not None:
                    client.end()
        finally:
            generation.requests -= 1

    return app


def _side_routes() -> FastAPI:
    app = FastAPI(title="paretoproxy", docs_url=None, redoc_url=None, openapi_url="/openapi.json")
    key = [Depends(_authorized)]
    app.get("/health")(_health)
    app.get("/ready")(_ready)
    app.get("/metrics", dependencies=[Depends(_may_scrape)])(_metrics)
    app.get("/v1/models", dependencies=key)(_models)
    app.get("/v1/models/{name:path}", dependencies=key)(_model)
    app.post("/v1/plan", dependencies=key)(_plan)
    app.get("/v1/traces", dependencies=key)(list_traces)
    app.get("/v1/traces/{trace_id}", dependencies=key)(one_trace)
    app.get("/v1/costs", dependencies=key)(_costs)
    add_console(app, key)
    app.openapi = _Document(app)  # type: ignore[method-assign]  # FastAPI's way to say it
    app.add_exception_handler(ProxyError, _as_envelope)
    app.add_exception_handler(StoreError, _as_envelope)
    app.add_exception_handler(HTTPException, _as_envelope)
    app.add_exception_handler(RequestValidationError, _as_envelope)
    return app


class _Document:
    """The OpenAPI document, made once, when somebody asks."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._made: dict[str, Any] | None = None

    def __call__(self) -> dict[str, Any]:
        if self._made is None:
            self._made = document(self._app)
        return self._made


def _service(request: Request) -> Service:
    service: Service = request.state.service
    return service


async def _authorized(request: Request) -> Caller:
    caller: Caller = authorize(_service(request).keys, request.headers.raw)
    request.state.caller = caller
    return caller


def _caller(request: Request) -> Caller:
    """Who asks, on a route that `_authorized` guards."""
    caller: Caller = request.state.caller
    return caller


async def _may_scrape(request: Request) -> None:
    if _service(request).config.server.protect_metrics:
        check_admin(await _authorized(request))


async def _health() -> dict[str, str]:
    """The process lives."""
    return {"status": "ok"}


async def _ready(request: Request) -> Response:
    """200 once at least one backend serves, else 503, also while the proxy drains; either way the state of each backend
    and each scorer, and what it can (null until it was asked), and whether traces are written: without them, answers
    are given all the same."""
    live: Live = request.state.live
    catalog, store = _service(request).catalog, _service(request).traces
    backends = {backend.name: _state(backend) for backend in catalog.backends}
    scorers = {backend.name: _state(backend) for backend in catalog.pooled}
    traces = {"problem": store.problem, "waiting": store.waiting, "dropped": store.dropped}
    ready = any(state["serving"] for state in backends.values()) and not live.draining
    told: dict[str, Any] = {"ready": ready, "draining": live.draining}
    told |= {"backends": backends, "scorers": scorers, "traces": traces}
    if live.reloader is not None:
        told["configuration"] = live.reloader.told()
    return JSONResponse(told, 200 if ready else 503)


def _state(backend: Backend) -> dict[str, Any]:
    return {
        "serving": backend.health.serving,
        "state": backend.health.state,
        "problem": backend.health.problem or backend.problem,
        "capabilities": dict(backend.capabilities.able) if backend.capabilities is not None else None,
    }


async def _metrics(request: Request) -> Response:
    """Of all workers, whichever answers."""
    exchange = request.state.live.exchange
    page = await _service(request).metrics.page(await exchange.page() if exchange is not None else None)
    return Response(page, media_type="text/plain; version=0.0.4; charset=utf-8")


def _card(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": int(time.time()), "owned_by": "paretoproxy"}


async def _models(request: Request) -> dict[str, Any]:
    allowed = _caller(request).limits.models
    names = [name for name in _service(request).catalog.names if allowed is None or name in allowed]
    return {"object": "list", "data": [_card(name) for name in names]}


async def _model(request: Request, name: str) -> dict[str, Any]:
    allowed = _caller(request).limits.models
    if _service(request).catalog.find(name) is None or (allowed is not None and name not in allowed):
        raise NotFound(f"The model `{name}` does not exist.", param="model", code="model_not_found")
    return _card(name)


async def _plan(request: Request) -> Response:
    """The ranked candidates for a chat completion with these headers and body; nothing is sent to a backend."""
    service, headers, caller = _service(request), request.headers.raw, _caller(request)
    body = await read_body(headers, request.receive, service.config.server.max_body_bytes)
    admission = await service.limiter.admit(caller, new_id(), most_tokens=0)
    try:
        return JSONResponse(await plan_view(service, headers, body, caller))
    finally:
        if admission is not None:
            service.limiter.settle(admission, Amount())


async def _costs(
    request: Request, group_by: str = "", since: str | None = None, until: str | None = None
) -> dict[str, Any]:
    """Of the caller's own key; an admin's sees all, and the fleet."""
    return await costs_view(_service(request), group_by, since, until, own_key(request))


async def _as_envelope(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        error = _from_http(request, error)
    elif isinstance(error, RequestValidationError):
        first = error.errors()[0]
        error = InvalidRequest(f"{first['loc'][-1]}: {first['msg']}", param=str(first["loc"][-1]))
    elif isinstance(error, StoreError):
        log.warning("%s", error)
        error = as_proxy_error(error)
    assert isinstance(error, ProxyError)
    headers = {name.decode(): value.decode() for name, value in error.headers()}
    return JSONResponse(envelope(error), error.http_status, headers)


def _from_http(request: Request, error: HTTPException) -> ProxyError:
    path = request.url.path
    if error.status_code == 405:
        allowed = (error.headers or {}).get("allow") or (error.headers or {}).get("Allow") or "another method"
        return MethodNotAllowed(request.method, path, allowed)
    if error.status_code == 404:
        return NotFound(f"There is no {path} here; chat completions are at /v1/chat/completions.", code="not_found")
    return InvalidRequest(str(error.detail))
