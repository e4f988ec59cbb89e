"""Requests drawn from the proxy's own OpenAPI document, and bytes that are nearly requests: no 500, and no hang."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import yaml
from effort import examples
from hypothesis import given
from hypothesis import strategies as st
from running import running_proxy

from proxy.client_keys import hash_key

schemathesis = pytest.importorskip("schemathesis")
TIMEOUT_S = 30.0
KEY = "a key for the fuzz tests"
OPERATIONS = [
    *(
        "POST /v1/chat/completions",
        "POST /v1/completions",
        "POST /v1/responses",
        "POST /v1/embeddings",
        "POST /tokenize",
    ),
    *("POST /detokenize", "POST /v1/plan", "GET /v1/traces", "GET /v1/traces/{trace_id}", "GET /v1/models"),
    *("GET /v1/models/{name}", "GET /health", "GET /ready", "GET /metrics", "GET /v1/costs"),
    *("GET /console/api/fleet", "GET /console/api/frontier", "GET /console/api/requests"),
    "GET /console/api/requests/{number}",
]


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "keys.yaml").write_text(yaml.safe_dump([{"name": "a", "hash": hash_key(KEY), "limits": {"max_n": 6}}]))
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    with running_proxy(folder, server={"api_keys": "keys.yaml", "max_stream_s": 20, "header_timeout_s": 2}) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def document(proxy: Any) -> Any:
    found = requests.get(f"{proxy.url}/openapi.json", timeout=TIMEOUT_S)
    assert found.status_code == 200
    return schemathesis.openapi.from_dict(found.json())


def test_the_document_tells_of_every_route(document: Any) -> None:
    told = {f"{each.ok().method.upper()} {each.ok().path}" for each in document.get_all_operations()}
    assert set(OPERATIONS) == told, set(OPERATIONS) ^ told


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("mode", ["POSITIVE", "NEGATIVE"])
def test_what_the_document_allows_and_what_it_does_not(proxy: Any, document: Any, operation: str, mode: str) -> None:
    method, path = operation.split(" ")
    drawn = document[path][method].as_strategy(generation_mode=schemathesis.GenerationMode[mode])

    @examples(6)
    @given(case=drawn)
    def run(case: Any) -> None:
        body = case.body
        if isinstance(body, dict) and isinstance(body.get("model"), str):
            body["model"] = "m"  # else nearly all would be 404
        answer = case.call(
            base_url=proxy.url, headers={"authorization": f"Bearer {KEY}"}, timeout=TIMEOUT_S, allow_redirects=False
        )
        assert answer.status_code != 500, (answer.text, case.as_curl_command())
        told = document[path][method].definition.raw["responses"]
        assert str(answer.status_code) in told or answer.status_code in (404, 405), (answer.status_code, answer.text)
        if answer.status_code >= 400 and path != "/ready":
            assert answer.json()["error"]["message"], case.as_curl_command()

    try:
        run()
    except Exception as error:
        if type(error).__name__ not in ("Unsatisfiable", "SkipTest"):  # nothing that it does not allow, say
            raise


lines = st.sampled_from(
    [
        *(
            b"POST /v1/chat/completions HTTP/1.1",
            b"GET /health HTTP/1.1",
            b"host: p",
            b"content-length: 12",
            b"",
            b" x",
        ),
        *(
            b"transfer-encoding: chunked",
            b"5",
            b"0",
            b"hello",
            b"{}",
            b"x-tts-n: 3",
            b"expect: 100-continue",
            b"x-a:\xff",
        ),
        *(
            b"connection: close",
            b"connection: upgrade",
            b"upgrade: websocket",
            b"ffffffff",
            b"content-length: -1",
            b": x",
        ),
        *(f"authorization: Bearer {KEY}".encode(), b'{"model":"m","messages":[]}', b"content-length: 27", b"\0\0\0"),
    ]
) | st.binary(max_size=30)
ends = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\r\n\r\n", b"\n", b"\r", b""])


@examples(80)
@given(parts=st.lists(st.tuples(lines, ends), max_size=14), cut=st.integers(0, 200))
def test_bytes_that_are_nearly_requests(proxy: Any, parts: list[tuple[bytes, bytes]], cut: int) -> None:
    data = b"".join(line + end for line, end in parts)
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=TIMEOUT_S) as client:
        heard = b""
        try:
            client.sendall(data[:cut])
            client.sendall(data[cut:])
            client.shutdown(socket.SHUT_WR)
            while more := client.recv(65536):
                heard += more
        except TimeoutError:
            raise
        except OSError:  # it has closed already
            pass
    assert b"HTTP/1.1 500" not in heard, heard


def test_it_still_serves(proxy: Any) -> None:
    """After all of the above."""
    body = {"model": "m", "messages": [{"role": "user", "content": "2 + 2?"}]}
    answer = requests.post(
        f"{proxy.url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {KEY}"}, timeout=TIMEOUT_S
    )
    assert answer.status_code == 200 and answer.json()["choices"]
