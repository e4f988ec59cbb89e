"""The record of one request: what was asked, predicted, done, and what it cost. Written whatever happens."""

from __future__ import annotations

import random
import re
import time
from typing import Any, Literal

import msgspec

from proxy.ledgers import Ledgers

TraceOutcome = Literal["answered", "refused", "failed", "client_gone"]
_TRACEPARENT = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")


class BranchTrace(msgspec.Struct, omit_defaults=True):
    """Times in milliseconds since the request arrived. `wave`: which fan-out of its request it belongs to; `role`: what
    it was for, where it is no answer (judge, aside, score)."""

    index: int
    backend: str
    outcome: str
    start_ms: float
    end_ms: float | None
    gpu_seconds: float
    first_token_ms: float | None = None
    prompt_tokens: int = 0
    cached_tokens: int | None = None
    completion_tokens: int = 0
    finish_reason: str | None = None
    cost_usd: float | None = None
    answer: str | None = None
    score: float | None = None
    error: str | None = None
    wave: int = 1
    role: str | None = None


class PlanTrace(msgspec.Struct, omit_defaults=True):
    """The plan with its predictions, and what it was chosen from."""

    backend: str
    model: str
    strategy: str
    n: int
    considered: int
    params: dict[str, Any] = {}
    predicted: dict[str, Any] = {}
    feasible: bool = True
    dropped: dict[str, int] = {}
    gave_up: list[str] = []
    note: str | None = None


class Trace(msgspec.Struct, omit_defaults=True):
    """One request. `received_at`: Unix seconds; `request_id`: the client's own, None where it is the trace's id;
    `key`: the name of the API key; `slo_status`: met, missed, degraded or none."""

    id: str
    received_at: float
    path: str
    request_id: str | None = None
    model: str | None = None
    key: str | None = None
    stream: bool = False
    outcome: TraceOutcome = "answered"
    status: int = 0
    slo: dict[str, Any] = {}
    controls: dict[str, Any] = {}
    plan: PlanTrace | None = None
    earlier_plans: list[PlanTrace] = []
    branches: list[BranchTrace] = []
    selection: dict[str, Any] = {}
    latency_ms: float = 0.0
    ttft_ms: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    tokens_exact: bool = True
    ledgers: Ledgers | None = None
    slo_status: str = "none"
    error: str | None = None
    prompt: Any = None
    answer: str | None = None

    def context_line(self) -> bytes:
        """A `traceparent` header line for what is sent upstream (W3C Trace Context)."""
        return f"traceparent: 00-{self.id}-{random.getrandbits(64) or 1:016x}-01\r\n".encode()

    @property
    def cost_usd(self) -> float | None:
        return self.ledgers.attributed.usd if self.ledgers else None

    @property
    def gpu_seconds(self) -> float | None:
        return self.ledgers.attributed.gpu_seconds if self.ledgers else None


def new_id() -> str:
    """32 hex digits: milliseconds since 1970, then 80 random bits. In order of time, so that the store's index only
    grows at its end: random ids made every insert four times as dear."""
    return f"{time.time_ns() // 1_000_000:012x}{random.getrandbits(80):020x}"


def ids(headers: list[tuple[bytes, bytes]]) -> tuple[str, str]:
    """(trace id, request id): the caller's `traceparent` and `x-request-id` where they are well-formed, else new
    ones."""
    trace_id = request_id = None
    for name, value in headers:
        if name == b"traceparent" and (match := _TRACEPARENT.fullmatch(value)):
            trace_id = match[1].decode()
        elif name == b"x-request-id" and 0 < len(value) <= 128 and value.isascii() and value.decode().isprintable():
            request_id = value.decode()
    trace_id = trace_id or new_id()
    return trace_id, request_id or trace_id
