"""Whatever goes wrong, the client reads OpenAI's error envelope."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from http_rig import CHAT, Fleet, chat
from scripted_backend import answers

from proxy import asgi

LIMIT_BYTES = 10 * 1024 * 1024


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """The envelope's content, checked."""
    assert answer.headers["content-type"] == "application/json"
    document = answer.json()
    assert document.keys() == {"error"}
    assert document["error"].keys() == {"message", "type", "param", "code"}
    assert document["error"]["message"]
    error: dict[str, Any] = document["error"]
    return error


def of_size(n_bytes: int) -> bytes:
    """A chat completion's body of exactly this size."""
    start, end = b'{"model":"m","messages":[{"role":"user","content":"', b'"}]}'
    return start + b"x" * (n_bytes - len(start) - len(end)) + end


async def test_a_path_that_is_not_here(fleet: Fleet) -> None:
    _, proxy = await fleet.one()

    answer = await proxy.client.post("/v1/chat/completion", json=chat())

    assert answer.status_code == 404
    assert "/v1/chat/completions" in error_of(answer)["message"]


async def test_a_method_that_is_not_allowed(fleet: Fleet) -> None:
    _, proxy = await fleet.one()

    for method, path, allowed in (
        ("GET", CHAT, "POST"),
        ("POST", "/v1/models", "GET"),
        ("DELETE", "/v1/traces", "GET"),
    ):
        answer = await proxy.client.request(method, path)

        assert (answer.status_code, error_of(answer)["code"]) == (405, "method_not_allowed")
        assert answer.headers["allow"] == allowed


NO_REQUESTS = [
    b"",
    b"{",
    b"[]",
    b'"text"',
    b'{"model": "m"} x',
    b'{"model": 7}',
    b'{"messages": []}',
    b'{"model": null}',
]


@pytest.mark.parametrize("path", [CHAT, "/v1/plan"])
async def test_a_body_that_is_no_request(fleet: Fleet, path: str) -> None:
    backend, proxy = await fleet.one()

    for body in NO_REQUESTS:
        answer = await proxy.client.post(path, content=body)
        assert (answer.status_code, error_of(answer)["type"]) == (400, "invalid_request_error"), body
    assert backend.generations == []


async def test_bytes_that_are_not_utf8(fleet: Fleet) -> None:
    """Also in members that are only relayed: JSON is UTF-8 throughout."""
    backend, proxy = await fleet.one()

    for body in (b'{"model": "m", "messages": [{"role": "user", "content": "\xff"}]}', b'{"model": "\xc3"}'):
        answer = await proxy.client.post(CHAT, content=body)
        assert (answer.status_code, error_of(answer)["code"]) == (400, "invalid_json")
    assert backend.generations == []


async def test_a_body_that_is_nested_without_end(fleet: Fleet) -> None:
    _, proxy = await fleet.one()

    answer = await proxy.client.post(CHAT, content=b'{"model":"m","slo":' + b"[" * 100_000)

    assert answer.status_code == 400
    error_of(answer)


async def test_a_body_of_the_largest_size_is_taken(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    backend.will(answers(200, b"{}"))

    answer = await proxy.client.post(CHAT, content=of_size(LIMIT_BYTES))

    assert answer.status_code == 200
    assert backend.generations[0].body == of_size(LIMIT_BYTES)


async def in_pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 65536):
        yield body[start : start + 65536]


@pytest.mark.parametrize("chunked", [False, True], ids=["content-length", "chunked"])
@pytest.mark.parametrize("path", [CHAT, "/v1/plan"])
async def test_one_byte_more_is_413(fleet: Fleet, path: str, chunked: bool) -> None:
    backend, proxy = await fleet.one()
    body = of_size(LIMIT_BYTES + 1)

    answer = await proxy.client.post(path, content=in_pieces(body) if chunked else body)

    assert (answer.status_code, error_of(answer)["code"]) == (413, "body_too_large")
    assert str(LIMIT_BYTES) in error_of(answer)["message"]
    assert backend.generations == []


