"""Clients that mean harm, byte by byte: smuggled requests, paths to engines' administration, heads without end."""

from __future__ import annotations

import asyncio
import json
import re

import pytest
from http_rig import CHAT, Fleet, RunningProxy, chat
from scripted_backend import GENERATIONS, Received, ScriptedBackend, says, until

BODY = json.dumps(chat()).encode()
HOST, LENGTH, CHUNKS = "host: p", f"content-length: {len(BODY)}", "transfer-encoding: chunked"
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
SMUGGLED = b"POST /v1/completions HTTP/1.1\r\nhost: p\r\ncontent-length: 2\r\n\r\n{}"


def post(*lines: str, body: bytes = BODY, path: str = CHAT, method: str = "POST") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{line}\r\n" for line in lines)
    return head.encode("latin-1") + b"\r\n" + body


async def told(proxy: RunningProxy, *parts: bytes, within_s: float = 0.25) -> tuple[list[bytes], bool]:
    """The status lines that came, and whether the proxy closed, within so many seconds of the last byte."""
    client, heard = await proxy.connect(), b""
    async with client:
        for part in parts:
            client.writer.write(part)
            await asyncio.sleep(0.03)
        try:
            async with asyncio.timeout(within_s):
                while data := await client.reader.read(65536):
                    heard += data
                closed = True
        except TimeoutError:
            closed = False
        except ConnectionError:
            closed = True
    return re.findall(rb"HTTP/1\.1 (\d{3})", heard), closed


def generations(backend: ScriptedBackend) -> list[Received]:
    """All that a client could have caused."""
    own = ("/health", "/metrics", "/v1/models")
    return [request for request in backend.received if request.path not in own]


