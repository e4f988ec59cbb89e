"""Requests as bytes: a head that is built once per backend and path, and the body as the client sent it."""

from __future__ import annotations

from proxy.upstream.connection import Headers
from proxy.upstream.pool import Origin

# RFC 9110 §7.6.1, plus what the proxy sets itself or must not leak to a backend.
_NOT_FORWARDED = frozenset(
    {
        b"connection",
        b"proxy-connection",
        b"keep-alive",
        b"transfer-encoding",
        b"te",
        b"trailer",
        b"upgrade",
        b"host",
        b"content-length",
        b"content-type",
        b"expect",
        b"authorization",
        b"proxy-authorization",
        b"x-api-key",
        b"api-key",
        b"cookie",
        b"accept-encoding",
        b"traceparent",  # each branch is sent as a span of its own: `Trace.context_lines`
        b"tracestate",
    }
)
_NOT_RETURNED = frozenset(
    {b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"trailer", b"date", b"server"}
)
# The usual ones, so that the look-up below is rare.
_NEVER_NAMED = frozenset({b"accept", b"user-agent", b"content-type", b"content-length"})


class RequestHead:
    """The constant part of every request to one path of one backend."""

    __slots__ = ("_prefix",)

    def __init__(self, origin: Origin, method: str, path: str, api_key: str | None) -> None:
        lines = [
            f"{method} {origin.prefix}{path} HTTP/1.1",
            f"host: {origin.authority}",
            "content-type: application/json",
            "accept-encoding: identity",  # the proxy reads the bytes; compressing them costs both sides
        ]
        if api_key is not None:
            lines.append(f"authorization: Bearer {api_key}")
        self._prefix = ("\r\n".join(lines) + "\r\n").encode("latin-1")

    def with_body(self, body: bytes, extra: bytes = b"") -> bytes:
        """`extra`: further header lines, each ending in CRLF (see `forwarded_lines`)."""
        return b"%b%bcontent-length: %d\r\n\r\n%b" % (self._prefix, extra, len(body), body)


_CONTROLS = (b"x-slo-", b"x-tts-", b"x-llm-d-slo-")


def forwarded_lines(headers: Headers) -> bytes:
    """The client's end-to-end headers as lines, without controls, credentials and hop-by-hop ones."""
    return b"".join(
        [
            b"%b: %b\r\n" % (name, value)
            for name, value in headers
            if name not in _NOT_FORWARDED and not name.startswith(_CONTROLS) and not _hop_by_hop(name, headers)
        ]
    )


def returned_headers(headers: Headers) -> Headers:
    """The backend's end-to-end headers, for the client."""
    return [(name, value) for name, value in headers if name not in _NOT_RETURNED and not _hop_by_hop(name, headers)]


def _hop_by_hop(name: bytes, headers: Headers) -> bool:
    """Whether `connection` names this header (RFC 9110 §7.6.1); almost no message has such a one."""
    if name in _NEVER_NAMED:
        return False
    return any(
        name in [token.strip().lower() for token in value.split(b",")] for key, value in headers if key == b"connection"
    )