async def test_a_chunked_body_within_the_limit_is_taken(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()

    answer = await proxy.client.post(CHAT, content=in_pieces(of_size(200_000)))

    assert answer.status_code == 200
    assert backend.generations[0].body == of_size(200_000)


async def test_a_model_that_nobody_serves(fleet: Fleet) -> None:
    _, proxy = await fleet.one()

    answer = await proxy.ask(chat(model="gpt-4"))

    assert answer.status_code == 404
    assert (error_of(answer)["param"], error_of(answer)["code"]) == ("model", "model_not_found")
    assert "serves: m" in error_of(answer)["message"]


BAD_HEADERS = {
    "x-slo-latency-ms": "soon",
    "x-slo-ttft-ms": "-1",
    "x-slo-tpot-ms": "nan",
    "x-slo-cost-usd": "0",
    "x-slo-quality": "1.5",
    "x-slo-objective": "speed",
    "x-slo-mode": "lenient",
    "x-tts-strategy": "magic",
    "x-tts-n": "0",
    "x-tts-max-tokens": "1.5",
    "x-tts-task": "poetry",
    "x-tts-temperature": "1",
    "x-slo-latency": "5",
    "x-llm-d-slo-ttft-ms": "x",
}


async def test_a_bad_control_header_is_named(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()

    for header, value in BAD_HEADERS.items():
        answer = await proxy.client.post(CHAT, json=chat(), headers={header: value})
        error = error_of(answer)
        assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_control", header)
    assert backend.generations == []


BAD_BODIES: list[tuple[dict[str, Any], str]] = [
    ({"slo": {"latency_ms": "5"}}, "slo.latency_ms"),
    ({"slo": {"latency": 5}}, "slo.latency"),
    ({"slo": 5}, "slo"),
    ({"tts": []}, "tts"),
    ({"tts": {"n": True}}, "tts.n"),
    ({"tts": {"progress": "yes"}}, "tts.progress"),
    ({"tts": {"strategy": "self-consistency", "m": 3}}, "tts.m"),
    ({"tts": {"strategy": "first-finish", "n": 2, "m": 3}}, "tts.n"),
    ({"tts": {"confidence": 0.9}}, "tts.confidence"),
    ({"model": "m@"}, "model suffix"),
    ({"model": "m@self-consistency:x"}, "model suffix"),
    ({"model": "m@none:3"}, "x-tts-n"),
]


async def test_a_bad_control_in_the_body_is_named(fleet: Fleet) -> None:
    _, proxy = await fleet.one()

    for members, control in BAD_BODIES:
        answer = await proxy.ask(chat(**members))
        assert (answer.status_code, error_of(answer)["param"]) == (400, control), members


async def test_controls_on_a_path_that_knows_none(fleet: Fleet) -> None:
    _, proxy = await fleet.one()

    answer = await proxy.ask({"model": "m", "input": "x"}, "/v1/embeddings", x_slo_latency_ms="5")

    assert (answer.status_code, error_of(answer)["code"]) == (400, "invalid_control")


GUARDED = [("POST", CHAT), ("POST", "/v1/plan"), ("GET", "/v1/models"), ("GET", "/v1/traces"), ("GET", "/v1/traces/x")]


@pytest.mark.parametrize(
    "given", [{}, {"authorization": "Bearer wrong"}, {"authorization": "Basic right"}], ids=["none", "wrong", "basic"]
)
async def test_without_a_right_key_401(fleet: Fleet, tmp_path: Path, given: dict[str, str]) -> None:
    (tmp_path / "keys.yaml").write_text("[right, other]")
    backend, proxy = await fleet.one(server={"api_keys": "keys.yaml"})

    for method, path in GUARDED:
        answer = await proxy.client.request(method, path, headers=given, json=chat())
        assert (answer.status_code, error_of(answer)["code"]) == (401, "invalid_api_key"), path
    assert backend.generations == []


async def test_with_the_right_key_200_and_it_stays_here(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "keys.yaml").write_text("[right, other]")
    backend, proxy = await fleet.one(server={"api_keys": "keys.yaml"})

    answer = await proxy.ask(authorization="Bearer other")

    assert answer.status_code == 200
    assert backend.generations[0].header("authorization") is None
    assert (await proxy.client.get("/health")).status_code == 200, "probes need no key"


async def test_a_refused_request_is_in_the_traces(fleet: Fleet) -> None:
    _, proxy = await fleet.one()

    await proxy.ask(x_slo_latency_ms="soon")

    trace = await proxy.trace()
    assert (trace["outcome"], trace["status"]) == ("refused", 400)
    assert "x-slo-latency-ms" in trace["error"]


async def test_an_error_carries_the_request_id(fleet: Fleet) -> None:
    _, proxy = await fleet.one()

    answer = await proxy.ask(chat(model="gpt-4"), x_request_id="mine")

    assert answer.headers["x-request-id"] == "mine"


async def test_a_body_that_does_not_arrive_is_408(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi, "BODY_TIMEOUT_S", 0.05)
    _, proxy = await fleet.one()
    async with await proxy.connect() as client:
        client.writer.write(f"POST {CHAT} HTTP/1.1\r\nhost: proxy\r\ncontent-length: 100\r\n\r\n{{".encode())
        head = await client.read_until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 ")
        assert b'"code":"request_timeout"' in await client.read_until(b"}}")
