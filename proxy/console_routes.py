"""`/console`: its files, which are public and hold no data, and the JSON behind them, which needs a key as all data
does.

What is read here costs requests little: the fleet is read once for all who look, candidates come as columns, traces are
read and written as JSON in a thread.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Query, Request, Response
from fastapi import Path as InPath
from fastapi.params import Depends
from fastapi.responses import RedirectResponse

from proxy import console_frontier, console_requests
from proxy.console_fleet import FleetReader
from proxy.console_frontier import Wanted
from proxy.errors import NotFound
from proxy.service import Service
from proxy.trace_routes import own_key

FILES = Path(__file__).parent / "console"
PAGE = "index.html"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Nothing inline, nothing from elsewhere, and no text that becomes markup.
POLICY = (
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}
_READERS = 2  # of traces at a time: an old filter over a large store must not take every thread
_MOST_NUMBER = 2**63 - 1
_Number = Annotated[float | None, Query(allow_inf_nan=False)]


def add_console(app: FastAPI, key: Sequence[Depends]) -> None:
    """Its routes; `key`: the dependencies that let a client at data."""
    console = _Console()
    app.get("/console", include_in_schema=False)(console.page)
    app.get("/console/", include_in_schema=False)(_without_slash)
    app.get("/console/api/fleet", dependencies=key)(console.fleet)
    app.get("/console/api/frontier", dependencies=key)(console.frontier)
    app.get("/console/api/requests", dependencies=key)(console.requests)
    app.get("/console/api/requests/{number}", dependencies=key)(console.request)
    app.get("/console/{name}", include_in_schema=False)(console.file)


async def _without_slash() -> Response:
    return RedirectResponse("../console")


class _File(msgspec.Struct, frozen=True):
    body: bytes
    type: str
    etag: str


class _Console:
    """What the routes share: the files, read once, and the fleet's last reading."""

    def __init__(self) -> None:
        self._files = {path.name: _file(path) for path in FILES.iterdir() if path.suffix in _TYPES}
        self._fleet = FleetReader(time.monotonic)
        self._reading = asyncio.Semaphore(_READERS)

    async def page(self, request: Request) -> Response:
        return await self.file(request, PAGE)

    async def file(self, request: Request, name: str) -> Response:
        found = self._files.get(name)
        if found is None:
            raise NotFound(f"The console has no file {name!r}.", code="not_found")
        if request.headers.get("if-none-match") == found.etag:
            return Response(status_code=304, headers={**_HEADERS, "etag": found.etag})
        return Response(found.body, headers={**_HEADERS, "content-type": found.type, "etag": found.etag})

    async def fleet(self, request: Request) -> Response:
        """Every backend's health, load, calibration and profile now, and the models that can be asked for."""
        return _fresh(request, await self._fleet.body(_service(request)))

    async def frontier(
        self,
        request: Request,
        model: str,
        latency_ms: _Number = None,
        cost_usd: _Number = None,
        quality: _Number = None,
        objective: str = "quality",
        prompt_tokens: Annotated[int | None, Query(ge=1, le=10_000_000)] = None,
        task: str | None = None,
        greedy: bool = False,
    ) -> Response:
        """All candidates for a model and an SLO with their predictions, and which of them the planner takes."""
        wanted = Wanted(model, latency_ms, cost_usd, quality, objective, prompt_tokens, task, greedy)
        seen = console_frontier.look(_service(request), wanted)
        return _fresh(request, await asyncio.to_thread(lambda: msgspec.json.encode(console_frontier.view(seen))))

    async def requests(
        self,
        request: Request,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        before: Annotated[int | None, Query(ge=0, le=_MOST_NUMBER)] = None,
        after: Annotated[int | None, Query(ge=0, le=_MOST_NUMBER)] = None,
        id: str | None = None,
        model: str | None = None,
        strategy: str | None = None,
        backend: str | None = None,
        outcome: str | None = None,
        slo_status: str | None = None,
    ) -> Response:
        """A page of recent requests that the caller may see, newest first: older than `before`, newer than `after`
        (their numbers)."""
        equal = {
            "id": id,
            "key": own_key(request),
            "model": model,
            "strategy": strategy,
            "backend": backend,
            "outcome": outcome,
            "slo_status": slo_status,
        }
        async with self._reading:
            page = await asyncio.to_thread(console_requests.rows, _service(request).traces, limit, before, after, equal)
        return _json(page)

    async def request(self, request: Request, number: Annotated[int, InPath(ge=0, le=_MOST_NUMBER)]) -> Response:
        """One whole trace, by its number in the store; another key's is not found."""
        store, key = _service(request).traces, own_key(request)
        async with self._reading:
            found = await asyncio.to_thread(console_requests.details, store, number, key)
        if found is None:
            raise NotFound(f"There is no request of number {number} in the store.", code="trace_not_found")
        return _json(found)


def _file(path: Path) -> _File:
    body = path.read_bytes()
    return _File(body, _TYPES[path.suffix], _tag(body))


def _tag(body: bytes) -> str:
    return f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'


def _fresh(request: Request, body: bytes) -> Response:
    """The body, or 304 where the console has the same already."""
    tag = _tag(body)
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={"etag": tag, "cache-control": "no-store"})
    return _json(body, {"etag": tag})


def _json(body: bytes, headers: dict[str, Any] | None = None) -> Response:
    """Never kept by a browser: it may be behind a key."""
    return Response(body, media_type="application/json", headers={"cache-control": "no-store", **(headers or {})})


def _service(request: Request) -> Service:
    service: Service = request.state.service
    return service
