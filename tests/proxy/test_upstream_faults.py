"""What a backend can do wrong, and that each fault ends its exchange exactly once, as the right error."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator

import pytest
from raw_server import Peer, Script, eventually, turns
from upstream_rig import REQUEST, Recorder, Rig, chunked, response, send

from proxy.upstream.errors import ConnectFailed, ConnectionLost, ReadTimeout, SinkFailed
from proxy.upstream.pool import Limits

QUICK_TO_GIVE_UP = Limits(connect_timeout_s=0.05, read_timeout_s=0.05, sweep_every_s=0.01)


# -- a connection that went stale --


def _stale_after_one_answer(end: str) -> Script:
    """The first connection answers once, then ends on its second request as if it had been closed just before."""

    async def script(peer: Peer) -> None:
        await peer.answer(response(b"%d" % peer.number))
        if peer.number == 0:
            await peer.request()
            getattr(peer, end)()
        else:
            await peer.stay()

    return script


@pytest.mark.parametrize("end", ["close", "reset"])
async def test_a_stale_connection_costs_a_resend_not_an_error(rig: Rig, end: str) -> None:
    server, pool = await rig.client(_stale_after_one_answer(end))
    assert (await send(pool).over()).body == b"0"
    again = await send(pool).over()
    assert (again.calls, bytes(again.body)) == (["head", "body", "end"], b"1")
    assert (server.accepted, pool.open_connections) == (2, 1)


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("n_turns", range(6))
async def test_a_stale_connection_is_survived_however_soon_the_next_request_comes(
    rig: Rig, end: str, n_turns: int
) -> None:
    """Between the peer's close and the loop's word of it a transport is closing, and uvloop's then refuses calls."""

    async def script(peer: Peer) -> None:
        await peer.answer(response(b"%d" % peer.number))
        if peer.number == 1:
            await peer.stay()
        closing.set()
        getattr(peer, end)()

    closing = asyncio.Event()
    _, pool = await rig.client(script)
    assert (await send(pool).over()).body == b"0"
    await closing.wait()
    await turns(n_turns)
    assert (await send(pool).over()).body == b"1"


async def test_a_resend_comes_before_those_who_wait(rig: Rig) -> None:
    async def script(peer: Peer) -> None:
        if peer.number == 0:
            await peer.answer(response(b""))
            await peer.request()
        else:
            while True:
                order.append((await peer.answer(response(b"")))[-2:])

    order: list[bytes] = []
    _, pool = await rig.client(script, Limits(max_connections=1))
    await send(pool).over()
    requests = [REQUEST.replace(b"{}", b"%02d" % n) for n in range(3)]
    for recorder in [send(pool, request=request) for request in requests]:
        assert (await recorder.over()).error is None
    assert order == [b"00", b"01", b"02"]


async def test_a_request_is_sent_again_once_only(rig: Rig) -> None:
    async def script(peer: Peer) -> None:
        if peer.number == 0:
            await peer.answer(response(b"hello"))
        await peer.request()

    server, pool = await rig.client(script)
    await send(pool).over()
    failed = await send(pool).over()
    assert failed.calls == ["error"] and isinstance(failed.error, ConnectionLost) and failed.error.sent_nothing_back
    assert server.accepted == 2


