"""The connection to a client: kept alive, pipelined, left alone while a request runs, closed when idle."""

from __future__ import annotations

import asyncio
import json

import pytest
from http_rig import CHAT, Fleet, RawClient, RunningProxy, chat
from scripted_backend import says, until

IDLE_S = 0.15


def _request(text: str) -> bytes:
    body = json.dumps(chat(user=text)).encode()
    return b"POST %b HTTP/1.1\r\nhost: proxy\r\ncontent-length: %d\r\n\r\n%b" % (CHAT.encode(), len(body), body)


async def _answer(client: RawClient) -> tuple[bytes, bytes]:
    head = await client.read_until(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    async with asyncio.timeout(5):
        return head, await client.reader.readexactly(int(length.partition(b":")[2]))


def _idle_limit(proxy: RunningProxy) -> None:
    proxy._server.config.timeout_keep_alive = IDLE_S  # type: ignore[assignment]  # seconds; uvicorn takes fractions


async def test_one_connection_carries_many_requests(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    backend.will(says("one"), says("two"), says("three"))
    async with await proxy.connect() as client:
        for expected in (b"one", b"two", b"three"):
            client.writer.write(_request("q"))
            head, body = await _answer(client)
            assert head.startswith(b"HTTP/1.1 200 OK\r\n") and expected in body


async def test_pipelined_requests_are_answered_in_order(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    late = asyncio.Event()
    backend.will(says("first", when=late), says("second"))
    async with await proxy.connect() as client:
        client.writer.write(_request("q") + _request("q"))
        await asyncio.sleep(0.05)
        late.set()
        assert b"first" in (await _answer(client))[1]
        assert b"second" in (await _answer(client))[1]


async def test_an_idle_connection_is_closed_and_one_in_use_is_not(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    _idle_limit(proxy)
    backend.otherwise = says("fine")
    async with await proxy.connect() as client:
        began = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() < began + 3 * IDLE_S:  # never idle for so long
            client.writer.write(_request("q"))
            assert (await _answer(client))[0].startswith(b"HTTP/1.1 200")
            await asyncio.sleep(IDLE_S / 3)
        assert await client.read_to_end() == b""


async def test_a_request_that_takes_longer_than_the_idle_limit_is_answered(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    _idle_limit(proxy)
    late = asyncio.Event()
    backend.will(says("at once"), says("late", when=late))
    async with await proxy.connect() as client:
        client.writer.write(_request("q"))
        await _answer(client)
        client.writer.write(_request("q"))
        await asyncio.sleep(2 * IDLE_S)
        late.set()
        assert b"late" in (await _answer(client))[1]
        assert await client.read_to_end() == b""  # and then it is idle again


async def test_a_client_that_leaves_while_it_sends_its_body_is_traced(fleet: Fleet) -> None:
    _, proxy = await fleet.one()
    client = await proxy.connect()
    client.writer.write(f"POST {CHAT} HTTP/1.1\r\nhost: proxy\r\ncontent-length: 100\r\n\r\n{{".encode())
    await until(lambda: bool(proxy.server_tasks))
    client.leave()
    assert (await proxy.trace("client_gone"))["status"] == 499


async def test_a_client_that_leaves_with_a_second_request_in_line_stops_the_first(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    never = asyncio.Event()
    backend.otherwise = says("never", when=never)
    client = await proxy.connect()
    client.writer.write(_request("q") + _request("q"))
    await backend.generation(0)
    client.leave()
    await proxy.nothing_left()


@pytest.mark.parametrize("expect", ["100-continue"])
async def test_a_client_that_waits_to_be_told_to_send_its_body_is_told(fleet: Fleet, expect: str) -> None:
    _, proxy = await fleet.one()
    body = json.dumps(chat()).encode()
    async with await proxy.connect() as client:
        head = f"POST {CHAT} HTTP/1.1\r\nhost: proxy\r\nexpect: {expect}\r\ncontent-length: {len(body)}\r\n\r\n"
        client.writer.write(head.encode())
        assert (await client.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        client.writer.write(body)
        assert (await _answer(client))[0].startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("n_bytes", [100, 300_000])
async def test_a_client_that_leaves_after_a_body_of_any_size_stops_its_request(fleet: Fleet, n_bytes: int) -> None:
    backend, proxy = await fleet.one()
    backend.otherwise = says("never", when=asyncio.Event())
    client = await proxy.connect()
    client.writer.write(_request("x" * n_bytes))
    await backend.generation(0)
    client.leave()
    await proxy.nothing_left()


async def test_a_pipelined_request_may_take_longer_than_the_idle_limit(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    _idle_limit(proxy)
    late = asyncio.Event()
    backend.will(says("one"), says("two"), says("three", when=late))
    async with await proxy.connect() as client:
        client.writer.write(_request("q"))
        await _answer(client)  # arms the timer
        client.writer.write(_request("q") + _request("q"))
        await _answer(client)
        await asyncio.sleep(2 * IDLE_S)
        late.set()
        assert b"three" in (await _answer(client))[1]


async def test_head_gets_no_body(fleet: Fleet) -> None:
    _, proxy = await fleet.one()
    async with await proxy.connect() as client:
        client.writer.write(f"HEAD {CHAT} HTTP/1.1\r\nhost: proxy\r\n\r\n".encode())
        assert (await client.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 405 ")
        client.writer.write(b"GET /health HTTP/1.1\r\nhost: proxy\r\n\r\n")
        head, body = await _answer(client)
        assert head.startswith(b"HTTP/1.1 200 ") and body == b'{"status":"ok"}'
