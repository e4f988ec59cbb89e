"""The whole proxy in one process with its engines, without sockets: for virtual time, where minutes of traffic take
seconds. Everything but the wire is the real thing: parsing, planning, strategies, deadlines, probes, metering.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from functools import partial
from random import Random

from profiler.simulation.completion import Completion
from profiler.simulation.simulated_backend import SimulatedBackend
from proxy import catalog_build
from proxy.config import Config, ConfigError, client_api_keys
from proxy.metrics import Metrics
from proxy.planner import choose
from proxy.plans import Chooser
from proxy.probe import Prober
from proxy.reliability.service import Reliability
from proxy.service import Service
from proxy.trace import Trace
from proxy.trace_store import Finish, TraceStore
from proxy.upstream.connection import NOBODY, Exchange, Headers, Sink
from proxy.upstream.errors import ConnectFailed, ConnectionLost, PoolClosed, ReadTimeout, SinkFailed, UpstreamError
from proxy.upstream.pool import Limits, Origin, Pool
from strategies.answers import MathVerifyPool
from strategies.registry import Registry


class InProcessPool(Pool):
    """Hands requests to a simulated backend and its bytes to the sinks, under the limits of a real pool.

    `few_chunks`: streams that nobody watches while they run come as their first token and the rest, which saves
    most of the CPU; a cancelled one gets what was generated until then, as it would have had.
    """

    def __init__(
        self, origin: Origin, backend: SimulatedBackend, limits: Limits | None = None, *, few_chunks: bool = False
    ) -> None:
        super().__init__(origin, limits)
        self.backend, self.few_chunks = backend, few_chunks
        self._running: dict[InProcessExchange, None] = {}
        self._line: OrderedDict[InProcessExchange, None] = OrderedDict()  # beyond `max_connections`
        self.loop = asyncio.get_running_loop()
        self._parsed: tuple[bytes, str, str, bytes] = (b"", "", "", b"")
        self._ended = False
        self._watch: asyncio.TimerHandle | None = None

    @property
    def open_connections(self) -> int:
        return len(self._running)

    @property
    def busy_connections(self) -> int:
        return len(self._running)

    def send(self, request: bytes, sink: Sink) -> Exchange:
        exchange = InProcessExchange(self, request, sink)
        if self._ended:
            self.loop.call_soon(exchange.fail, PoolClosed("the pool is closed"))
        elif len(self._running) >= self.limits.max_connections:
            self._line[exchange] = None
        else:
            self._begin(exchange)
        return exchange

    async def aclose(self) -> None:
        self._ended = True
        if self._watch is not None:
            self._watch.cancel()
        waiting, running = list(self._line), list(self._running)
        self._line.clear()
        for exchange in (*waiting, *running):
            exchange.break_off(PoolClosed("the pool is closed"))

    def forget(self, exchange: Exchange) -> None:
        assert isinstance(exchange, InProcessExchange)
        self._line.pop(exchange, None)

    def over(self, exchange: InProcessExchange) -> None:
        """By the exchange: its place is free."""
        self._running.pop(exchange, None)
        while self._line and len(self._running) < self.limits.max_connections:
            self._begin(self._line.popitem(last=False)[0])

    def _begin(self, exchange: InProcessExchange) -> None:
        self._running[exchange] = None
        if self._watch is None:
            self._watch = self.loop.call_later(self.limits.sweep_every_s, self._sweep_silent)
        exchange.begin(*self._parse(exchange.request))

    def _parse(self, request: bytes) -> tuple[str, str, bytes]:
        """(method, path, body). The branches of one request are the same object: parsed once."""
        if request is not self._parsed[0]:
            head, _, body = request.partition(b"\r\n\r\n")
            method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
            path = target.removeprefix(self.origin.prefix).partition("?")[0]
            self._parsed = (request, method, path, body)
        return self._parsed[1:]

    def _sweep_silent(self) -> None:
        """Ends exchanges that have been silent for too long."""
        self._watch = None
        now, limit_s = self.loop.time(), self.limits.read_timeout_s
        for exchange in list(self._running):
            if now - exchange.heard_at > limit_s and not exchange.paused:
                exchange.break_off(ReadTimeout(f"the backend sent nothing for {limit_s:g} s"))
        if self._running:
            self._watch = self.loop.call_later(self.limits.sweep_every_s, self._sweep_silent)


class InProcessExchange(Exchange):
    """An exchange, and the `Reply` that the simulated backend answers to."""

    __slots__ = ("_begun", "_completion", "_few", "_held", "_home", "_loop", "_telling", "heard_at")

    def __init__(self, pool: InProcessPool, request: bytes, sink: Sink) -> None:
        super().__init__(pool, request, sink)
        self._home, self._loop = pool, pool.loop
        self._completion: Completion | None = None
        self._held: deque[Callable[[], None]] = deque()  # while paused, or while `send` has not returned
        self._begun = False
        self._few = self._telling = False
        self.heard_at = self._loop.time()

    def begin(self, method: str, path: str, body: bytes) -> None:
        """By the pool. What is told at once reaches the sink only after `send` has returned."""
        backend, pool = self._home.backend, self._home
        self.heard_at = self._loop.time()
        if backend.faults.dead:
            self._loop.call_soon(self.break_off, ConnectFailed("cannot connect: Connection refused"))
            return
        self._few = pool.few_chunks and not getattr(self.sink, "watched", False)
        completion = backend.handle(method, path, body, self, few_chunks=self._few)
        if completion is not None and not completion.over:
            self._completion = completion
        if self._held:
            self._loop.call_soon(self._release)
        else:
            self._begun = True

    def cancel(self) -> None:
        if self.done:
            return
        completion, self._completion = self._completion, None
        if completion is not None:
            if self._few and not self._telling and not self.paused:
                completion.flush()  # without `few_chunks` the sink would have had this by now
            completion.cancel()
        if not self.done:  # else what was flushed has ended it
            self.done, self.sink = True, NOBODY
            self._held.clear()
            self._home.forget(self)
            self._home.over(self)

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        self.heard_at = self._loop.time()
        if self._begun:
            self._release()

    def break_off(self, error: UpstreamError) -> None:
        """The connection is lost, or never was."""
        if self.done:
            return
        completion, self._completion = self._completion, None
        if completion is not None:
            completion.cancel()
        self._held.clear()
        self._home.over(self)
        self.fail(error)

    # -- Reply --

    def whole(self, status: int, content_type: bytes, body: bytes) -> None:
        headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
        self._tell(partial(self._head, status, headers))
        if body:
            self._tell(partial(self._body, body))
        self.finish()

    def start(self, content_type: bytes) -> None:
        headers = [(b"content-type", content_type), (b"transfer-encoding", b"chunked")]
        self._tell(partial(self._head, 200, headers))

    def chunk(self, data: bytes) -> None:
        self._tell(partial(self._body, data))

    def finish(self) -> None:
        self._completion = None
        self._tell(self._whole_answer)

    def cut(self) -> None:
        self._completion = None
        self._tell(partial(self.break_off, ConnectionLost("the backend closed the connection")))

    # -- to the sink --

    def _tell(self, what: Callable[[], None]) -> None:
        if self._begun and not self.paused and not self._held:
            what()
        else:
            self._held.append(what)

    def _release(self) -> None:
        self._begun = True
        while self._held and not self.paused and not self.done:
            self._held.popleft()()

    def _head(self, status: int, headers: Headers) -> None:
        self._safely(partial(self.sink.on_head, status, headers))

    def _body(self, data: bytes) -> None:
        self._safely(partial(self.sink.on_body, data))

    def _safely(self, call: Callable[[], None]) -> None:
        self.heard_at = self._loop.time()
        self._telling = True
        try:
            call()
        except Exception as error:  # as a real connection does
            self.break_off(SinkFailed(f"the receiver of the answer failed: {error!r}"))
        finally:
            self._telling = False

    def _whole_answer(self) -> None:
        self._home.over(self)
        self.end()


class _Traces(TraceStore):
    """Gives each finished trace to a callback; keeps none."""

    def __init__(self, on_trace: Callable[[Trace], None] | None) -> None:
        super().__init__(None, 1)
        self._on_trace = on_trace

    def record(self, trace: Trace, finish: Finish | None = None, model: str | None = None) -> None:
        if finish is not None:
            finish(trace)
        if self._on_trace is not None:
            self._on_trace(trace)


class _AsWritten(MathVerifyPool):
    """Formulas that are not written alike are different: a worker process would take the wall's time."""

    async def same(self, a: str, b: str) -> bool:
        return False