@pytest.mark.parametrize("first_bytes", [b"H", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\n"])
async def test_no_request_is_sent_again_once_bytes_came_back(rig: Rig, first_bytes: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(response(b"hello"))
        await peer.answer(first_bytes)

    server, pool = await rig.client(script)
    await send(pool).over()
    failed = await send(pool).over()
    assert failed.calls == ["error"] and isinstance(failed.error, ConnectionLost) and not failed.error.sent_nothing_back
    assert server.accepted == 1


async def test_no_request_is_sent_again_where_the_close_came_too_late_to_be_staleness(rig: Rig) -> None:
    """A request that took its backend down must not be given to the next."""
    server, pool = await rig.client(_stale_after_one_answer("close"), Limits(stale_within_s=0.0))
    await send(pool).over()
    assert isinstance((await send(pool).over()).error, ConnectionLost)
    assert server.accepted == 1


async def test_a_new_connection_that_closes_unanswered_is_an_error(rig: Rig) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()

    server, pool = await rig.client(script)
    failed = await send(pool).over()
    assert failed.calls == ["error"] and isinstance(failed.error, ConnectionLost) and failed.error.sent_nothing_back
    assert server.accepted == 1


# -- an answer that breaks off --


@pytest.mark.parametrize(
    "part",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello",
        chunked(b"hello").removesuffix(b"0\r\n\r\n"),
        chunked(b"hello").removesuffix(b"\r\n0\r\n\r\n"),
        chunked(b"hello").removesuffix(b"\r\n"),
    ],
    ids=["content-length", "between chunks", "within a chunk", "in the last chunk"],
)
@pytest.mark.parametrize("end", ["close", "half close", "reset"])
async def test_a_body_that_breaks_off_is_an_error_after_what_had_come(rig: Rig, part: bytes, end: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(part)
        await got_part.wait()
        if end == "half close":
            peer.writer.write_eof()
            await peer.stay()
        elif end == "reset":
            peer.reset()

    got_part = asyncio.Event()
    _, pool = await rig.client(script)
    recorder = send(pool, lambda call: got_part.set() if call == "body" else None)
    await recorder.over()
    assert (recorder.calls, bytes(recorder.body)) == (["head", "body", "error"], b"hello")
    assert isinstance(recorder.error, ConnectionLost) and not recorder.error.sent_nothing_back
    assert pool.open_connections == 0


async def test_a_reset_does_not_pass_for_the_end_of_an_answer_without_length(rig: Rig) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(b"HTTP/1.1 200 OK\r\n\r\nhello")
        await got_part.wait()
        peer.reset()

    got_part = asyncio.Event()
    _, pool = await rig.client(script)
    recorder = await send(pool, lambda call: got_part.set() if call == "body" else None).over()
    assert recorder.calls == ["head", "body", "error"] and isinstance(recorder.error, ConnectionLost)


async def test_a_peer_that_stops_writing_ends_a_request_it_never_reads(rig: Rig) -> None:
    """asyncio's own handling of a half-close would wait until the rest of the request was flushed: forever."""

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.writer.write_eof()
        await failed.wait()
        await peer.reader.read()

    failed = asyncio.Event()
    _, pool = await rig.client(script)
    head = b"POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 33554432\r\n\r\n"
    recorder = await send(pool, request=head + bytes(33554432)).over()
    assert isinstance(recorder.error, ConnectionLost)
    failed.set()


# -- no connection --


@pytest.fixture
def refusing_url() -> Iterator[str]:
    with socket.socket() as bound:  # bound but not listening: refused, and nobody else gets the port
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@pytest.fixture
def deaf_url() -> Iterator[str]:
    """A listener whose queue is full: the kernel drops further SYNs, and a connect neither succeeds nor fails."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        for filler in fillers:
            filler.close()


async def test_a_refused_connect_reaches_everyone_who_waits(rig: Rig, refusing_url: str) -> None:
    pool = rig.pool(refusing_url, Limits(max_connections=2))
    recorders = [send(pool) for _ in range(5)]
    assert all(recorder.calls == [] for recorder in recorders)  # nobody hears before `send` returns
    for recorder in recorders:
        await recorder.over()
        assert recorder.calls == ["error"] and isinstance(recorder.error, ConnectFailed)
        assert recorder.error.sent_nothing_back and "refused" in str(recorder.error).lower()


async def test_a_connect_that_never_ends_is_given_up(rig: Rig, deaf_url: str) -> None:
    recorder = await send(rig.pool(deaf_url, QUICK_TO_GIVE_UP)).over()
    assert recorder.calls == ["error"] and isinstance(recorder.error, ConnectFailed)
    assert "0.05 s" in str(recorder.error)


async def test_cancelling_a_connect_that_never_ends(rig: Rig, deaf_url: str) -> None:
    pool = rig.pool(deaf_url)
    recorder = send(pool)
    await turns(3)
    assert recorder.exchange is not None
    recorder.exchange.cancel()
    await pool.aclose()
    assert recorder.calls == []


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".test"])
async def test_a_name_that_cannot_be_a_host_is_a_failed_connect(rig: Rig, host: str) -> None:
    recorder = await send(rig.pool(f"http://{host}:1")).over()
    assert isinstance(recorder.error, ConnectFailed)


async def test_a_listener_that_closes_what_it_accepts(rig: Rig) -> None:
    async def script(peer: Peer) -> None:
        peer.reset()

    _, pool = await rig.client(script)
    recorder = await send(pool).over()
    assert recorder.calls == ["error"] and isinstance(recorder.error, ConnectFailed | ConnectionLost)
    assert recorder.error.sent_nothing_back and pool.open_connections == 0


# -- silence --


@pytest.mark.parametrize("part", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello"])
async def test_silence_ends_an_exchange(rig: Rig, part: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(part)
        await peer.stay()

    _, pool = await rig.client(script, QUICK_TO_GIVE_UP)
    recorder = await send(pool).over()
    assert recorder.calls[-1] == "error" and isinstance(recorder.error, ReadTimeout)
    assert recorder.error is not None and recorder.error.sent_nothing_back == (not part)
    assert pool.open_connections == 0


async def test_our_own_pause_is_not_the_backends_silence(rig: Rig) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(response(b"hello") if peer.number == 0 else b"")
        await peer.stay()

    _, pool = await rig.client(script, QUICK_TO_GIVE_UP)
    paused = send(pool)
    assert paused.exchange is not None
    paused.exchange.pause()
    silent = await send(pool).over()  # its time runs out while the paused one's does not
    assert isinstance(silent.error, ReadTimeout)
    assert paused.calls == []
    paused.exchange.resume()
    assert (await paused.over()).body == b"hello"


async def test_an_idle_connection_is_closed_before_the_backend_would(rig: Rig) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(response(b"hello"))
        await peer.stay()

    server, pool = await rig.client(script, Limits(keepalive_s=0.02, sweep_every_s=0.01))
    await send(pool).over()
    await (await server.peer(0)).stay()
    assert pool.open_connections == 0


# -- a sink that raises --


@pytest.mark.parametrize("call", ["head", "body", "end", "error"])
async def test_a_sink_that_raises_harms_nobody_else(rig: Rig, call: str, caplog: pytest.LogCaptureFixture) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(response(b"hello") if call != "error" or peer.number else b"nonsense\r\n")
        await peer.answer(response(b"next"))
        await peer.stay()

    def explode(name: str) -> None:
        if name == call:
            raise ZeroDivisionError("the sink's own fault")

    _, pool = await rig.client(script)
    with caplog.at_level(logging.ERROR, "proxy.upstream.connection"):
        recorder = await send(pool, explode).over()
    if call in ("head", "body"):
        assert recorder.calls[-1] == "error" and isinstance(recorder.error, SinkFailed)
        assert pool.open_connections == 0
    else:
        assert recorder.calls[-1] == call
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ZeroDivisionError]
    assert (await send(pool).over()).error is None


async def test_a_sink_that_raises_does_not_stop_the_sweep(rig: Rig) -> None:
    async def script(peer: Peer) -> None:
        await peer.stay()

    def explode(name: str) -> None:
        raise ZeroDivisionError

    _, pool = await rig.client(script, QUICK_TO_GIVE_UP)
    recorders: list[Recorder] = [send(pool, explode) for _ in range(3)]
    for recorder in recorders:
        assert isinstance((await recorder.over()).error, ReadTimeout)
    await eventually(lambda: pool.open_connections == 0)
