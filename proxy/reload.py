"""The configuration while the proxy runs: read again on SIGHUP, or when it or a file that it names has changed.

A new catalog is built in a thread, its new backends are looked at, and then new requests get it in one assignment.
Backends that stay keep their connections, load and corrections; those that left close once no request can use them any
more. What cannot be used changes nothing, and says why.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from profiler import verdict
from proxy import catalog_build
from proxy.backend import Backend
from proxy.catalog import Catalog
from proxy.client_keys import Keys
from proxy.config import Config, ConfigError, client_api_keys, load, with_server
from proxy.live import Generation, Live
from proxy.probe import probe
from proxy.probe import probers as probers_of
from proxy.service import Service

log = logging.getLogger("paretoproxy.reload")

POLL_EVERY_S = 0.5  # a file is read once it has not changed for so long
RETIRE_EVERY_S = 0.1

# What a running process cannot change.
_AT_START: dict[str, Callable[[Config], object]] = {
    "server.host": lambda config: config.server.host,
    "server.port": lambda config: config.server.port,
    "server.workers": lambda config: config.server.workers,
    "server.log_format": lambda config: config.server.log_format,
    "server.tls": lambda config: config.server.tls,
    "server.max_header_bytes": lambda config: config.server.max_header_bytes,
    "server.header_timeout_s": lambda config: config.server.header_timeout_s,
    "limits": lambda config: config.limits,
    "reliability": lambda config: config.reliability,
    "admission": lambda config: config.admission,
    "traces.path": lambda config: config.traces.path,
    "traces.url": lambda config: config.traces.url,
    "traces.retention_days": lambda config: config.traces.retention_days,
    "traces.max_bytes": lambda config: config.traces.max_bytes,
    "traces.queue_size": lambda config: config.traces.queue_size,
    "traces.otlp_endpoint": lambda config: config.traces.otlp_endpoint,
    "telemetry": lambda config: config.telemetry.model_copy(update={"sample_ratio": 1.0}),  # which is read per request
}


class _Read(NamedTuple):
    """What a thread has made of the files."""

    config: Config
    catalog: Catalog
    keys: Keys | None


class Reloader(Collector):
    """Owns its tasks: started by `start`, ended and awaited by `aclose`."""

    def __init__(self, source: Path, live: Live, overrides: Mapping[str, Any]) -> None:
        self._source, self._live, self._overrides = source, live, overrides
        self._started_with = live.service.config
        self._asked = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._counts = {"ok": 0, "failed": 0}
        self._loaded_at = time.time()
        self._problem: str | None = None
        self._restart: list[str] = []
        self._paths = _named(source, live.service.config)
        self._old: list[Generation] = []
        self._leaving: dict[int, Backend] = {}  # by identity of the pool
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._tasks = [asyncio.create_task(self._watch()), asyncio.create_task(self._retire())]
        self._live.service.metrics.add(self)

    async def aclose(self) -> None:
        """Ends what earlier configurations have left, too."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for generation in self._old:
            generation.close()
        for backend in self._leaving.values():
            await backend.pool.aclose()

    def ask(self) -> None:
        """Read everything again now."""
        self._asked.set()

    def told(self) -> dict[str, Any]:
        """For /ready. `problem`: why the files as they are now cannot be used; the ones before are still in force."""
        return {"loaded_at": self._loaded_at, "problem": self._problem, "restart_needed_for": self._restart}

    def collect(self) -> Iterator[Metric]:
        reloads = CounterMetricFamily("paretoproxy_config_reloads", "Of the configuration's files", labels=["result"])
        for result, count in self._counts.items():
            reloads.add_metric([result], count)
        yield reloads
        yield GaugeMetricFamily("paretoproxy_config_loaded_at_seconds", "Unix time", value=self._loaded_at)

    # -- when --

    async def _watch(self) -> None:
        used = last = await asyncio.to_thread(_stamps, self._paths)
        while True:
            try:
                async with asyncio.timeout(POLL_EVERY_S):
                    await self._asked.wait()
            except TimeoutError:
                before, last = last, await asyncio.to_thread(_stamps, self._paths)
                if last == used or last != before:  # as it was, or still being written
                    continue
            self._asked.clear()
            read_at = await asyncio.to_thread(_stamps, self._paths)  # before reading: what changes meanwhile is seen
            await self.reload()
            last = await asyncio.to_thread(_stamps, self._paths)
            used = {path: read_at.get(path, stamp) for path, stamp in last.items()}

    # -- what --

    async def reload(self) -> bool:
        """Whether the files could be used."""
        async with self._one_at_a_time:
            return await self._reload()

    async def _reload(self) -> bool:
        before = self._live.service
        try:
            read = await asyncio.to_thread(self._read, before)
        except ConfigError as error:
            return self._failed(str(error))
        except Exception as error:  # whatever is wrong with a file must not end the watch
            log.exception("the configuration could not be read again")
            return self._failed(f"{type(error).__name__} (the log says where)")
        await self._take_over(before, read)
        return True

    def _read(self, before: Service) -> _Read:
        """In a thread. Raises ConfigError."""
        config = with_server(load(self._source), self._overrides)
        self._paths = _named(self._source, config)
        catalog = catalog_build.build(config, before.registry, before.clock, before.catalog)
        for served in catalog.served.values():
            served.warm_up()
        return _Read(config, catalog, client_api_keys(config))

    def _failed(self, problem: str) -> bool:
        self._counts["failed"] += 1
        self._problem = problem.splitlines()[0][:500]  # further lines may quote a file of keys
        log.error("the configuration has not changed: %s", problem)
        return False

    async def _take_over(self, before: Service, read: _Read) -> None:
        catalog, known = read.catalog, _pools(before.catalog)
        new = [backend for key, backend in _pools(catalog).items() if key not in known]
        for backend in new:
            backend.health.serving, backend.health.problem = False, "not yet looked at"
        try:
            await asyncio.gather(*(probe(backend, late_looks=1) for backend in new))
        except BaseException:  # the proxy ends meanwhile: nobody else knows these
            for backend in new:
                await backend.pool.aclose()
            raise
        probers = probers_of(catalog)
        for prober in before.probers:
            await prober.aclose()
        for name, served in catalog.served.items():
            if name in before.catalog.served:
                served.keep_watching(before.catalog.served[name])
        service = replace(before, config=read.config, catalog=catalog, keys=read.keys, probers=probers)
        self._old.append(self._live.replace(service))
        service.metrics.follow(catalog.backends, catalog.served.values(), catalog.pooled)
        service.reliability.follow(catalog)
        if service.telemetry is not None:
            service.telemetry.use(catalog.by_name)
        for backend in catalog.by_name.values():
            backend.spending.use(backend.pricing)
        for prober in probers:
            await prober.start()
        gone = {key: backend for key, backend in known.items() if key not in _pools(catalog)}
        self._leaving.update(gone)
        self._tell(read.config, new, list(gone.values()))

    def _tell(self, config: Config, new: list[Backend], gone: list[Backend]) -> None:
        self._counts["ok"] += 1
        self._problem, self._loaded_at = None, time.time()
        self._restart = [key for key, of in _AT_START.items() if of(config) != of(self._started_with)]
        named = {"new": new, "leaving": gone}
        told = [f"{what}: {', '.join(b.name for b in some)}" for what, some in named.items() if some]
        log.warning("the configuration was read again; %s", "; ".join(told) or "the backends stay")
        for key in self._restart:
            log.warning("%s has changed, which takes a restart; until then it stays as it was", key)
        for backend in new:
            if not backend.health.serving:
                log.warning("backend %s is new and does not serve yet: %s", backend.name, backend.health.problem)

    # -- what leaves --

    async def _retire(self) -> None:
        """Close the connections to backends that left, once no request runs that could still use them."""
        while True:
            await asyncio.sleep(RETIRE_EVERY_S)
            if not self._old:
                continue
            running = [generation for generation in self._old if generation.requests]
            for generation in self._old:
                if not generation.requests:
                    generation.close()
            over = len(running) < len(self._old)
            self._old = running
            used = {key for generation in running for key in _pools(generation.service.catalog)}
            for key in [key for key in self._leaving if key not in used]:
                backend = self._leaving.pop(key)
                await backend.pool.aclose()
                log.info("backend %s has left", backend.name)
            if over and not running:
                # The old catalog was frozen at start: let the collector have it, then spare it the new one.
                gc.unfreeze()
                gc.collect()
                gc.freeze()


def _pools(catalog: Catalog) -> dict[int, Backend]:
    return {id(backend.pool): backend for backend in catalog.by_name.values()}


def _named(source: Path, config: Config) -> list[Path]:
    """The file, and the files that it names."""
    paths = [source, config.server.api_keys]
    for model in config.models:
        paths += model.quality.values()
        paths.append(model.tokenizer / "tokenizer.json" if model.tokenizer is not None else None)
        for backend in model.backends:
            if backend.profile is not None:
                paths += (backend.profile, verdict.agreement_path(backend.profile))
    return list(dict.fromkeys(path for path in paths if path is not None))


Stamps = dict[Path, tuple[int, ...] | None]


def _stamps(paths: Iterable[Path]) -> Stamps:
    """What differs once a file was written or replaced. Links are followed: Kubernetes swaps a link to change the files
    of a volume."""
    return {path: _stamp(path) for path in paths}


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
