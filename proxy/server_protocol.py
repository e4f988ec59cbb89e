"""uvicorn's HTTP protocol, opened to the hot routes: a whole answer in one write, and a word when the client leaves.

uvicorn writes an answer's head and its body apart, and uvloop sends each at once: two system calls and two packets for
every small answer, where a socket write costs more than parsing the request does. And ASGI tells a disconnect only to
who waits for it: a task per request. So the hot routes get their client as an object, through ASGI's extensions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from proxy.upstream.connection import Headers

EXTENSION = "paretoproxy.client"
MAX_PIPELINED = 16


class DrainableState(ServerState):
    """`draining`: every answer from here on is its connection's last one."""

    draining = False


class Client:
    """The client of one request. `started`: some of the answer has been sent; `cut`: the proxy ends and cannot wait."""

    __slots__ = ("_cycle", "_protocol", "cut", "started")

    def __init__(self, protocol: ServerProtocol) -> None:
        self._protocol = protocol
        self._cycle: RequestResponseCycle | None = None
        self.started = False
        self.cut = False

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._protocol.loop

    @property
    def body_is_here(self) -> bool:
        """The whole request body has arrived."""
        return self._cycle is not None and not self._cycle.more_body

    def begin(self, cycle: RequestResponseCycle) -> None:
        """By the protocol, once the head is read."""
        self._cycle = cycle

    def end(self) -> None:
        """The request is over: uvicorn's side knows us, so let go of it, and no cycle is left for the collector."""
        cycle, self._cycle = self._cycle, None
        if cycle is not None and self._protocol.lost:  # uvicorn tells only the newest of pipelined requests
            cycle.disconnected = True

    async def receive(self) -> dict[str, Any]:
        """ASGI's receive: the request's body, piece by piece."""
        cycle = self._cycle
        assert cycle is not None
        if cycle.more_body or cycle.waiting_for_100_continue or cycle.disconnected:
            message: dict[str, Any] = await cycle.receive()  # type: ignore[assignment]
            return message
        body, cycle.body = bytes(cycle.body), bytearray()  # it came with the head: nothing to wait for
        cycle.message_event.clear()
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: dict[str, Any]) -> None:
        """ASGI's send, with its back-pressure."""
        assert self._cycle is not None
        self.started = True
        await self._cycle.send(message)  # type: ignore[arg-type]

    async def send_whole(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole answer; `headers` without content-length. Raises ValueError for a header that breaks its line."""
        cycle = self._cycle
        assert cycle is not None
        # Rare: let uvicorn wait, close, or keep the body back.
        if cycle.flow.write_paused or not cycle.keep_alive or cycle.scope["method"] == "HEAD":
            length = (b"content-length", b"%d" % len(body))
            await self.send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
            await self.send({"type": "http.response.body", "body": body})
            return
        if cycle.disconnected or self._protocol.lost:
            return
        self.started = True
        lines = [b"%b: %b\r\n" % line for line in headers]
        head = b"%b%bcontent-length: %d\r\n\r\n" % (STATUS_LINE[status], b"".join(lines), len(body))
        if not head.count(b"\n") == head.count(b"\r") == len(lines) + 3:
            raise ValueError("a response header holds a line break")
        cycle.response_started = cycle.response_complete = True
        cycle.transport.write(head + body)
        cycle.message_event.set()
        cycle.on_response()

    def watch(self, on_gone: Callable[[], object], on_cut: Callable[[], object] | None = None) -> Watch:
        """Context manager: calls `on_gone` once when the client leaves, at once if it has left. `on_cut`: when the
        proxy has to end before the answer does, by default the same, with `cut` set."""
        return Watch(self, self._protocol, on_gone, on_cut)


class Watch:
    """`gone`: the client has left, or has to be left."""

    __slots__ = ("_client", "_on_cut", "_on_gone", "_protocol", "gone")

    def __init__(
        self,
        client: Client,
        protocol: ServerProtocol,
        on_gone: Callable[[], object],
        on_cut: Callable[[], object] | None,
    ) -> None:
        self._client = client
        self._protocol = protocol
        self._on_gone = on_gone
        self._on_cut = on_cut
        self.gone = False

    def __enter__(self) -> Self:
        if self._protocol.lost:
            self.tell()
        else:
            self._protocol.watches.add(self)
            self._protocol.flow.resume_reading()  # a large body stops it, and with it the news that the client leaves
            if self._protocol.cutting:
                self.cut()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._protocol.watches.discard(self)

    def tell(self) -> None:
        """By the protocol, when the connection is lost."""
        self.gone = True
        self._on_gone()

    def cut(self) -> None:
        """By the protocol, when the proxy ends."""
        self._client.cut = True
        if self._on_cut is not None:
            self._on_cut()
        else:
            self.tell()


class ServerProtocol(HttpToolsProtocol):
    """Give it to uvicorn as `http`. `watches`: of the requests under way on this connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.watches: set[Watch] = set()
        self.lost = self.cutting = False
        self._idle_since: float | None = None

    def answer_last(self) -> None:
        """What is being answered is the last on this connection; an idle one stays open for one more."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """By the server, which lets nobody in any more: close when idle, else after the answer."""
        arriving = self.scope is not None and (self.cycle is None or self.cycle.scope is not self.scope)
        if not arriving:  # else its head is on the way; its answer will be the last
            super().shutdown()

    def cut(self) -> None:
        """By the server, when what runs must end."""
        self.cutting = True
        for watch in list(self.watches):
            watch.cut()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {EXTENSION: Client(self)}  # type: ignore[dict-item]

    def on_headers_complete(self) -> None:
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before:  # else it was an upgrade
            client: Client = self.scope["extensions"][EXTENSION]  # type: ignore[assignment]
            client.begin(self.cycle)
            if getattr(self.server_state, "draining", False):
                self.cycle.keep_alive = False
        if 0 < len(self.pipeline) <= MAX_PIPELINED:
            # uvicorn stops reading once a request waits for the one before it, and would not see the client leave.
            self.flow.resume_reading()

    # One keep-alive timer a connection, which looks when the last answer was, instead of one made and cancelled with
    # every request. uvicorn arms it after each answer and disarms it with each request through these two.

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since = None

    def on_response_complete(self) -> None:
        timer, next_waits = self.timeout_keep_alive_task, bool(self.pipeline)
        if timer is None or next_waits or self.transport.is_closing():
            super().on_response_complete()
        else:
            self.server_state.total_requests += 1
            self.flow.resume_reading()
        self._idle_since = None if next_waits else self.loop.time()

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        if self._idle_since is None:  # a request is being handled; its answer arms the timer again
            return
        left_s = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left_s > 0:
            self.timeout_keep_alive_task = self.loop.call_later(left_s, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.lost = True
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        for watch in list(self.watches):
            watch.tell()
