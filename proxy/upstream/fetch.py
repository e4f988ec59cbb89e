"""One small request and its whole answer, over a backend's own pool: for probes and token counts."""

from __future__ import annotations

import asyncio

from proxy.upstream.connection import Headers
from proxy.upstream.errors import BadResponse, UpstreamError
from proxy.upstream.pool import Pool

MAX_BYTES = 8 * 1024 * 1024


class _Whole:
    """Sink that collects an answer into a future of (status, body)."""

    def __init__(self) -> None:
        self.done: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self._status = 0
        self._parts: list[bytes] = []
        self._size = 0

    def on_head(self, status: int, headers: Headers) -> None:
        self._status = status

    def on_body(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        if self._size > MAX_BYTES and not self.done.done():
            self.done.set_exception(BadResponse(f"the answer is over {MAX_BYTES} bytes"))

    def on_end(self) -> None:
        if not self.done.done():
            self.done.set_result((self._status, b"".join(self._parts)))

    def on_error(self, error: UpstreamError) -> None:
        if not self.done.done():
            self.done.set_exception(error)


async def fetch(pool: Pool, request: bytes, timeout_s: float) -> tuple[int, bytes]:
    """(status, body). Raises UpstreamError, TimeoutError."""
    sink = _Whole()
    exchange = pool.send(request, sink)
    try:
        async with asyncio.timeout(timeout_s):
            return await sink.done
    except TimeoutError:
        raise TimeoutError(f"no answer within {timeout_s:g} s") from None
    finally:
        exchange.cancel()
