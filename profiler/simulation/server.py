"""The simulated backends on their ports: HTTP/1.1 by httptools over asyncio's transports, nothing in between."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import cast

import httptools

from profiler.simulation.completion import Completion
from profiler.simulation.simulated_backend import SimulatedBackend

MAX_BODY_BYTES = 64 * 1024 * 1024
CLOSE_SIGNAL_S = 1.0


class ServerError(Exception):
    """A port cannot be listened on."""


@dataclass(slots=True)
class _Request:
    method: str = ""
    path: str = ""
    body: bytes = b""
    keep_alive: bool = True


class _Connection(asyncio.Protocol):
    """One client: its requests one after the other, each answer through the methods of `Reply`."""

    def __init__(self, server: BackendServer) -> None:
        self._server, self._backend = server, server.backend
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._reading = _Request()
        self._parts: list[bytes] = []
        self._size = 0
        self._queue: deque[_Request] = deque()
        self._answering: _Request | None = None
        self._completion: Completion | None = None

    # -- asyncio --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.forget(self)
        self._answering = None
        self._queue.clear()
        completion, self._completion = self._completion, None
        if completion is not None:
            completion.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.abort()
        except httptools.HttpParserError:
            self._write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            self.abort()

    def abort(self) -> None:
        """Reset the connection."""
        if self._transport is not None:
            self._transport.abort()

    # -- httptools --

    def on_message_begin(self) -> None:
        self._reading, self._parts, self._size = _Request(), [], 0

    def on_url(self, url: bytes) -> None:
        self._reading.path += url.decode("latin-1")

    def on_body(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > MAX_BODY_BYTES:
            self.abort()
        self._parts.append(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"expect":
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_message_complete(self) -> None:
        request = self._reading
        request.method = self._parser.get_method().decode("latin-1")
        request.path = request.path.partition("?")[0]
        request.body = b"".join(self._parts)
        request.keep_alive = self._parser.should_keep_alive()
        self._parts = []
        self._queue.append(request)
        self._next()

    def _next(self) -> None:
        while self._answering is None and self._queue:
            request = self._answering = self._queue.popleft()
            completion = self._backend.handle(request.method, request.path, request.body, self)
            if completion is not None and not completion.over:
                self._completion = completion

    # -- Reply --

    def whole(self, status: int, content_type: bytes, body: bytes) -> None:
        head = b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n%b\r\n"
        phrase = HTTPStatus(status).phrase.encode()
        self._write(head % (status, phrase, content_type, len(body), self._connection_line()) + body)
        self._done()

    def start(self, content_type: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ntransfer-encoding: chunked\r\n%b\r\n"
        self._write(head % (content_type, self._connection_line()))

    def chunk(self, data: bytes) -> None:
        self._write(b"%x\r\n%b\r\n" % (len(data), data))

    def finish(self) -> None:
        self._write(b"0\r\n\r\n")
        self._done()

    def cut(self) -> None:
        self._completion = None
        self.abort()

    def _connection_line(self) -> bytes:
        keep = self._answering is not None and self._answering.keep_alive
        return b"" if keep else b"connection: close\r\n"

    def _done(self) -> None:
        request, self._answering, self._completion = self._answering, None, None
        if request is not None and not request.keep_alive and self._transport is not None:
            self._transport.close()
        elif self._queue:
            asyncio.get_running_loop().call_soon(self._next)

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)


class BackendServer:
    """One backend on one port; a dead backend's port is closed, and open again once it lives."""

    def __init__(self, backend: SimulatedBackend, host: str, port: int) -> None:
        self.backend, self._host, self._port = backend, host, port
        self.connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None
        self._reopening: asyncio.Task[None] | None = None
        backend.on_dead = self._dead

    @property
    def port(self) -> int:
        return self._port

    def forget(self, connection: _Connection) -> None:
        self.connections.discard(connection)

    async def open(self) -> None:
        """Raises ServerError."""
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(lambda: _Connection(self), self._host, self._port, backlog=4096)
        except OSError as error:
            raise ServerError(
                f"backend {self.backend.name}: cannot listen on {self._host}:{self._port}: {error.strerror or error}"
            ) from error
        self._port = int(self._server.sockets[0].getsockname()[1])

    async def aclose(self) -> None:
        if self._reopening is not None:
            self._reopening.cancel()
            await asyncio.gather(self._reopening, return_exceptions=True)
        self._shut()
        async with asyncio.timeout(CLOSE_SIGNAL_S):
            while self.connections:  # noqa: ASYNC110 (their sockets close within a turn of the loop or two)
                await asyncio.sleep(0)

    def _shut(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for connection in list(self.connections):
            connection.abort()

    def _dead(self, dead: bool) -> None:
        if dead:
            self._shut()
        else:
            self._reopening = asyncio.get_running_loop().create_task(self.open())


class FleetServer:
    """All of a fleet's backends, opened and closed together."""

    def __init__(self, servers: Iterable[BackendServer]) -> None:
        self.servers = list(servers)

    async def __aenter__(self) -> FleetServer:
        """Raises ServerError; then none is left open."""
        try:
            for server in self.servers:
                await server.open()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        for server in self.servers:
            await server.aclose()
