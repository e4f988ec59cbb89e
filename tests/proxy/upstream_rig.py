"""What the tests of the upstream client share: a sink that records, and a rig that proves that nothing is left over."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from raw_server import STEP_TIMEOUT_S, RawServer, Script, turns

from proxy.upstream.connection import Exchange, Headers
from proxy.upstream.errors import UpstreamError
from proxy.upstream.pool import Limits, Origin, Pool

REQUEST = b"POST /v1/completions HTTP/1.1\r\nhost: test\r\ncontent-length: 2\r\n\r\n{}"


def response(body: bytes, *lines: bytes, status: bytes = b"200 OK") -> bytes:
    """A whole response with a content-length."""
    head = [b"HTTP/1.1 " + status, *lines, b"content-length: %d" % len(body)]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def chunked(*chunks: bytes) -> bytes:
    """A whole chunked response."""
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


class Recorder:
    """A sink that keeps what it hears. `calls`: the names of the calls, runs of `body` as one."""

    def __init__(self, on_call: Callable[[str], None] | None = None) -> None:
        self.calls: list[str] = []
        self.status = 0
        self.headers: Headers = []
        self.body = bytearray()
        self.error: UpstreamError | None = None
        self.exchange: Exchange | None = None
        self._on_call = on_call
        self._heard = asyncio.Event()

    def on_head(self, status: int, headers: Headers) -> None:
        self.status, self.headers = status, headers
        self._note("head")

    def on_body(self, data: bytes) -> None:
        self.body += data
        self._note("body")

    def on_end(self) -> None:
        self._note("end")

    def on_error(self, error: UpstreamError) -> None:
        self.error = error
        self._note("error")

    async def over(self) -> Recorder:
        """After the end or the error."""
        return await self.until(lambda: self.calls[-1:] in (["end"], ["error"]))

    async def until(self, reached: Callable[[], bool]) -> Recorder:
        """After the call that makes `reached` true."""
        async with asyncio.timeout(STEP_TIMEOUT_S):
            while not reached():
                self._heard.clear()
                await self._heard.wait()
        return self

    def _note(self, call: str) -> None:
        if not (call == "body" and self.calls[-1:] == ["body"]):
            self.calls.append(call)
        self._heard.set()
        if self._on_call is not None:
            self._on_call(call)


def send(pool: Pool, on_call: Callable[[str], None] | None = None, request: bytes = REQUEST) -> Recorder:
    """Start a request whose answer is recorded."""
    recorder = Recorder(on_call)
    recorder.exchange = pool.send(request, recorder)
    return recorder


class Rig:
    """Makes servers and pools, and on `close` proves that no connection, socket or task outlives its pool."""

    def __init__(self) -> None:
        self._pools: list[Pool] = []
        self._servers: list[RawServer] = []

    async def serve(self, script: Script, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> RawServer:
        server = RawServer(script, host, tls)
        await server.start()
        self._servers.append(server)
        return server

    def pool(self, url: str, limits: Limits | None = None, tls: ssl.SSLContext | None = None) -> Pool:
        pool = Pool(Origin.parse(url), limits, tls)
        self._pools.append(pool)
        return pool

    async def client(self, script: Script, limits: Limits | None = None) -> tuple[RawServer, Pool]:
        """A server that runs `script` for each connection, and a pool that connects to it."""
        server = await self.serve(script)
        return server, self.pool(server.url, limits)

    async def close(self) -> None:
        for pool in self._pools:
            async with asyncio.timeout(STEP_TIMEOUT_S):
                await pool.aclose()
            assert pool.open_connections == 0 and pool.busy_connections == 0
        for server in self._servers:
            await server.stop()
        await turns(3)
        assert asyncio.all_tasks() == {asyncio.current_task()}
