"""However the network cuts an answer into reads, the sink hears the same."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from upstream_rig import REQUEST, Recorder, chunked, response

from proxy.upstream.connection import Connection, Exchange, Headers
from proxy.upstream.pool import Origin, Pool


class Wire(asyncio.Transport):
    """A transport without a socket."""

    def __init__(self) -> None:
        super().__init__()
        self.aborted = False

    def write(self, data: object) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


@dataclass(frozen=True)
class Heard:
    """`reusable`: the connection went back to the pool."""

    calls: tuple[str, ...]
    status: int
    headers: Headers
    body: bytes
    error: type[Exception] | None
    reusable: bool


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Only its clock is used."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def hear(loop: asyncio.AbstractEventLoop, reads: list[bytes]) -> Heard:
    """What a sink hears of one answer that arrives in `reads`, after which the peer closes."""
    pool, wire, recorder = Pool(Origin("test", 80, False, "")), Wire(), Recorder()
    connection = Connection(pool, loop)
    connection.connection_made(wire)
    connection.begin(Exchange(pool, REQUEST, recorder))
    for read in reads:
        if not wire.aborted:
            connection.data_received(read)
    reusable = not wire.aborted and connection.exchange is None
    connection.eof_received()
    connection.connection_lost(None)
    error = type(recorder.error) if recorder.error is not None else None
    return Heard(tuple(recorder.calls), recorder.status, recorder.headers, bytes(recorder.body), error, reusable)


def cut(data: bytes, places: set[int]) -> list[bytes]:
    edges = [0, *sorted(place for place in places if 0 < place < len(data)), len(data)]
    return [data[start:stop] for start, stop in pairwise(edges)]


bodies = st.binary(max_size=60)
names = st.sampled_from([b"X-A", b"x-b", b"Content-Type", b"X-Request-Id"])
values = st.sampled_from([b"", b"1", b"text/event-stream", b'a, b; c="d"', b"x" * 50])
header_lines = st.lists(st.tuples(names, values).map(lambda pair: b"%b: %b" % pair), max_size=4)
hints = st.lists(
    st.sampled_from([b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"]), max_size=2
)


@st.composite
def answers(draw: st.DrawFn) -> tuple[bytes, int, bytes]:
    """An answer's bytes, its status and its body."""
    body, lines = draw(bodies), draw(header_lines)
    start = b"".join(draw(hints))
    match draw(st.sampled_from(["length", "chunks", "close", "none"])):
        case "length":
            return start + response(body, *lines, status=b"404 Not Found"), 404, body
        case "chunks":
            pieces = [piece for piece in cut(body, draw(st.sets(st.integers(0, 60), max_size=4))) if piece]
            return start + chunked(*pieces), 200, body
        case "close":
            return start + b"\r\n".join([b"HTTP/1.1 200 OK", *lines, b"", b""]) + body, 200, body
        case _:
            return start + b"\r\n".join([b"HTTP/1.1 204 No Content", *lines, b"", b""]), 204, b""


places = st.sets(st.integers(0, 400), max_size=40)


@settings(deadline=None)
@given(answer=answers(), places=places)
def test_any_cutting_gives_the_answer(
    loop: asyncio.AbstractEventLoop, answer: tuple[bytes, int, bytes], places: set[int]
) -> None:
    data, status, body = answer
    heard = hear(loop, cut(data, places))
    assert heard.calls == (("head", "body", "end") if body else ("head", "end"))
    assert (heard.status, heard.body, heard.error) == (status, body, None)
    assert heard == hear(loop, [data])


@settings(deadline=None)
@given(answer=answers(), kept=st.integers(0, 400), noise=st.binary(max_size=20), places=places)
def test_any_cutting_of_a_broken_answer_gives_the_same_end(
    loop: asyncio.AbstractEventLoop, answer: tuple[bytes, int, bytes], kept: int, noise: bytes, places: set[int]
) -> None:
    """Broken off anywhere, followed by anything."""
    data = answer[0][:kept] + noise
    heard, whole = hear(loop, cut(data, places)), hear(loop, [data])
    assert heard.calls.count("end") + heard.calls.count("error") == 1 and heard.calls[-1] in ("end", "error")
    assert (heard.calls, heard.status, heard.headers, heard.body, heard.error) == (
        whole.calls,
        whole.status,
        whole.headers,
        whole.body,
        whole.error,
    )


@settings(deadline=None)
@given(
    first=answers(),
    surplus=st.sampled_from([b"H", b"HTTP/1.1 200 OK\r\n", response(b"forged"), b"\x00"]),
    places=places,
)
def test_surplus_never_leaves_a_reusable_connection(
    loop: asyncio.AbstractEventLoop, first: tuple[bytes, int, bytes], surplus: bytes, places: set[int]
) -> None:
    data = first[0] + surplus
    heard = hear(loop, cut(data, places))
    assert not heard.reusable and heard.error is None
    assert heard.body.startswith(first[2])
