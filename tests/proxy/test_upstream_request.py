"""Requests as bytes, and which headers cross the proxy."""

from __future__ import annotations

import pytest

from proxy.upstream.pool import Origin
from proxy.upstream.request import RequestHead, forwarded_lines, returned_headers


@pytest.mark.parametrize(
    ("url", "origin", "authority"),
    [
        ("http://127.0.0.1:8000", Origin("127.0.0.1", 8000, False, ""), "127.0.0.1:8000"),
        ("http://gpu-1", Origin("gpu-1", 80, False, ""), "gpu-1"),
        ("https://gpu-1", Origin("gpu-1", 443, True, ""), "gpu-1"),
        ("https://gpu-1:80/", Origin("gpu-1", 80, True, ""), "gpu-1:80"),
        ("http://gpu-1/models/a/", Origin("gpu-1", 80, False, "/models/a"), "gpu-1"),
        ("http://[::1]:8000", Origin("::1", 8000, False, ""), "[::1]:8000"),
    ],
)
def test_where_a_backend_listens(url: str, origin: Origin, authority: str) -> None:
    assert Origin.parse(url) == origin
    assert origin.authority == authority


@pytest.mark.parametrize(
    "url",
    [
        "gpu-1:8000",
        "ftp://gpu-1",
        "http://",
        "http://gpu-1?a=b",
        "http://gpu-1#a",
        "http://user@gpu-1",
        "http://:secret@gpu-1",
        "http://gpu-1:99999",
        "http://gpu-1/a b",
        "http://gpu-ä",
    ],
)
def test_what_is_no_backend_url(url: str) -> None:
    with pytest.raises(ValueError):
        Origin.parse(url)


def test_a_request_is_its_head_the_further_lines_and_the_body() -> None:
    head = RequestHead(Origin.parse("http://gpu-1:8000/a"), "POST", "/v1/completions", "key")
    assert head.with_body(b"{}", b"x-a: 1\r\n") == (
        b"POST /a/v1/completions HTTP/1.1\r\nhost: gpu-1:8000\r\ncontent-type: application/json\r\n"
        b"accept-encoding: identity\r\nauthorization: Bearer key\r\nx-a: 1\r\ncontent-length: 2\r\n\r\n{}"
    )


def test_without_a_key_there_is_no_authorization() -> None:
    head = RequestHead(Origin.parse("http://gpu-1"), "POST", "/v1/completions", None)
    assert b"authorization" not in head.with_body(b"")


def test_end_to_end_headers_are_forwarded_and_no_others() -> None:
    kept = [(b"x-request-id", b"7"), (b"user-agent", b"a")]
    dropped = [
        (b"host", b"proxy"),
        (b"authorization", b"Bearer client"),
        (b"cookie", b"a"),
        (b"content-length", b"9"),
        (b"transfer-encoding", b"chunked"),
        (b"x-slo-latency-ms", b"100"),
        (b"x-tts-strategy", b"none"),
        (b"connection", b"keep-alive, X-Hop"),
        (b"x-hop", b"1"),
        (b"traceparent", b"00-1"),  # the proxy sends its own
        (b"tracestate", b"a=1"),
    ]
    assert forwarded_lines([*kept, *dropped]) == b"x-request-id: 7\r\nuser-agent: a\r\n"


def test_end_to_end_headers_are_returned_and_no_others() -> None:
    kept = [(b"content-type", b"text/event-stream"), (b"content-length", b"9"), (b"x-request-id", b"7")]
    dropped = [(b"transfer-encoding", b"chunked"), (b"server", b"uvicorn"), (b"connection", b"x-hop"), (b"x-hop", b"1")]
    assert returned_headers([*kept, *dropped]) == kept
