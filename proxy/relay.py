"""Pass-through: a backend's answer relayed byte for byte, streamed or not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.backend import Backend
from proxy.errors import ClientGone, ShuttingDown
from proxy.server_protocol import Client
from proxy.sse import DONE, event
from proxy.upstream.connection import Exchange, Headers
from proxy.upstream.errors import UpstreamError
from proxy.upstream.request import returned_headers

PAUSE_AT_BYTES = 256 * 1024
KEEP_FOR_USAGE_BYTES = 64 * 1024
KEEP_OF_STREAM_BYTES = 2 * 1024  # the last event or two; more would be copied with every chunk


class RelaySink:
    """Holds what has arrived and was not yet taken; pauses the backend when the client is slow.

    `late`: to be set back by who waits. `tail`: the last bytes of the body, where the usage stands; `events`: how many
    SSE events went by; `first_at`: when the client was given the first of it, on the proxy's clock.
    """

    # Class-level defaults: one of these is made per request, and most never change most of them.
    status = 0
    headers: Headers
    ended = False
    error: UpstreamError | None = None
    exchange: Exchange | None = None
    tail = b""
    events = 0
    gone = False
    first_at: float | None = None
    late = False
    _held = 0
    _paused = False
    _waiter: asyncio.Future[None] | None = None

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop  # `asyncio.get_running_loop` asks the kernel for our process id each time
        self._chunks: list[bytes] = []

    def on_head(self, status: int, headers: Headers) -> None:
        self.status, self.headers = status, headers
        self._wake()

    def on_body(self, data: bytes) -> None:
        self._chunks.append(data)
        self._held += len(data)
        if self._held > PAUSE_AT_BYTES and not self._paused and self.exchange is not None:
            self._paused = True
            self.exchange.pause()
        self._wake()

    def on_end(self) -> None:
        self.ended = True
        self._wake()

    def on_error(self, error: UpstreamError) -> None:
        self.error = error
        self._wake()

    def client_gone(self) -> None:
        self.gone = True
        if self.exchange is not None:
            self.exchange.cancel()
        self._wake()

    async def wait(self) -> None:
        """Until bytes, the end, an error, the client's leaving, or that it is late (`late`, for `tell_late`)."""
        while not (self._chunks or self.ended or self.error or self.gone or self.late):
            self._waiter = self._loop.create_future()
            await self._waiter

    @property
    def begun(self) -> bool:
        """Something of the answer is here."""
        return bool(self._chunks) or self.ended

    def tell_late(self) -> None:
        """End the wait for the first byte, though none has come."""
        self.late = True
        self._wake()

    def take(self) -> bytes:
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._held = 0
        if self._paused and self.exchange is not None:
            self._paused = False
            self.exchange.resume()
        if self.ended and not self.tail and len(data) < KEEP_FOR_USAGE_BYTES:  # an answer in one piece
            self.tail = data
            if data.startswith((b"data: ", b":")):
                self.events = data.count(b"data: ")
            return data
        self.events += data.count(b"data: ")
        keep = KEEP_OF_STREAM_BYTES if self.events else KEEP_FOR_USAGE_BYTES
        self.tail = data[-keep:] if len(data) >= keep or not self.tail else (self.tail + data)[-keep:]
        return data

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class CutShort(Exception):
    """The backend failed after the client got bytes: the connection must be broken so that the client knows."""

    def __init__(self, cause: str, kind: str) -> None:
        super().__init__(cause)
        self.kind = kind


class _WithoutKey:
    """Bytes for the client with the backend's API key, should it echo that, masked. An error is held back by as many
    bytes as a key that two pieces share could have."""

    def __init__(self, backend: Backend, status: int) -> None:
        self._backend = backend
        self._hold = len(backend.api_key or "") - 1 if status >= 400 else 0
        self._rest = b""

    def __call__(self, data: bytes, ended: bool) -> bytes:
        if self._hold > 0:
            data = self._backend.without_key(self._rest + data)
            cut = len(data) if ended else max(0, len(data) - self._hold)
            data, self._rest = data[:cut], data[cut:]
            return data
        return self._backend.without_key(data)


async def relay(backend: Backend, sink: RelaySink, client: Client, extra: Headers, clock: Callable[[], float]) -> None:
    """What `sink` holds of the backend's answer and what comes after it, to the client. Raises CutShort, ClientGone."""
    whole, without_key = sink.ended, None
    ours = {name for name, _ in extra}
    if whole:
        ours.add(b"content-length")
    headers = [line for line in returned_headers(sink.headers) if line[0] not in ours]
    headers += extra
    if backend.api_key is not None:
        without_key = _WithoutKey(backend, sink.status)
        headers = [(backend.without_key(name), backend.without_key(value)) for name, value in headers]
    if whole:
        sink.first_at = clock()
        data = sink.take()
        await client.send_whole(sink.status, headers, without_key(data, True) if without_key else data)
        return
    await client.send({"type": "http.response.start", "status": sink.status, "headers": headers})
    while True:
        data, ended = sink.take(), sink.ended
        if without_key is not None:
            data = without_key(data, ended)
        if sink.first_at is None and data:
            sink.first_at = clock()
        if data or ended:
            await client.send({"type": "http.response.body", "body": data, "more_body": not ended})
        if ended:
            return
        if sink.error is not None:
            raise CutShort(sink.error.safe, type(sink.error).__name__)
        await sink.wait()
        if sink.gone:
            if client.cut:
                await _end_cut(sink, client)
            raise ClientGone


async def _end_cut(sink: RelaySink, client: Client) -> None:
    """The proxy ends before a stream does: an error event in place of the rest, which OpenAI clients raise. An answer
    that is no event stream, or one within an event, just breaks."""
    if sink.events and sink.tail.endswith(b"\n\n"):
        body = event(ShuttingDown().body()) + event(DONE)
        await client.send({"type": "http.response.body", "body": body, "more_body": False})
