"""A client without a connection: one call through the real handler, and what came back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec

from proxy.asgi import Scope
from proxy.handler import Handler, _BreakConnection
from proxy.server_protocol import EXTENSION, Client, ServerProtocol, Watch
from proxy.upstream.connection import Headers

CHAT = "/v1/chat/completions"


@dataclass(slots=True)
class Answer:
    """What a client has got so far; times by the loop's clock. `broken`: the connection broke, the answer is not
    whole; `left`: the client went away."""

    asked_at: float
    status: int = 0
    headers: Headers = field(default_factory=list)
    parts: list[bytes] = field(default_factory=list)
    first_byte_at: float | None = None
    ended_at: float | None = None
    broken: bool = False
    left: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.parts)

    @property
    def latency_s(self) -> float:
        """Until the last byte. Raises ValueError while there is none."""
        if self.ended_at is None:
            raise ValueError("the answer has not ended")
        return self.ended_at - self.asked_at

    def header(self, name: str) -> str | None:
        wanted = name.lower().encode()
        return next((value.decode("latin-1") for key, value in self.headers if key == wanted), None)

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class _NoFlow:
    def resume_reading(self) -> None:
        """There is no socket."""


class _Line:
    """What `Watch` knows of a connection."""

    def __init__(self) -> None:
        self.lost = self.cutting = False
        self.watches: set[Watch] = set()
        self.flow = _NoFlow()


class InProcessClient(Client):
    """Sends one request whole and takes bytes as fast as they come. `on_data`: is called with them."""

    __slots__ = ("_body", "_line", "_loop", "answer", "on_data")

    def __init__(self, body: bytes, loop: asyncio.AbstractEventLoop) -> None:
        self._line = _Line()
        super().__init__(cast(ServerProtocol, self._line))
        self._body, self._loop = body, loop
        self.answer = Answer(loop.time())
        self.on_data: Callable[[bytes], None] | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    @property
    def body_is_here(self) -> bool:
        return True

    async def receive(self) -> dict[str, Any]:
        if self._line.lost:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": self._body, "more_body": False}

    async def send(self, message: dict[str, Any]) -> None:
        self.started = True
        if self._line.lost:
            return
        if message["type"] == "http.response.start":
            self.answer.status, self.answer.headers = message["status"], list(message["headers"])
        elif message.get("body"):
            self._take(message["body"])

    async def send_whole(self, status: int, headers: Headers, body: bytes) -> None:
        self.started = True
        if not self._line.lost:
            self.answer.status, self.answer.headers = status, headers
            self._take(body)

    def _take(self, data: bytes) -> None:
        if self.answer.first_byte_at is None:
            self.answer.first_byte_at = self._loop.time()
        self.answer.parts.append(data)
        if self.on_data is not None:
            self.on_data(data)

    def leave(self) -> None:
        """Close the connection, whatever is under way."""
        self._line.lost = self.answer.left = True
        for watch in list(self._line.watches):
            watch.tell()

    def end(self) -> None:
        self.answer.ended_at = self._loop.time()


async def ask(
    handler: Handler,
    body: bytes | Mapping[str, Any],
    *,
    path: str = CHAT,
    headers: Mapping[str, str] | None = None,
    on_client: Callable[[InProcessClient], None] | None = None,
) -> Answer:
    """One POST through the handler. `on_client` gets the client before it asks, to make it leave, say."""
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    client = InProcessClient(data, asyncio.get_running_loop())
    if on_client is not None:
        on_client(client)
    lines = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in (headers or {}).items()]
    length = (b"content-length", b"%d" % len(data))
    scope: Scope = {"method": "POST", "path": path, "headers": [length, *lines], "extensions": {EXTENSION: client}}
    try:
        await handler(scope, client.receive, client.send)
    except _BreakConnection:
        client.answer.broken = True
    return client.answer
