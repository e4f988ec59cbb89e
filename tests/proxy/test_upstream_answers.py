"""How answers are framed, and when their connection carries the next request."""

from __future__ import annotations

import asyncio

import pytest
from raw_server import Peer, Script
from upstream_rig import REQUEST, Rig, chunked, response, send

from proxy.upstream.errors import BadResponse
from proxy.upstream.pool import Limits


def _always(answer: bytes) -> Script:
    async def script(peer: Peer) -> None:
        while True:
            await peer.answer(answer)

    return script


async def test_a_connection_is_kept_for_the_next_request(rig: Rig) -> None:
    seen: list[bytes] = []

    async def script(peer: Peer) -> None:
        while True:
            seen.append(await peer.answer(response(b"hello", b"X-Engine: a")))

    server, pool = await rig.client(script)
    for _ in range(3):
        answer = await send(pool).over()
        assert (answer.status, bytes(answer.body), answer.calls) == (200, b"hello", ["head", "body", "end"])
        assert answer.headers == [(b"x-engine", b"a"), (b"content-length", b"5")]
    assert seen == [REQUEST] * 3
    assert (server.accepted, pool.open_connections, pool.busy_connections) == (1, 1, 0)


async def test_the_next_request_may_be_sent_from_inside_the_end_of_the_last(rig: Rig) -> None:
    async def script(peer: Peer) -> None:
        for body in (b"1", b"2"):
            await peer.answer(response(body))
        await peer.stay()

    server, pool = await rig.client(script)
    second = []
    await send(pool, lambda call: second.append(send(pool)) if call == "end" else None).over()
    assert (await second[0].over()).body == b"2"
    assert server.accepted == 1


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (response(b"hello"), 200, b"hello"),
        (response(b""), 200, b""),
        (response(b"busy", status=b"503 Service Unavailable"), 503, b"busy"),
        (chunked(b"data: 1\n\n", b"data: 2\n\n"), 200, b"data: 1\n\ndata: 2\n\n"),
        (chunked(), 200, b""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", 304, b""),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + response(b"late"), 200, b"late"),
        (b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" * 2 + chunked(b"late"), 200, b"late"),
    ],
)
async def test_framed_answers_are_whole_and_leave_the_connection_usable(
    rig: Rig, answer: bytes, status: int, body: bytes
) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(answer)
        await peer.request()
        for position in range(len(answer)):  # the second time byte by byte
            await peer.send(answer[position : position + 1])
        await peer.stay()

    server, pool = await rig.client(script)
    for _ in range(2):
        got = await send(pool).over()
        assert (got.status, bytes(got.body), got.error) == (status, body, None)
        assert got.calls == (["head", "body", "end"] if body else ["head", "end"])
    assert (server.accepted, pool.open_connections) == (1, 1)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    ],
)
async def test_an_answer_that_ends_its_connection(rig: Rig, answer: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(answer)

    server, pool = await rig.client(script)
    for _ in range(2):
        got = await send(pool).over()
        assert (got.calls, bytes(got.body)) == (["head", "body", "end"], b"hello")
    assert (server.accepted, pool.open_connections) == (2, 0)


async def test_trailers_are_dropped(rig: Rig) -> None:
    trailed = chunked(b"hello").removesuffix(b"\r\n") + b"x-checksum: 1\r\n\r\n"
    _, pool = await rig.client(_always(trailed))
    answer = await send(pool).over()
    assert (answer.calls, answer.headers) == (["head", "body", "end"], [(b"transfer-encoding", b"chunked")])


async def test_bytes_after_an_answer_belong_to_nobody(rig: Rig) -> None:
    """Were they read as the answer of the request that is next in line, one client would see another's text."""

    async def script(peer: Peer) -> None:
        if peer.number == 0:
            await peer.answer(response(b"first") + response(b"forged"))
        else:
            await peer.answer(response(b"second"))
        await peer.stay()

    server, pool = await rig.client(script, Limits(max_connections=1))
    first, second = send(pool), send(pool)
    assert (await first.over()).body == b"first"
    assert (await second.over()).body == b"second"
    assert server.accepted == 2


@pytest.mark.parametrize("surplus", [b"H", b"\x00", response(b"forged")])
async def test_unasked_bytes_close_an_idle_connection(rig: Rig, surplus: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(response(b"hello"))
        await peer.send(surplus)
        await peer.stay()

    server, pool = await rig.client(script)
    assert (await send(pool).over()).body == b"hello"
    await (await server.peer(0)).stay()
    assert pool.open_connections == 0


async def test_an_answer_before_the_whole_request_was_taken_ends_the_connection(rig: Rig) -> None:
    """What is left of the request would stand in the way of the next."""

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(response(b"too large", status=b"413 Content Too Large"))
        await answered.wait()
        await peer.reader.read()

    answered = asyncio.Event()
    _, pool = await rig.client(script)
    head = b"POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 33554432\r\n\r\n"
    answer = await send(pool, request=head + bytes(33554432)).over()
    assert (answer.status, bytes(answer.body)) == (413, b"too large")
    assert pool.open_connections == 0
    answered.set()


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"HTTP/1.1 two hundred\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nhello",
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\nhello",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + response(b"hello"),
    ],
)
async def test_what_is_not_a_plain_http_answer_fails(rig: Rig, answer: bytes) -> None:
    _, pool = await rig.client(_always(answer))
    got = await send(pool).over()
    assert got.calls == ["error"] and isinstance(got.error, BadResponse)
    assert pool.open_connections == 0


async def test_a_bad_chunk_fails_after_the_bytes_before_it(rig: Rig) -> None:
    _, pool = await rig.client(_always(chunked(b"good").removesuffix(b"0\r\n\r\n") + b"no size\r\n"))
    got = await send(pool).over()
    assert (got.calls, bytes(got.body)) == (["head", "body", "error"], b"good")
    assert isinstance(got.error, BadResponse)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\n" + b"x-many: %b\r\n" % (b"a" * 1000) * 100,
        b"HTTP/1.1 200 OK\r\nx-one: " + b"a" * 200_000,
        b"HTTP/1.1 200 " + b"O" * 200_000,
        b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" * 10_000,
    ],
    ids=["many headers", "one endless header", "endless reason", "endless hints"],
)
async def test_a_head_is_bounded(rig: Rig, head: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(head)
        await peer.stay()

    _, pool = await rig.client(script)
    got = await send(pool).over()
    assert isinstance(got.error, BadResponse) and "head is over" in str(got.error)
