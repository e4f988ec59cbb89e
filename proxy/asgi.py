"""The few ASGI moves of the hot routes: read a bounded body, send a whole answer, notice that the client left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from proxy.errors import BodyTooLarge, ClientGone, InvalidRequest, ProxyError
from proxy.upstream.connection import Headers

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Any]
Send = Callable[[Message], Any]
T = TypeVar("T")

JSON = (b"content-type", b"application/json")
WATCH_AFTER_S = 0.02  # an answer within this time needs no watcher; leaves 80 ms to notice a client that left


async def read_body(headers: Headers, receive: Receive, limit_bytes: int) -> bytes:
    """Raises BodyTooLarge (before reading, where content-length says so), InvalidRequest, ClientGone."""
    for name, value in headers:
        if name == b"content-length":
            if not value.isdigit():
                raise InvalidRequest("content-length is not a number")
            if int(value) > limit_bytes:
                raise BodyTooLarge(limit_bytes)
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    if not message.get("more_body"):
        body: bytes = message.get("body", b"")
        if len(body) > limit_bytes:
            raise BodyTooLarge(limit_bytes)
        return body
    parts, size = [message.get("body", b"")], len(message.get("body", b""))
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit_bytes:
            raise BodyTooLarge(limit_bytes)
    return b"".join(parts)


async def send_whole(send: Send, status: int, headers: Headers, body: bytes) -> None:
    all_headers = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": all_headers})
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, error: ProxyError, extra: Headers) -> None:
    await send_whole(send, error.http_status, [JSON, *error.headers(), *extra], error.body())


class DisconnectWatch:
    """Calls `on_gone` when the client leaves. Starts listening a little late: most quick answers never need the
    task."""

    def __init__(self, receive: Receive, on_gone: Callable[[], object]) -> None:
        self._receive = receive
        self._on_gone = on_gone
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.gone = False

    def __enter__(self) -> DisconnectWatch:
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._start)
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._listen())

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        self._on_gone()


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client leaves. Raises ClientGone and what `work` raises."""
    task = asyncio.get_running_loop().create_task(work)
    with DisconnectWatch(receive, task.cancel) as watch:
        try:
            return await task
        except asyncio.CancelledError:
            task.cancel()
            if watch.gone:
                raise ClientGone from None
            raise
