"""A TCP proxy that breaks what it carries: between the proxy under test and a backend, on real sockets.

    faulty = FaultProxy(backend.port); await faulty.start()
    faulty.reset()                    # every connection that is open now, wherever it is in its answer
    async with faulty.stalled(): ...  # nothing passes meanwhile, old connections and new ones

A fault at a random point under load is one that is called at a random time.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

GARBAGE = b"\x00\xff\x17garbage \r\n\r\n\x7f" * 4
SLOW_PIECE, SLOW_PAUSE_S = 16, 0.02
CHUNK = 65536


class _Pair:
    """One carried connection. `lost`: bytes go in and nowhere, as towards a machine that has vanished."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self.near, self.far = near, far
        self.lost = False
        self.garbled = False

    def reset(self) -> None:
        for writer in (self.near, self.far):
            sock: socket.socket | None = writer.get_extra_info("socket")
            if sock is not None and sock.fileno() >= 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    def cut(self) -> None:
        """An orderly end towards the proxy, in the middle of whatever was being said."""
        self.near.close()
        self.far.transport.abort()


class FaultProxy:
    """Carries connections to `port` of this machine; `url` is where. `carried`: connections so far."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._port, self._host, self._listen_host = port, "127.0.0.1", host
        self._server: asyncio.Server | None = None
        self._own_port = 0
        self.pairs: set[_Pair] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._slow = False
        self.carried = 0

    @property
    def port(self) -> int:
        return self._own_port

    @property
    def url(self) -> str:
        return f"http://{self._listen_host}:{self._own_port}"

    @property
    def host(self) -> str:
        return self._listen_host

    def listen_on(self, port: int) -> None:
        """The port to take at `start`."""
        self._own_port = port

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, self._listen_host, self._own_port)
        self._own_port = int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        self._stop_listening()
        for pair in list(self.pairs):
            pair.reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- faults --

    def reset(self) -> None:
        for pair in list(self.pairs):
            pair.reset()

    def cut(self) -> None:
        for pair in list(self.pairs):
            pair.cut()

    def garble(self) -> None:
        """What comes next on every open connection is nonsense."""
        for pair in list(self.pairs):
            pair.garbled = True

    def lose(self) -> None:
        """Connections that are open are half-open from here on; new ones work."""
        for pair in list(self.pairs):
            pair.lost = True

    @asynccontextmanager
    async def killed(self) -> AsyncIterator[None]:
        self._stop_listening()
        self.reset()
        try:
            yield
        finally:
            await self.start()

    @asynccontextmanager
    async def stalled(self) -> AsyncIterator[None]:
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    @asynccontextmanager
    async def slow(self) -> AsyncIterator[None]:
        self._slow = True
        try:
            yield
        finally:
            self._slow = False

    # -- carrying --

    def _stop_listening(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()

    async def _accept(self, reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.carried += 1
        far: asyncio.StreamWriter | None = None
        pair: _Pair | None = None
        try:
            await self._open.wait()
            source, far = await asyncio.open_connection(self._host, self._port)
            pair = _Pair(near, far)
            self.pairs.add(pair)
            ways = [
                asyncio.ensure_future(self._pump(reader, far, pair, answers=False)),
                asyncio.ensure_future(self._pump(source, near, pair, answers=True)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, asyncio.CancelledError):  # asyncio's streams would log the latter, at `stop`
            pass
        finally:
            if pair is not None:
                self.pairs.discard(pair)
            for writer in (near, far):
                if writer is not None:
                    writer.close()

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, pair: _Pair, *, answers: bool
    ) -> None:
        """Until the source ends or breaks."""
        try:
            while data := await source.read(CHUNK):
                await self._open.wait()
                if pair.lost:
                    continue
                if pair.garbled and answers:
                    data = GARBAGE
                size = SLOW_PIECE if self._slow and answers else len(data)
                for at in range(0, len(data), size):
                    sink.write(data[at : at + size])
                    await sink.drain()
                    if self._slow:
                        await asyncio.sleep(SLOW_PAUSE_S)
        except (ConnectionError, OSError):
            return
