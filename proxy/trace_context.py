"""W3C Trace Context: what a client says of its trace, and what the proxy says to the backends.

A request's spans have ids that follow from the root's, so that they are known when something is sent upstream and need
not be kept: the root at 0, the branch in row `i` of the trace at `BRANCHES + i`, decisions and the selection beyond.
"""

from __future__ import annotations

import random
import re
import time
from typing import NamedTuple

ROOT = 0
BRANCHES = 1
DECISIONS = 1 << 32
SELECTION = 1 << 33
MAX_TRACESTATE = 512  # longer ones need not be passed on (W3C Trace Context §3.3.1.5)
_MASK64 = (1 << 64) - 1
# A later version may have more fields behind these four; version 00 may not.
_TRACEPARENT = re.compile(rb"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SENT = re.compile(rb"\r\ntraceparent: 00-([0-9a-f]{32})-")


class Incoming(NamedTuple):
    """A request's ids. `parent_id`: the client's span, None where it has no trace. `root_id`: the proxy's own span,
    None where it is the last half of `trace_id`. `request_id`: None where it is the trace's."""

    trace_id: str
    request_id: str | None
    parent_id: str | None
    root_id: str | None
    tracestate: str | None
    sampled: bool


def incoming(headers: list[tuple[bytes, bytes]], sample_ratio: float = 1.0) -> Incoming:
    """The client's `traceparent`, `tracestate` and `x-request-id` where they are well-formed, else a new trace, of
    which the share `sample_ratio` is sampled."""
    parents, states, request_id = 0, None, None
    match: re.Match[bytes] | None = None
    for name, value in headers:
        if name == b"traceparent":
            parents += 1
            match = _TRACEPARENT.fullmatch(value)
        elif name == b"tracestate":
            states = value if states is None else states + b"," + value
        elif name == b"x-request-id" and 0 < len(value) <= 128 and value.isascii() and value.decode().isprintable():
            request_id = value.decode()
    if match is None or parents > 1 or not _valid(match):
        trace_id = new_id()
        return Incoming(trace_id, request_id, None, None, None, _sampled(trace_id, sample_ratio))
    trace_id, parent_id = match[2].decode(), match[3].decode()
    # The client may send many requests in one trace: the root's id cannot follow from the trace's.
    root_id = f"{random.getrandbits(64) or 1:016x}"
    request_id = None if request_id == trace_id else request_id
    return Incoming(trace_id, request_id, parent_id, root_id, _state(states), bool(int(match[4], 16) & 1))


def new_id() -> str:
    """32 hex digits: milliseconds since 1970, then 80 random bits. In order of time, so that the store's index only
    grows at its end: random ids made every insert four times as dear."""
    return f"{time.time_ns() // 1_000_000:012x}{random.getrandbits(80):020x}"


def span_id(root_id: str, offset: int) -> str:
    """16 hex digits, never all zeros."""
    return root_id if offset == ROOT else f"{(int(root_id, 16) + offset) & _MASK64 or 1:016x}"


def context_lines(trace_id: str, of_span: str, tracestate: str | None, *, sampled: bool) -> bytes:
    """`traceparent`, and `tracestate` where the client sent one, as header lines."""
    state = f"tracestate: {tracestate}\r\n" if tracestate else ""
    return f"traceparent: 00-{trace_id}-{of_span}-{'01' if sampled else '00'}\r\n{state}".encode("latin-1")


def sent_in(request: bytes) -> str | None:
    """The trace id that a request to a backend has in its head."""
    match = _SENT.search(request, 0, 16 * 1024)
    return match[1].decode() if match is not None else None


def _valid(match: re.Match[bytes]) -> bool:
    if match[1] == b"00" and match[5] is not None:
        return False
    return match[2].strip(b"0") != b"" and match[3].strip(b"0") != b""


def _state(value: bytes | None) -> str | None:
    if value is None or len(value) > MAX_TRACESTATE or not value.isascii():
        return None
    text = value.decode()
    return text if text.isprintable() else None


def _sampled(trace_id: str, ratio: float) -> bool:
    """As OpenTelemetry's TraceIdRatioBased decides, so that other services with the same share decide alike."""
    return ratio >= 1.0 or int(trace_id[16:], 16) < round(ratio * (_MASK64 + 1))
