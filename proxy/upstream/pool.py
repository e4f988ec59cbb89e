"""The connections to one backend: reused, bounded, swept for silence, closed on every path."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from dataclasses import dataclass
from urllib.parse import urlsplit

from proxy.upstream.connection import Connection, Exchange, Sink
from proxy.upstream.errors import ConnectFailed, PoolClosed, ReadTimeout


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a backend listens. `prefix` is a path before `/v1`, without a trailing slash."""

    host: str
    port: int
    tls: bool
    prefix: str

    @classmethod
    def parse(cls, url: str) -> Origin:
        """Raises ValueError for anything but http(s)://host[:port][/path]."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"not an http:// or https:// URL: {url!r}")
        if parts.query or parts.fragment or parts.username:
            raise ValueError(f"a backend URL has no query, fragment or user: {url!r}")
        tls = parts.scheme == "https"
        return cls(parts.hostname, parts.port or (443 if tls else 80), tls, parts.path.rstrip("/"))

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Limits:
    """`keepalive_s` stays under vLLM's own 5 s, so that we close an idle connection before it does."""

    max_connections: int = 2048
    connect_timeout_s: float = 3.0
    read_timeout_s: float = 300.0
    keepalive_s: float = 4.0
    sweep_every_s: float = 0.5


class Pool:
    """Starts exchanges on idle connections, else on new ones, else in arrival order when one comes free.

    `send` is synchronous: with an idle connection the request is on the wire when it returns.
    """

    def __init__(self, origin: Origin, limits: Limits | None = None) -> None:
        self.origin = origin
        self._limits = limits or Limits()
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._waiting: deque[Exchange] = deque()
        self._connecting: dict[asyncio.Task[None], Exchange | None] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._tls = ssl.create_default_context() if origin.tls else None
        self._closed = False

    @property
    def open_connections(self) -> int:
        return len(self._open)

    @property
    def busy_connections(self) -> int:
        return len(self._open) - len(self._idle)

    def send(self, request: bytes, sink: Sink) -> Exchange:
        """Start a request (complete HTTP/1.1 bytes). Errors reach the sink, also a refused connection."""
        exchange = Exchange(self, request, sink)
        if self._closed:
            asyncio.get_running_loop().call_soon(exchange.fail, PoolClosed("the pool is closed"))
        elif self._idle:
            self._idle.pop().begin(exchange)
        else:
            self._connect_or_wait(exchange)
        return exchange

    async def aclose(self) -> None:
        """Fail whatever runs or waits, close every connection, and wait for pending connects to end."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        connecting = list(self._connecting)
        for task in connecting:
            task.cancel()
        await asyncio.gather(*connecting, return_exceptions=True)
        while self._waiting:
            self._waiting.popleft().fail(PoolClosed("the pool is closed"))
        for connection in list(self._open):
            connection.fail(PoolClosed("the pool is closed"))

    # -- called by Connection and Exchange --

    def release(self, connection: Connection) -> None:
        """A connection finished its exchange and can carry another."""
        while self._waiting:
            exchange = self._waiting.popleft()
            if not exchange.done:
                connection.begin(exchange)
                return
        if self._closed:
            connection.abort()
        else:
            self._idle.append(connection)

    def dropped(self, connection: Connection) -> None:
        """A connection closed: forget it, and let a waiter have its place."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        while self._waiting and not self._closed:
            exchange = self._waiting.popleft()
            if not exchange.done:
                self._connect_or_wait(exchange)
                return

    def forget(self, exchange: Exchange) -> None:
        """An exchange was cancelled before it had a connection. A connect under way completes and is kept."""
        if exchange in self._waiting:
            self._waiting.remove(exchange)
        for task, wanted in self._connecting.items():
            if wanted is exchange:
                self._connecting[task] = None

    def resend(self, exchange: Exchange) -> None:
        """Once more on a *new* connection: other idle ones may be as stale as the last."""
        self._connect_or_wait(exchange)

    # -- connecting --

    def _connect_or_wait(self, exchange: Exchange) -> None:
        if len(self._open) + len(self._connecting) >= self._limits.max_connections:
            self._waiting.append(exchange)
            return
        task = asyncio.get_running_loop().create_task(self._connect())
        self._connecting[task] = exchange
        task.add_done_callback(lambda done: self._connecting.pop(done, None))

    async def _connect(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        origin, limits = self.origin, self._limits
        try:
            async with asyncio.timeout(limits.connect_timeout_s):
                _, connection = await loop.create_connection(
                    lambda: Connection(self, loop), origin.host, origin.port, ssl=self._tls
                )
        except asyncio.CancelledError:
            self._give_up(task, PoolClosed("the pool is closed"))
            raise
        except TimeoutError:
            self._give_up(task, ConnectFailed(f"no connection within {limits.connect_timeout_s:g} s"))
            return
        except OSError as error:
            self._give_up(task, ConnectFailed(f"cannot connect: {error.strerror or error}"))
            return
        self._open.add(connection)
        self._schedule_sweep(loop)
        exchange = self._connecting.pop(task, None)
        if connection.closed:
            if exchange is not None:
                exchange.fail(ConnectFailed("the connection closed at once"))
            self._open.discard(connection)
        elif exchange is not None and not exchange.done:
            connection.begin(exchange)
        else:
            self.release(connection)

    def _give_up(self, task: asyncio.Task[None], error: ConnectFailed | PoolClosed) -> None:
        exchange = self._connecting.pop(task, None)
        if exchange is not None:
            exchange.fail(error)
        if isinstance(error, ConnectFailed):  # nobody else would tell those who wait for a place
            while self._waiting and not self._open and not self._connecting:
                self._waiting.popleft().fail(error)

    # -- silence --

    def _schedule_sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._sweeper is None and not self._closed:
            self._sweeper = loop.call_later(self._limits.sweep_every_s, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """One timer for all connections: a timer per exchange would cost more than the exchange's parsing."""
        self._sweeper = None
        now = loop.time()
        for connection in list(self._idle):
            if now - connection.last_activity > self._limits.keepalive_s:
                connection.abort()
        for connection in list(self._open):
            silent_since = connection.stalled_since
            if silent_since is not None and now - silent_since > self._limits.read_timeout_s:
                connection.fail(ReadTimeout(f"the backend sent nothing for {self._limits.read_timeout_s:g} s"))
        if self._open:
            self._schedule_sweep(loop)