async def in_process_service(
    config: Config,
    fleet: Mapping[str, SimulatedBackend],
    registry: Registry | None = None,
    *,
    on_trace: Callable[[Trace], None] | None = None,
    few_chunks: bool = False,
    seed: int = 0,
    chooser: Chooser = choose,
) -> Service:
    """A started service on the running loop, whose time is its clock; end it with `aclose`. Several may share a fleet:
    replicas. `chooser`: what plans are chosen by, to compare others with the planner. Raises ConfigError."""
    if config.pooled():
        raise ConfigError(f"{config.pooled()[0].name}: reward and embedding models are not simulated; leave them out")
    loop = asyncio.get_running_loop()
    registry = registry or Registry.installed()
    catalog = catalog_build.build(config, registry, loop.time)
    for backend in catalog.backends:
        origin = backend.pool.origin
        backend.pool = InProcessPool(origin, fleet[backend.name], few_chunks=few_chunks)
    traces = _Traces(on_trace)
    prober, rng = Prober(catalog.backends), Random(seed)
    reliability = Reliability(config, catalog, Random(seed), loop.time)
    service = Service(
        config=config,
        registry=registry,
        catalog=catalog,
        traces=traces,
        metrics=Metrics(catalog.backends, traces, catalog.served.values()),
        probers=(prober,),
        equivalence=_AsWritten(),
        keys=client_api_keys(config),
        reliability=reliability,
        rng=rng,
        clock=loop.time,
        choose=chooser,
    )
    await prober.start()
    await reliability.start()
    return service
