"""Cancelling, waiting in line, and closing: whatever ends a request gives its place back and leaves nothing behind."""

from __future__ import annotations

import asyncio

import pytest
from raw_server import Peer, eventually, turns
from upstream_rig import REQUEST, Recorder, Rig, response, send

from proxy.upstream.errors import PoolClosed
from proxy.upstream.pool import Limits

ONE_AT_A_TIME = Limits(max_connections=1)


async def _hold(peer: Peer) -> None:
    """Begins an answer and never ends it."""
    await peer.answer(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart")
    await peer.stay()


async def _echo(peer: Peer) -> None:
    while True:
        request = await peer.request()
        await peer.send(response(request[-2:]))


def _cancel(recorder: Recorder) -> None:
    assert recorder.exchange is not None
    recorder.exchange.cancel()


def _numbered(n: int) -> bytes:
    return REQUEST.replace(b"{}", b"%02d" % n)


# -- cancel --


async def test_cancel_mid_body_closes_the_connection_at_once(rig: Rig) -> None:
    server, pool = await rig.client(_hold)
    recorder = send(pool)
    await recorder.until(lambda: recorder.calls == ["head", "body"])
    _cancel(recorder)
    assert pool.open_connections == 0
    await turns(10)  # docs/contracts.md allows 100 ms; counted in turns of the loop, a busy machine cannot fail this
    assert server.peers[0].gone.is_set()
    assert recorder.calls == ["head", "body"]


async def test_cancel_while_the_request_is_still_being_written(rig: Rig) -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        begun.set()
        await cancelled.wait()
        received.append(len(await peer.reader.read()))

    begun, cancelled = asyncio.Event(), asyncio.Event()
    received: list[int] = []
    server, pool = await rig.client(script)
    recorder = send(pool, request=b"POST / HTTP/1.1\r\ncontent-length: 33554432\r\n\r\n" + bytes(33554432))
    await begun.wait()
    _cancel(recorder)
    cancelled.set()
    await server.peers[0].stay()
    await eventually(lambda: bool(received))
    assert received[0] < 33554432 and recorder.calls == []


@pytest.mark.parametrize("call", ["head", "body"])
async def test_cancel_from_inside_the_sink(rig: Rig, call: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(response(b"whole"))
        await peer.stay()

    server, pool = await rig.client(script)
    recorder = send(pool, lambda name: _cancel(recorder) if name == call else None)
    await (await server.peer(0)).stay()
    assert recorder.calls[-1] == call and pool.open_connections == 0


async def test_cancel_after_the_end_leaves_the_connection_alone(rig: Rig) -> None:
    server, pool = await rig.client(_echo)
    first = await send(pool).over()
    second = send(pool)  # runs on the first one's connection
    _cancel(first)
    _cancel(first)
    assert (await second.over()).error is None
    assert server.accepted == 1


async def test_pausing_after_the_end_leaves_the_connection_alone(rig: Rig) -> None:
    server, pool = await rig.client(_echo)
    first = await send(pool).over()
    second = send(pool)
    assert first.exchange is not None and second.exchange is not None
    first.exchange.pause()
    assert (await second.over()).error is None
    third = send(pool)
    assert third.exchange is not None
    third.exchange.pause()
    first.exchange.resume()
    await turns(20)
    assert third.calls == []
    third.exchange.resume()
    assert (await third.over()).error is None
    assert server.accepted == 1


@pytest.mark.parametrize("n_turns", [0, 1, 2])
async def test_a_connect_whose_request_was_cancelled_serves_the_next(rig: Rig, n_turns: int) -> None:
    server, pool = await rig.client(_echo)
    recorder = send(pool)
    await turns(n_turns)
    _cancel(recorder)
    await eventually(lambda: pool.open_connections == 1)
    assert pool.busy_connections == 0
    assert (await send(pool).over()).error is None
    assert (server.accepted, recorder.calls) == (1, [])


async def test_cancel_gives_the_place_to_the_next_in_line(rig: Rig) -> None:
    async def script(peer: Peer) -> None:
        await (_hold(peer) if peer.number == 0 else _echo(peer))

    server, pool = await rig.client(script, ONE_AT_A_TIME)
    running = send(pool)
    waiting = [send(pool, request=_numbered(n)) for n in range(3)]
    await running.until(lambda: "body" in running.calls)
    _cancel(waiting[1])
    _cancel(running)
    assert (await waiting[0].over()).body == b"00"
    assert (await waiting[2].over()).body == b"02"
    assert waiting[1].calls == [] and server.accepted == 2


async def test_cancelling_a_connect_serves_those_in_line(rig: Rig) -> None:
    server, pool = await rig.client(_echo, ONE_AT_A_TIME)
    connecting, waiting = send(pool), send(pool)
    _cancel(connecting)
    assert (await waiting.over()).error is None
    assert (server.accepted, connecting.calls) == (1, [])


# -- waiting in line --


async def test_requests_over_the_limit_are_served_in_order_of_arrival(rig: Rig) -> None:
    async def script(peer: Peer) -> None:
        while True:
            order.append((await peer.answer(response(b"")))[-2:])

    order: list[bytes] = []
    server, pool = await rig.client(script, ONE_AT_A_TIME)
    for recorder in [send(pool, request=_numbered(n)) for n in range(20)]:
        assert (await recorder.over()).error is None
    assert order == [b"%02d" % n for n in range(20)]
    assert server.accepted == 1


async def test_there_are_never_more_connections_than_the_limit(rig: Rig) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(response(b"", b"connection: close"))

    server, pool = await rig.client(script, Limits(max_connections=3))
    most = 0

    def watch(call: str) -> None:
        nonlocal most
        most = max(most, pool.open_connections)

    recorders = [send(pool, watch) for _ in range(30)]
    for recorder in recorders:
        assert (await recorder.over()).error is None
    assert (most, server.accepted) == (3, 30)


async def test_a_newcomer_does_not_overtake_those_in_line(rig: Rig) -> None:
    """A connect that fails frees a place while others wait: the next to arrive must not take it."""

    async def script(peer: Peer) -> None:
        while True:
            order.append((await peer.answer(response(b"", b"connection: close")))[-2:])

    order: list[bytes] = []
    _, pool = await rig.client(script, ONE_AT_A_TIME)
    recorders = [send(pool, request=_numbered(n)) for n in range(3)]
    await recorders[0].until(lambda: "head" in recorders[0].calls)
    recorders.append(send(pool, request=_numbered(3)))
    for recorder in recorders:
        await recorder.over()
    assert order == [b"00", b"01", b"02", b"03"]


# -- closing --


@pytest.mark.parametrize("n_turns", [0, 1, 2, 3])
async def test_closing_tells_every_request_once(rig: Rig, n_turns: int) -> None:
    server, pool = await rig.client(_hold, Limits(max_connections=3))
    running = [send(pool), send(pool)]
    for recorder in running:
        await recorder.until(lambda recorder=recorder: "body" in recorder.calls)  # type: ignore[misc]
    connecting, waiting = send(pool), send(pool)
    await turns(n_turns)  # with none, the connect's task is cancelled before its first step
    cancelled = send(pool)
    _cancel(cancelled)
    await pool.aclose()
    for recorder in [*running, connecting, waiting]:
        assert recorder.calls.count("error") == 1 and isinstance(recorder.error, PoolClosed)
    assert cancelled.calls == []
    assert (pool.open_connections, pool.busy_connections) == (0, 0)
    for peer in server.peers:
        await peer.stay()


async def test_closing_twice_and_while_closing(rig: Rig) -> None:
    _, pool = await rig.client(_hold)
    recorder = send(pool)
    await asyncio.gather(pool.aclose(), pool.aclose())
    await pool.aclose()
    assert recorder.calls == ["error"]


async def test_a_closed_pool_takes_no_request(rig: Rig) -> None:
    server, pool = await rig.client(_echo)
    await pool.aclose()
    recorder = send(pool)
    assert recorder.calls == []  # `send` returns first
    assert isinstance((await recorder.over()).error, PoolClosed)
    cancelled = send(pool)
    _cancel(cancelled)
    await turns(3)
    assert (cancelled.calls, server.accepted) == ([], 0)


async def test_a_request_sent_from_inside_an_error_while_closing(rig: Rig) -> None:
    """What a retry does."""
    server, pool = await rig.client(_hold)
    retries: list[Recorder] = []
    recorder = send(pool, lambda call: retries.append(send(pool)) if call == "error" else None)
    await recorder.until(lambda: "body" in recorder.calls)
    await pool.aclose()
    assert isinstance((await retries[0].over()).error, PoolClosed)
    assert server.accepted == 1
