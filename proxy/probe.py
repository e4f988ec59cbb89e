"""Background probes: each backend's /health, and its load from /metrics. One task per backend, so that a hung one stalls only itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

import httpx

from proxy import load_metrics
from proxy.backend import Backend

log = logging.getLogger("paretoproxy.probe")

HEALTH_EVERY_S = 1.0
LOAD_EVERY_S = 0.5
PROBE_TIMEOUT_S = 2.0


class Prober:
    """Owns its tasks: started by `start`, ended and awaited by `aclose`."""

    def __init__(self, backends: Iterable[Backend], *, period_s: float = LOAD_EVERY_S) -> None:
        self._backends = list(backends)
        self._period_s = period_s
        self._tasks: list[asyncio.Task[None]] = []
        self._client: httpx.AsyncClient | None = None

    async def start(self) -> None:
        self._client = httpx.AsyncClient(timeout=PROBE_TIMEOUT_S)
        self._tasks = [asyncio.create_task(self._watch(backend, self._client)) for backend in self._backends]

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    async def _watch(self, backend: Backend, client: httpx.AsyncClient) -> None:
        while True:
            await probe(backend, client)
            await asyncio.sleep(self._period_s if backend.health.serving else HEALTH_EVERY_S)


async def probe(backend: Backend, client: httpx.AsyncClient) -> None:
    """One look at one backend; updates its health and load."""
    headers = {"authorization": f"Bearer {backend.api_key}"} if backend.api_key else {}
    try:
        health = await client.get(f"{backend.config.url}/health", headers=headers)
        problem = None if health.status_code == 200 else f"/health answered {health.status_code}"
    except httpx.HTTPError as error:
        problem = f"/health: {error or type(error).__name__}"
    _note_health(backend, problem)
    if problem is None:
        await _read_load(backend, client, headers)


def _note_health(backend: Backend, problem: str | None) -> None:
    before = backend.health
    if problem is not None and (before.serving or not before.checked):
        log.warning("backend %s does not serve: %s", backend.name, problem)
    elif problem is None and not before.serving:
        log.warning("backend %s serves again", backend.name)
    before.serving, before.problem, before.checked = problem is None, problem, True


async def _read_load(backend: Backend, client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    ours_before = backend.in_flight
    try:
        response = await client.get(f"{backend.config.url}/metrics", headers=headers)
        backend.load = load_metrics.parse(response.text)
    except load_metrics.MetricMissing as error:
        if backend.metric_missing != error.name:
            log.error("backend %s: %s; its load from other clients is unknown", backend.name, error)
        backend.metric_missing, backend.load = error.name, None
        backend.gpu_time.set_others(0.0)
        return
    except (httpx.HTTPError, ValueError) as error:
        log.warning("backend %s: /metrics: %s", backend.name, error or type(error).__name__)
        return
    backend.metric_missing = None
    # Ours may have changed while the answer travelled: take the larger count, so that our own are never "others".
    ours = max(ours_before, backend.in_flight)
    backend.gpu_time.set_others(max(0.0, backend.load.running + backend.load.waiting - ours))
