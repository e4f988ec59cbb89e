"""Background probes: each backend's /health, and its load from /metrics. One task per backend, so that a hung one
stalls only itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable

from proxy import capabilities, load_metrics, pooled_capability
from proxy.backend import Backend
from proxy.capabilities import Capabilities
from proxy.catalog import Catalog
from proxy.upstream.errors import UpstreamError
from proxy.upstream.fetch import fetch

log = logging.getLogger("paretoproxy.probe")

HEALTH_EVERY_S = 1.0
LOAD_EVERY_S = 0.5
PROBE_TIMEOUT_S = 2.0
UNABLE_S = 60.0  # after which one that could not is asked again: its model may not have been loaded yet
ASK_AGAIN_S = 5.0  # where it could not be found out what an engine can
POOLED_LATE_LOOKS = 10  # a model that scores long answers may hold up its own server for seconds
LATE_LOOKS = 2  # an engine under full load may answer one look late; refused or a bad status counts at once


class Prober:
    """Owns its tasks: started by `start`, ended and awaited by `aclose`."""

    def __init__(
        self,
        backends: Iterable[Backend],
        *,
        period_s: float = LOAD_EVERY_S,
        ask: Callable[[Backend], Awaitable[Capabilities]] = capabilities.find_out,
        late_looks: int = LATE_LOOKS,
    ) -> None:
        self._ask = ask
        self._late_looks = late_looks
        self._period_s = period_s
        self._backends = list(backends)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._tasks = [asyncio.create_task(self._watch(backend)) for backend in self._backends]

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _watch(self, backend: Backend) -> None:
        asking: asyncio.Task[None] | None = None  # beside: a busy engine may take long to say what it can
        loop = asyncio.get_running_loop()
        again_at = loop.time() + UNABLE_S
        try:
            while True:
                await probe(backend, late_looks=self._late_looks)
                unknown = backend.capabilities is None or (backend.problem and loop.time() >= again_at)
                if unknown and backend.health.serving and (asking is None or asking.done()):
                    again_at = loop.time() + UNABLE_S
                    asking = asyncio.create_task(self._find_out(backend))
                await asyncio.sleep(self._period_s if backend.health.serving else HEALTH_EVERY_S)
        finally:
            if asking is not None:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)

    async def _find_out(self, backend: Backend) -> None:
        if not await capabilities.keep_up(backend, self._ask):
            await asyncio.sleep(ASK_AGAIN_S)


def probers(catalog: Catalog) -> tuple[Prober, ...]:
    """Of all its backends, not yet started."""

    def ask_for_a_score(backend: Backend) -> Awaitable[Capabilities]:
        return pooled_capability.find_out(backend, catalog.pooled_kinds[backend.name], time.monotonic)

    scores = Prober(catalog.pooled, ask=ask_for_a_score, late_looks=POOLED_LATE_LOOKS)
    return Prober(catalog.backends), scores


async def probe(backend: Backend, timeout_s: float = PROBE_TIMEOUT_S, late_looks: int = LATE_LOOKS) -> None:
    """One look at one backend, over its own pool: what is probed is what requests will meet."""
    backend.spending.settle()
    try:
        status, _ = await fetch(backend.pool, backend.get("/health"), timeout_s)
        problem = None if status == 200 else f"/health answered {status}"
    except TimeoutError as error:
        backend.health.late += 1
        if backend.health.late >= late_looks:
            _note_health(backend, f"/health: {error}, {backend.health.late} times in a row")
        return
    except UpstreamError as error:
        problem = f"/health: {error}"
    backend.health.late = 0
    _note_health(backend, problem)
    if problem is None:
        await _read_load(backend, timeout_s)


def _note_health(backend: Backend, problem: str | None) -> None:
    if problem is not None:
        backend.capabilities = None  # what comes back may have been started otherwise
    backend.health.probed(problem)


async def _read_load(backend: Backend, timeout_s: float) -> None:
    try:
        _, page = await fetch(backend.pool, backend.get("/metrics"), timeout_s)
        load = load_metrics.parse(page.decode("utf-8", "replace"))
    except load_metrics.MetricMissing as error:
        if backend.metric_missing != error.name:
            log.error("backend %s: %s; its load from other clients is unknown", backend.name, error)
        backend.metric_missing, backend.load = error.name, None
        backend.gpu_time.set_others(0.0)
        return
    except (UpstreamError, TimeoutError, ValueError) as error:
        log.warning("backend %s: /metrics: %s", backend.name, error)
        return
    backend.metric_missing = None
    backend.note_load(load)
