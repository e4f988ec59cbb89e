"""The few ASGI moves of the hot routes: read a bounded body, send an error, stop when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from proxy.errors import BodyTooLarge, ClientGone, InvalidRequest, ProxyError
from proxy.server_protocol import Client
from proxy.upstream.connection import Headers

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Any]
Send = Callable[[Message], Any]
T = TypeVar("T")

JSON = (b"content-type", b"application/json")


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


async def send_error(client: Client, error: ProxyError, extra: Headers) -> None:
    await client.send_whole(error.http_status, [JSON, *error.headers(), *extra], error.body())


async def unless_gone(client: Client, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client leaves. Raises ClientGone and what `work` raises."""
    task = asyncio.get_running_loop().create_task(work)
    with client.watch(task.cancel) as watch:
        try:
            return await task
        except asyncio.CancelledError:
            task.cancel()
            if watch.gone:
                raise ClientGone from None
            raise
