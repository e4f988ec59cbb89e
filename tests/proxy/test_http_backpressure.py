"""A client that reads slowly slows the backend down; the proxy does not hold the answer for it."""

import asyncio
import json

import pytest
from http_rig import Fleet, chat
from raw_server import Peer
from scripted_backend import POLL_EVERY_S, Received

CHUNKS, CHUNK_BYTES = 1500, 64 * 1024  # 94 MiB: several times what the sockets' buffers on the way can hold


async def endless(peer: Peer, request: Received) -> None:
    chunk = {"choices": [{"index": 0, "delta": {"content": "x" * CHUNK_BYTES}, "finish_reason": None}]}
    event = b"data: " + json.dumps(chunk).encode() + b"\n\n"
    await peer.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
    for _ in range(CHUNKS):
        await peer.send(event)
        request.sent_events += 1
    await peer.send(b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n')
    peer.close()


async def settled(request: Received) -> int:
    """How many chunks were written, once no more are."""
    seen, unchanged = -1, 0
    while unchanged < 50:
        unchanged = unchanged + 1 if request.sent_events == seen else 0
        seen = request.sent_events
        await asyncio.sleep(POLL_EVERY_S)
    return seen


@pytest.mark.parametrize(
    "controls", [{}, {"tts": {"strategy": "none"}, "slo": {"quality": 0.1}}], ids=["passed through", "one live branch"]
)
async def test_the_backends_writes_stall_until_the_client_reads(fleet: Fleet, controls: dict[str, object]) -> None:
    backend, proxy = await fleet.one()
    backend.otherwise = endless

    async with await proxy.connect() as client:
        await client.post(chat(stream=True, **controls))
        request = await backend.generation(0)
        stalled_at = await settled(request)
        assert stalled_at < CHUNKS / 2

        size, end = 0, b""
        async with asyncio.timeout(20):
            while end != b"0\r\n\r\n" and (data := await client.reader.read(1 << 20)):
                size, end = size + len(data), (end + data)[-5:]

    assert size > CHUNKS * CHUNK_BYTES, "and nothing is lost"
