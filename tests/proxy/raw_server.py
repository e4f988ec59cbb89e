"""A scripted TCP server: a test says, byte by byte, what a backend does on each connection."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable

STEP_TIMEOUT_S = 5.0


async def turns(n: int) -> None:
    """Let the event loop go round: enough for what is under way on a local socket, without a clock."""
    for _ in range(n):
        await asyncio.sleep(0)


async def eventually(reached: Callable[[], bool]) -> None:
    """Raises TimeoutError."""
    async with asyncio.timeout(STEP_TIMEOUT_S):
        while not reached():
            await turns(1)


class Peer:
    """One accepted connection, seen from the server.

    `number` counts connections from 0; `gone` is set once the client has closed its side, cleanly or not, also while
    the script is busy writing.
    """

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = number
        self.reader = reader
        self.writer = writer
        self.gone = asyncio.Event()

    async def request(self) -> bytes:
        """One whole request with a content-length. Raises IncompleteReadError where the client closes first."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        return head + await self.reader.readexactly(int(length.partition(b":")[2]))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, data: bytes) -> bytes:
        request = await self.request()
        await self.send(data)
        return request

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """Ends with RST in place of FIN."""
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()

    async def stay(self) -> None:
        """Until the client closes."""
        await self.gone.wait()


Script = Callable[[Peer], Awaitable[None]]


class _PeerProtocol(asyncio.StreamReaderProtocol):
    """`StreamReaderProtocol` that notes the end at once; a reader would notice it only by reading."""

    peer: Peer | None = None

    def eof_received(self) -> bool | None:
        if self.peer is not None:
            self.peer.gone.set()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.peer is not None:
            self.peer.gone.set()
        super().connection_lost(exc)


class RawServer:
    """Runs `script(peer)` for every connection and closes the connection when the script returns."""

    def __init__(self, script: Script, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self.peers: list[Peer] = []
        self._script = script
        self._host = host
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def accepted(self) -> int:
        return len(self.peers)

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}"

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._protocol, self._host, 0, ssl=self._tls)

    async def peer(self, number: int) -> Peer:
        """The connection of that number, once there is one."""
        await eventually(lambda: len(self.peers) > number)
        return self.peers[number]

    async def stop(self) -> None:
        """Raises TimeoutError where a client has left a connection open."""
        assert self._server is not None
        self._server.close()
        try:
            async with asyncio.timeout(STEP_TIMEOUT_S):
                for peer in self.peers:
                    await peer.gone.wait()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for peer in self.peers:
                peer.writer.transport.abort()
            await turns(5)  # a transport closes in the turns after

    def _protocol(self) -> _PeerProtocol:
        reader = asyncio.StreamReader()
        protocol = _PeerProtocol(reader, lambda reader, writer: self._accept(protocol, reader, writer))
        return protocol

    def _accept(self, protocol: _PeerProtocol, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        protocol.peer = peer = Peer(len(self.peers), reader, writer)
        self.peers.append(peer)
        task = asyncio.get_running_loop().create_task(self._run(peer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, peer: Peer) -> None:
        with contextlib.suppress(
            asyncio.IncompleteReadError, ConnectionError
        ):  # the client left: for the test to judge
            await self._script(peer)
        peer.writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await peer.writer.wait_closed()
