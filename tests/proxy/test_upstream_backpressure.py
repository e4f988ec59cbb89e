"""A client that reads slowly must stop the backend by TCP, not fill the proxy's memory."""

from __future__ import annotations

import asyncio

from raw_server import Peer, turns
from upstream_rig import Rig, response, send

from proxy.upstream.pool import Limits

MIB = 1024 * 1024
BODY_BYTES = 50 * MIB
ONE_SOCKET_READ = 256 * 1024


class Pusher:
    """Sends a large body as fast as the client takes it, and counts what it could hand to its own loop."""

    def __init__(self) -> None:
        self.sent = 0

    async def __call__(self, peer: Peer) -> None:
        await peer.answer(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % BODY_BYTES)
        piece = bytes(MIB)
        while self.sent < BODY_BYTES:
            await peer.send(piece)
            self.sent += MIB
        await peer.stay()

    async def blocked(self) -> int:
        """The bytes sent when for 100 turns of the loop nothing more was."""
        before = -1
        while self.sent != before:
            before = self.sent
            await turns(100)
        return self.sent


async def test_a_paused_exchange_stops_the_backend_and_resumes_whole(rig: Rig) -> None:
    pusher = Pusher()
    _, pool = await rig.client(pusher)
    recorder = send(pool)
    assert recorder.exchange is not None
    recorder.exchange.pause()  # before there is a connection
    assert await pusher.blocked() < BODY_BYTES // 2
    assert recorder.calls == []
    recorder.exchange.resume()
    await recorder.over()
    assert (len(recorder.body), recorder.error) == (BODY_BYTES, None)
    assert pool.open_connections == 1


async def test_a_pause_from_inside_the_sink_bounds_what_is_held(rig: Rig) -> None:
    pusher = Pusher()
    _, pool = await rig.client(pusher)

    def pause_once(call: str) -> None:
        if len(recorder.body) > MIB and not paused.is_set():
            paused.set()
            assert recorder.exchange is not None
            recorder.exchange.pause()

    paused = asyncio.Event()
    recorder = send(pool, pause_once)
    await paused.wait()
    assert await pusher.blocked() < BODY_BYTES // 2
    assert len(recorder.body) <= MIB + 2 * ONE_SOCKET_READ
    assert recorder.exchange is not None
    recorder.exchange.resume()
    assert len((await recorder.over()).body) == BODY_BYTES


async def test_a_paused_exchange_can_be_cancelled(rig: Rig) -> None:
    pusher = Pusher()
    server, pool = await rig.client(pusher)
    recorder = send(pool)
    assert recorder.exchange is not None
    recorder.exchange.pause()
    await pusher.blocked()
    recorder.exchange.cancel()
    await server.peers[0].stay()
    assert pool.open_connections == 0


async def test_a_connection_whose_answer_ended_while_paused_serves_the_next(rig: Rig) -> None:
    """The pause belongs to the exchange: the next one on the connection reads at once."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.answer(response(b"short"))

    server, pool = await rig.client(script, Limits(max_connections=1))

    def pause(call: str) -> None:
        if call == "body":
            assert first.exchange is not None
            first.exchange.pause()

    first = send(pool, pause)
    second = send(pool)
    await first.over()
    assert (await second.over()).body == b"short"
    assert server.accepted == 1
