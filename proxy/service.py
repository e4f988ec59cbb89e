"""Everything a request needs, built once at start and handed around: no singletons, no module state."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Self

from proxy import access_log, catalog_build
from proxy.catalog import Catalog
from proxy.client_keys import Keys
from proxy.config import Config, ConfigError, client_api_keys
from proxy.limits import Limiter
from proxy.metrics import Metrics
from proxy.planner import choose
from proxy.plans import Chooser
from proxy.probe import Prober
from proxy.probe import probers as probers_of
from proxy.redis_limits import MissingPackage, RedisLimits
from proxy.reliability.collector import ReliabilityCollector
from proxy.reliability.service import Reliability
from proxy.telemetry import Telemetry
from proxy.telemetry import check as check_telemetry
from proxy.trace import Trace
from proxy.trace_store import Finish, TraceStore
from strategies.answers import MathVerifyPool
from strategies.registry import Registry


@dataclass(slots=True)
class FinishTime:
    """How long an answer takes from the decision to its last byte: the reserve before a deadline, in seconds.

    Mean plus four mean deviations, as TCP estimates its timeouts (RFC 6298), kept within sane bounds.
    """

    mean_s: float = 0.004
    deviation_s: float = 0.002

    def observe(self, seconds: float) -> None:
        self.deviation_s += 0.1 * (abs(seconds - self.mean_s) - self.deviation_s)
        self.mean_s += 0.1 * (seconds - self.mean_s)

    @property
    def reserve_s(self) -> float:
        return min(0.5, max(0.005, self.mean_s + 4 * self.deviation_s))


@dataclass(slots=True)
class Service:
    """`aclose` ends everything that `start` began. `rng`: decides among plans that are as good. `clock`: seconds, not
    the loop's, which uvloop keeps in whole milliseconds; both count from the same start. `choose`: the planner,
    but where others are compared with it. `epoch_s`: what the clock's 0 is in Unix time. `telemetry`: None where no
    collector is configured. `keys`: of clients; replaced as a whole by a reload, which `limiter` outlives."""

    config: Config
    registry: Registry
    catalog: Catalog
    traces: TraceStore
    metrics: Metrics
    probers: tuple[Prober, ...]
    equivalence: MathVerifyPool
    keys: Keys | None
    reliability: Reliability
    limiter: Limiter = field(default_factory=Limiter)
    finish_time: FinishTime = field(default_factory=FinishTime)
    rng: Random = field(default_factory=Random)
    clock: Callable[[], float] = time.monotonic
    choose: Chooser = choose
    epoch_s: float = 0.0
    telemetry: Telemetry | None = None

    @classmethod
    async def start(cls, config: Config, registry: Registry | None = None) -> Self:
        """Raises ConfigError, StoreError."""
        registry = registry or Registry.installed()
        keys, limiter = client_api_keys(config), limiter_for(config)
        check_telemetry(config)
        catalog = catalog_build.build(config, registry, time.monotonic)
        traces = TraceStore(
            config.traces.target,
            config.traces.queue_size,
            config.traces.retention_days,
            max_bytes=config.traces.max_bytes,
        )
        await asyncio.to_thread(traces.start)
        probers = probers_of(catalog)
        for prober in probers:
            await prober.start()
        metrics = Metrics(catalog.backends, traces, catalog.served.values(), catalog.pooled)
        telemetry = Telemetry.start(config, catalog.by_name, metrics) if config.traces.otlp_endpoint else None
        rng = Random()
        reliability = Reliability(config, catalog, rng, time.monotonic)
        await reliability.start()
        metrics.add(ReliabilityCollector(reliability))
        metrics.add(limiter)
        if limiter.shared is not None:
            await limiter.shared.start()
        _spare_the_collector()
        return cls(
            config,
            registry,
            catalog,
            traces,
            metrics,
            probers,
            MathVerifyPool(),
            keys,
            reliability,
            limiter,
            rng=rng,
            epoch_s=time.time() - time.monotonic(),
            telemetry=telemetry,
        )

    def priority(self, due_s: float) -> int:
        """What an engine's queue is ordered by: the time at which a request must be over, in Unix milliseconds, so that
        replicas of the proxy agree on it."""
        return round((self.epoch_s + due_s) * 1e3)

    @property
    def keeps_content(self) -> bool:
        """Prompts and answers go into traces or spans: the operator has turned that on."""
        return self.config.traces.store_prompts or self.config.telemetry.content

    def record(self, trace: Trace, finish: Finish | None) -> None:
        """A request is over. `finish`: work left for the trace's writer, in whose thread all else that is done with a
        trace is done too: metrics, spans, the access log."""
        model = (trace.model if trace.model in self.catalog.choices else None) or "unknown"
        self.metrics.observe(trace, model)
        self.traces.record(trace, partial(self._finish, model, finish), model)

    def _finish(self, model: str, finish: Finish | None, trace: Trace) -> None:
        if finish is not None:
            finish(trace)
        self.metrics.count(trace, model)
        if self.telemetry is not None:
            self.telemetry.offer(trace)
        if self.config.server.access_log:
            access_log.write(trace, model)
        if not self.config.traces.store_prompts:
            trace.prompt = trace.answer = None
            for row in trace.branches:
                row.answer = None

    async def aclose(self) -> None:
        for prober in self.probers:
            await prober.aclose()
        await self.reliability.aclose()
        for backend in (*self.catalog.backends, *self.catalog.pooled):
            await backend.pool.aclose()
        await self.equivalence.aclose()
        if self.limiter.shared is not None:
            await self.limiter.shared.aclose()
        await asyncio.to_thread(self.traces.close)
        if self.telemetry is not None:  # after the traces' writer, which gives it the last ones
            await self.telemetry.aclose()


def limiter_for(config: Config) -> Limiter:
    """Where the limits of API keys are counted. Raises ConfigError."""
    limits = config.limits
    if limits.redis_url is None:
        return Limiter()
    try:
        shared = RedisLimits(limits.redis_url.get_secret_value(), lease_s=config.server.max_stream_s + 60)
    except MissingPackage as error:
        raise ConfigError(str(error)) from error
    except ValueError:
        raise ConfigError("limits.redis_url: expected redis://HOST:PORT/DB, rediss://… or unix://…") from None
    return Limiter(shared, refuse_when_down=limits.on_redis_failure == "refuse")


def _spare_the_collector() -> None:
    """What was loaded at start lives as long as the process: the cycle collector need not walk it again and again, and
    requests leave few cycles, so it may look less often. Worth a fifth of the data path's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
