"""The connections to one backend: reused, bounded, swept for silence, closed on every path."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections import OrderedDict
from dataclasses import dataclass
from urllib.parse import urlsplit

from proxy.upstream.connection import Connection, Exchange, Sink
from proxy.upstream.errors import ConnectFailed, PoolClosed


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a backend listens. `prefix` is a path before `/v1`, without a trailing slash."""

    host: str
    port: int
    tls: bool
    prefix: str

    @classmethod
    def parse(cls, url: str) -> Origin:
        """Raises ValueError for anything but http(s)://host[:port][/path], the path in URL encoding."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"not an http:// or https:// URL: {url!r}")
        if parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError(f"a backend URL has no query, fragment or user: {url!r}")
        if not url.isascii() or " " in url:
            raise ValueError(f"a backend URL is in ASCII and has no spaces: {url!r}")
        tls = parts.scheme == "https"
        return cls(parts.hostname, parts.port or (443 if tls else 80), tls, parts.path.rstrip("/"))

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Limits:
    """`keepalive_s` stays under vLLM's own 5 s, so that we close an idle connection before it does.

    `stale_within_s`: where a used connection closes without a byte this soon after a request was written, the backend
    had closed it before, and the request is sent again.
    """

    max_connections: int = 2048
    connect_timeout_s: float = 3.0
    read_timeout_s: float = 300.0
    keepalive_s: float = 4.0
    sweep_every_s: float = 0.5
    stale_within_s: float = 1.0


class Pool:
    """Starts exchanges on idle connections, else on new ones, else in arrival order when one comes free.

    `send` is synchronous: with an idle connection the request is on the wire when it returns. `tls`: how to verify an
    https backend, by default against the system's authorities.
    """

    def __init__(self, origin: Origin, limits: Limits | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.origin = origin
        self.limits = limits or Limits()
        self._idle: dict[Connection, None] = {}  # used as a stack: the longest idle ones get to expire
        self._open: set[Connection] = set()
        self._waiting: OrderedDict[Exchange, None] = OrderedDict()
        self._connecting: dict[asyncio.Task[Connection], Exchange] = {}
        self._sockets: set[Connection] = set()
        self._no_sockets = asyncio.Event()
        self._no_sockets.set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._tls = (tls or ssl.create_default_context()) if origin.tls else None
        self._closed = False

    @property
    def open_connections(self) -> int:
        return len(self._open)

    @property
    def busy_connections(self) -> int:
        return len(self._open) - len(self._idle)

    def send(self, request: bytes, sink: Sink) -> Exchange:
        """Start a request (complete HTTP/1.1 bytes). Errors reach the sink, also a refused connection, and never before
        this returns."""
        exchange = Exchange(self, request, sink)
        if self._closed:
            asyncio.get_running_loop().call_soon(exchange.fail, PoolClosed("the pool is closed"))
        elif self._idle:
            self._idle.popitem()[0].begin(exchange)
        else:
            self._waiting[exchange] = None
            self._serve_waiting()
        return exchange

    async def aclose(self) -> None:
        """Fail whatever runs, waits or connects, close every connection, and wait until the sockets are closed."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        error = PoolClosed("the pool is closed")
        connecting = dict(self._connecting)
        for task in connecting:
            task.cancel()
        unconnected = [*connecting.values(), *self._waiting]
        self._waiting.clear()
        for exchange in unconnected:
            exchange.fail(error)
        for connection in list(self._open):
            connection.fail(error)
        await asyncio.gather(*connecting, return_exceptions=True)
        await self._no_sockets.wait()

    # -- called by Connection and Exchange --

    def release(self, connection: Connection) -> None:
        """A connection finished its exchange and can carry another."""
        if self._waiting:
            connection.begin(self._waiting.popitem(last=False)[0])
        elif self._closed:
            connection.abort()
        else:
            self._idle[connection] = None

    def dropped(self, connection: Connection) -> None:
        """A connection closed: forget it, and let a waiter have its place."""
        self._open.discard(connection)
        self._idle.pop(connection, None)
        self._serve_waiting()

    def forget(self, exchange: Exchange) -> None:
        """An exchange was cancelled before it had a connection. A connect under way completes and is kept."""
        self._waiting.pop(exchange, None)

    def resend(self, exchange: Exchange) -> None:
        """Once more, before all others, on a *new* connection: other idle ones may be as stale as the last.

        The caller drops its connection next, and that makes the place.
        """
        if self._closed:
            exchange.fail(PoolClosed("the pool is closed"))
        else:
            self._waiting[exchange] = None
            self._waiting.move_to_end(exchange, last=False)

    def socket_closed(self, connection: Connection) -> None:
        self._sockets.discard(connection)
        if not self._sockets:
            self._no_sockets.set()

    # -- connecting --

    def _serve_waiting(self) -> None:
        """Connect for those who wait, oldest first, as far as the limit allows."""
        while self._waiting and len(self._open) + len(self._connecting) < self.limits.max_connections:
            exchange, _ = self._waiting.popitem(last=False)
            task = asyncio.get_running_loop().create_task(self._connect())
            self._connecting[task] = exchange
            task.add_done_callback(self._connect_ended)

    async def _connect(self) -> Connection:
        """Raises ConnectFailed."""
        loop = asyncio.get_running_loop()
        origin, timeout_s = self.origin, self.limits.connect_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                _, connection = await loop.create_connection(
                    lambda: Connection(self, loop), origin.host, origin.port, ssl=self._tls
                )
        except TimeoutError as error:
            raise ConnectFailed(f"no connection within {timeout_s:g} s") from error
        except Exception as error:  # OSError, and UnicodeError for a name that cannot be a host's
            raise ConnectFailed(f"cannot connect: {_reason(error)}") from error
        return connection

    def _connect_ended(self, task: asyncio.Task[Connection]) -> None:
        """In the task's callback, not the task: it also runs for a task that was cancelled before its first step."""
        exchange = self._connecting.pop(task)
        if task.cancelled():
            exchange.fail(PoolClosed("the pool is closed"))
        elif isinstance(error := task.exception(), ConnectFailed):
            self._connect_failed(exchange, error)
        else:
            self._adopt(task.result(), exchange)

    def _connect_failed(self, exchange: Exchange, error: ConnectFailed) -> None:
        exchange.fail(error)
        if not self._open and not self._connecting:  # nobody else would serve or tell those who wait for a place
            waiting = list(self._waiting)
            self._waiting.clear()
            for other in waiting:
                other.fail(error)
        else:
            self._serve_waiting()

    def _adopt(self, connection: Connection, exchange: Exchange) -> None:
        if connection.closed:
            self._connect_failed(exchange, ConnectFailed("the backend closed the connection at once"))
            return
        self._open.add(connection)
        self._sockets.add(
            connection
        )  # not in `connection_made`: uvloop owes no `connection_lost` to a cancelled connect
        self._no_sockets.clear()
        self._schedule_sweep(asyncio.get_running_loop())
        if exchange.done:
            self.release(connection)
        else:
            connection.begin(exchange)

    # -- silence --

    def _schedule_sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._sweeper is None and not self._closed:
            self._sweeper = loop.call_later(self.limits.sweep_every_s, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """One timer for all connections: a timer per exchange would cost more than the exchange's parsing."""
        self._sweeper = None
        now, limits = loop.time(), self.limits
        for connection in list(self._idle):
            if now - connection.last_activity > limits.keepalive_s:
                connection.abort()
        for connection in list(self._open):
            silent_since = connection.stalled_since
            if silent_since is not None and now - silent_since > limits.read_timeout_s:
                connection.time_out(limits.read_timeout_s)
        if self._open:
            self._schedule_sweep(loop)


def _reason(error: Exception) -> str:
    """asyncio's text for a failed connect has the address but not the reason; that is in the number."""
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError | socket.gaierror) and error.errno:
        return os.strerror(error.errno)
    return str(error) or repr(error)