REFUSED = {
    "both lengths": post(HOST, LENGTH, CHUNKS, body=CHUNKED),
    "both lengths, with a request behind": post(HOST, "content-length: 4", CHUNKS, body=CHUNKED + SMUGGLED),
    "a length twice": post(HOST, LENGTH, LENGTH),
    "two lengths": post(HOST, LENGTH, "content-length: 5", body=BODY + SMUGGLED),
    "a list of lengths": post(HOST, f"content-length: {len(BODY)}, {len(BODY)}"),
    "a signed length": post(HOST, f"content-length: +{len(BODY)}"),
    "a negative length": post(HOST, "content-length: -1"),
    "a length in hex": post(HOST, f"content-length: 0x{len(BODY):x}"),
    "two lengths in one": post(HOST, f"content-length: {len(BODY)} 5"),
    "an unknown coding": post(HOST, "transfer-encoding: xchunked", body=CHUNKED),
    "no coding": post(HOST, "transfer-encoding: identity", LENGTH),
    "a coding after chunked": post(HOST, "transfer-encoding: chunked, identity", body=CHUNKED),
    "a coding before chunked": post(HOST, "transfer-encoding: gzip, chunked", body=CHUNKED),
    "chunked twice": post(HOST, CHUNKS, CHUNKS, body=CHUNKED),
    "a vertical tab": post(HOST, "transfer-encoding: \x0bchunked", body=CHUNKED),
    "a space before the colon": post(HOST, "transfer-encoding : chunked", body=CHUNKED),
    "chunked in HTTP/1.0": post(HOST, CHUNKS, body=CHUNKED).replace(b"HTTP/1.1", b"HTTP/1.0"),
    "a folded header": post(HOST, "x-a: b\r\n folded", LENGTH),
    "a folded coding": post(HOST, "transfer-encoding:\r\n chunked", body=CHUNKED),
    "bare line feeds": post(HOST, LENGTH, body=b"").replace(b"\r\n", b"\n"),
    "a bare line feed": post(f"{HOST}\nx-tts-n: 3", LENGTH),
    "a bare carriage return": post(HOST, "x-a: b\rx-tts-n: 3", LENGTH),
    "a NUL": post(HOST, "x-a: b\0c", LENGTH),
    "a header without a name": post(HOST, ": x", LENGTH),
    "chunks ended by line feeds": post(HOST, CHUNKS, body=CHUNKED.replace(b"\r\n", b"\n")),
    "a space after a chunk's size": post(HOST, CHUNKS, body=CHUNKED.replace(b"\r\n", b" \r\n", 1)),
    "a chunk's size that overflows": post(HOST, CHUNKS, body=b"fffffffffffffffff\r\n"),
    "a negative chunk": post(HOST, CHUNKS, body=b"-1\r\n"),
    "a host as the target": post(HOST, LENGTH, path="evil.example:80"),
    "a tunnel": post(HOST, method="CONNECT", path="evil.example:443", body=b""),
    "bytes beyond ASCII in the path": post(HOST, LENGTH, path="/v1/\xff"),
    "an unknown method": post(HOST, LENGTH, method="FOO"),
    "a method in lower case": post(HOST, LENGTH, method="post"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /health\r\n\r\n",
    "HTTP/3.7": post(HOST, LENGTH).replace(b"HTTP/1.1", b"HTTP/3.7"),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 300,
}
TOO_LARGE = {
    "a large header": post(HOST, LENGTH, "x-a: " + "a" * 70_000),
    "many headers": post(HOST, LENGTH, *(f"x-{at}: 1" for at in range(200))),
    "a large target": post(HOST, LENGTH, path="/" + "a" * 100_000),
}


async def test_what_is_not_clearly_one_request_is_refused_and_the_connection_closed(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    for wanted, cases in ((b"400", REFUSED), (b"431", TOO_LARGE)):
        for name, raw in cases.items():
            assert await told(proxy, raw, within_s=2) == ([wanted], True), name
    assert generations(backend) == []


async def test_engines_administration_is_out_of_reach(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    paths = [
        *("/reset_prefix_cache", "/sleep?level=1", "/wake_up", "/v1/load_lora_adapter", "/v1/unload_lora_adapter"),
        *("/v1/../reset_prefix_cache", "/v1/%2e%2e/sleep", "/v1/chat/completions/../../../sleep", "//a/sleep"),
        *("/%2e%2e/v1/load_lora_adapter", "/v1/chat/completions%2f..%2fsleep", "/v1/chat/completions;/../sleep"),
        *("/v1/chat/completions/", "/v1/chat/completions%00", "/v1/%zz", "/pooling", "/score", "/collective_rpc"),
        *("/start_profile", "/scale_elastic_ep", "/abort_requests", "/server_info", "/v1/responses/resp_1/cancel"),
        *("http://127.0.0.1/sleep", "http://evil.example/reset_prefix_cache", "/.well-known/x", "/invocations"),
    ]
    for path in paths:
        assert await told(proxy, post(HOST, LENGTH, path=path)) == ([b"404"], False), path
    assert generations(backend) == []


async def test_a_client_cannot_say_where_a_request_goes(fleet: Fleet) -> None:
    """Whatever the target's form and `host`: the configured backend, at the path of the route."""
    backend, proxy = await fleet.one()
    await proxy.probed()
    forms = [
        post("host: evil.example", LENGTH),
        post("host: evil.example", LENGTH, path=f"http://evil.example{CHAT}"),
        post(HOST, LENGTH, path=f"{CHAT}?url=http://evil.example/&path=/../sleep"),
        post(HOST, LENGTH, "x-forwarded-host: evil.example", "forwarded: host=evil.example", "x-backend-url: http://e"),
        post(HOST, LENGTH, "x-original-url: /sleep", "x-rewrite-url: /sleep"),
        post(HOST, LENGTH, "connection: content-length, host, authorization"),
        post(HOST, CHUNKS, body=b"%x;a=b\r\n%b\r\n0\r\nx-tts-n: 3\r\nhost: evil\r\n\r\n" % (len(BODY), BODY)),
    ]
    for raw in forms:
        assert await told(proxy, raw) == ([b"200"], False), raw
    assert len(backend.generations) == len(forms)
    for generation in backend.generations:
        named = [value for name, value in generation.headers if name in ("host", "content-length")]
        assert named == [backend.url.removeprefix("http://"), str(len(generation.body))]
        assert generation.path == CHAT and generation.header("x-tts-n") is None


async def test_an_offer_to_upgrade_is_ignored_and_its_body_is_no_request(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    offer = ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: x")
    assert await told(proxy, post(HOST, LENGTH, *offer)) == ([b"200"], False)
    raw = post(HOST, f"content-length: {len(SMUGGLED)}", *offer, body=SMUGGLED)
    before = len(generations(backend))
    assert await told(proxy, raw) == ([b"400"], False), "the body is a body, which is no JSON"
    head, body = raw[: -len(SMUGGLED)], raw[-len(SMUGGLED) :]
    assert await told(proxy, head[:20], head[20:], body) == ([], True)
    assert await told(proxy, head[:20], head[20:] + body) == ([], True)
    assert len(generations(backend)) == before


async def test_garbage_behind_a_request_does_not_end_up_in_its_answer(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    late = asyncio.Event()
    backend.will(says("\\boxed{4}", when=late))
    async with await proxy.connect() as client:
        await client.post(chat(stream=True))
        assert (await client.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        client.writer.write(b"\0garbage\r\n\r\n")
        assert b"HTTP/1.1" not in await client.read_to_end()
    await proxy.nothing_left()


@pytest.mark.parametrize(
    "endless",
    [
        pytest.param((b"POST / HTTP/1.1\r\nx-a: ", b"a"), id="header"),
        pytest.param((b"GET /", b"a"), id="target"),
        pytest.param((b"POST / HTTP/1.1\r\n", b"x-a: b\r\n"), id="headers"),
        pytest.param((post(HOST, CHUNKS, body=b"1;x="), b"a"), id="chunk extension"),
        pytest.param((post(HOST, CHUNKS, body=b"1\r\n{\r\n0\r\nx-a: "), b"a"), id="trailer"),
        pytest.param((post(HOST, CHUNKS, body=b"1\r\n{\r\n0\r\n"), b"x-a: b\r\n"), id="trailers"),
    ],
)
async def test_what_has_no_end_is_ended(fleet: Fleet, endless: tuple[bytes, bytes]) -> None:
    _, proxy = await fleet.one()
    begin, more = endless
    block, sent = more * (8192 // len(more)), 0
    async with await proxy.connect() as client:
        client.writer.write(begin)
        try:
            async with asyncio.timeout(20):
                while sent < 4_000_000:
                    client.writer.write(block)
                    await client.writer.drain()
                    sent += len(block)
                    await asyncio.sleep(0)
        except ConnectionError:
            pass
    assert sent < 4_000_000


async def test_a_head_that_comes_byte_by_byte_has_its_time(fleet: Fleet) -> None:
    _, proxy = await fleet.one(server={"header_timeout_s": 0.3})

    async def drip(first: bytes, more: bytes = b"x") -> tuple[bytes, float]:
        began = asyncio.get_running_loop().time()
        async with await proxy.connect() as client:
            client.writer.write(first)
            heard = asyncio.create_task(client.read_to_end())
            while not heard.done():
                await asyncio.sleep(0.05)
                if first and not heard.done():
                    client.writer.write(more)
            return await heard, asyncio.get_running_loop().time() - began

    silent, slow = await drip(b""), await drip(b"POST /")
    answered = post(HOST, LENGTH) + b"GET /hea"
    third = await drip(answered)
    fourth = await drip(post(HOST, LENGTH), b"\r\n")
    assert fourth[0].startswith(b"HTTP/1.1 200") and fourth[0].count(b"HTTP/1.1") == 1
    assert silent[0] == b"" and slow[0].startswith(b"HTTP/1.1 408")
    assert third[0].startswith(b"HTTP/1.1 200") and b"HTTP/1.1 408" in third[0]
    assert all(0.25 < took < 3 for _, took in (silent, slow, third, fourth))


async def test_the_rest_of_a_body_that_was_refused_is_not_waited_for(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.guarded_protocol.LINGER_S", 1.0)
    _, proxy = await fleet.one(server={"max_body_bytes": 1024})
    head = post(HOST, "content-length: 5000", body=b"{")
    assert await told(proxy, head, within_s=3) == ([b"413"], True)
    rest, again = b"x" * 4999, post(HOST, LENGTH)
    assert await told(proxy, head, rest, again, within_s=2) == ([b"413", b"200"], False), "one that comes is no request"


async def test_json_nested_without_end_is_400(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    for path in (CHAT, "/v1/completions", "/v1/responses", "/v1/embeddings", "/tokenize", "/v1/plan"):
        for open_, close in (("[", "]"), ('{"a":', "}")):
            for depth in (5_000, 500_000):
                body = '{"model":"m","prompt":"x","messages":[],"x":' + open_ * depth + "1" + close * depth + "}"
                answer = await proxy.client.post(path, content=body)
                assert answer.status_code == 400, (path, depth)
    for depth in (100, 400, 800, 950):  # what the parser takes must not break what comes after it
        for member in ("x", "tools", "response_format", "tts", "slo", "messages", "stop"):
            nested = "[" * depth + "1" + "]" * depth
            body = json.dumps(chat())[:-1] + f',"{member}":{nested}}}'
            answer = await proxy.client.post(CHAT, content=body, headers={"x-slo-latency-ms": "60000"})
            assert answer.status_code in (200, 400), (member, depth, answer.text)
    assert all(request.path in (*GENERATIONS, "/tokenize") for request in generations(backend))
    await until(lambda: not proxy.server_tasks)
