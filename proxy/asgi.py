"""The few ASGI moves of the hot routes: read a bounded body, send an error, stop when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from proxy.errors import BodyTooLarge, ClientGone, ClientTimeout, InvalidRequest, ProxyError
from proxy.server_protocol import Client
from proxy.upstream.connection import Headers

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Any]
Send = Callable[[Message], Any]
T = TypeVar("T")

JSON = (b"content-type", b"application/json")
BODY_TIMEOUT_S = 60.0


async def read_body(headers: Headers, receive: Receive, limit_bytes: int, *, is_here: bool = False) -> bytes:
    """`is_here`: it came with the head, so that there is nothing to wait for.

    Raises BodyTooLarge (before reading, where content-length says so), InvalidRequest, ClientTimeout, ClientGone.
    """
    for name, value in headers:
        if name == b"content-length":
            if not value.isdigit():
                raise InvalidRequest("content-length is not a number")
            if int(value) > limit_bytes:
                raise BodyTooLarge(limit_bytes)
    if is_here:
        return await _read_parts(receive, limit_bytes)
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await _read_parts(receive, limit_bytes)
    except TimeoutError:
        raise ClientTimeout(BODY_TIMEOUT_S) from None


async def _read_parts(receive: Receive, limit_bytes: int) -> bytes:
    parts, size = list[bytes](), 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message.get("body", b"")
        size += len(part)
        if size > limit_bytes:
            raise BodyTooLarge(limit_bytes)
        if not message.get("more_body"):
            return b"".join([*parts, part]) if parts else part
        parts.append(part)


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
