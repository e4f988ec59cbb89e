"""A TCP relay in front of an engine that cuts one generation in the middle of its answer, when told to."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from types import TracebackType


class CuttingRelay:
    """Listens on a port of its own, in a thread with its own loop. `cut_next` cuts the next chat completion after its
    first bytes; `cuts`: how many were."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay", daemon=True)
        self._armed = False
        self.cuts = 0
        self.port = 0

    def cut_next(self) -> None:
        self._armed = True

    def __enter__(self) -> CuttingRelay:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _listen(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(*self._target)
        doomed = asyncio.Event()

        async def forth() -> None:
            while data := await reader.read(65536):
                if self._armed and data.startswith(b"POST /v1/chat/completions"):
                    self._armed = False
                    doomed.set()
                there_writer.write(data)
                await there_writer.drain()

        async def back() -> None:
            while data := await there_reader.read(65536):
                writer.write(data)
                await writer.drain()
                if doomed.is_set():
                    self.cuts += 1
                    return

        ways = [asyncio.create_task(forth()), asyncio.create_task(back())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for end in (writer, there_writer):
                with contextlib.suppress(Exception):
                    end.transport.abort()
