"""Recent requests as the console lists them: of each trace only what a row shows. Blocks: call it off the loop."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from proxy.ledgers import Ledgers
from proxy.trace_store import TraceStore

_encode = msgspec.json.Encoder().encode


class _Plan(msgspec.Struct):
    backend: str
    model: str
    strategy: str
    n: int


class _Branch(msgspec.Struct):
    outcome: str
    role: str | None = None


class _Record(msgspec.Struct):
    """Of a stored trace; what is left out there has its default."""

    id: str
    received_at: float
    path: str
    request_id: str | None = None
    model: str | None = None
    stream: bool = False
    outcome: str = "answered"
    status: int = 0
    slo: dict[str, Any] = {}
    plan: _Plan | None = None
    branches: list[_Branch] = []
    latency_ms: float = 0.0
    completion_tokens: int = 0
    ledgers: Ledgers | None = None
    slo_status: str = "none"
    error: str | None = None


class RequestRow(msgspec.Struct, frozen=True):
    """`number`: the trace's place in the store, by which its details are asked for: ids may repeat. `branches`: how
    many came to which end; a null `cost_usd` has its `cost_reason`."""

    number: int
    id: str
    request_id: str | None
    received_at: float
    path: str
    model: str | None
    stream: bool
    outcome: str
    status: int
    slo_latency_ms: float | None
    strategy: str | None
    n: int | None
    backend: str | None
    branches: dict[str, int]
    latency_ms: float
    completion_tokens: int
    cost_usd: float | None
    cost_reason: str | None
    slo_status: str
    error: str | None


class RequestRows(msgspec.Struct, frozen=True):
    """Newest first. `more`: whether older ones follow."""

    data: list[RequestRow]
    more: bool


_decode = msgspec.json.Decoder(_Record).decode


def rows(store: TraceStore, limit: int, before: int | None, after: int | None, equal: dict[str, str | None]) -> bytes:
    """One page as JSON."""
    found = store.records(limit + 1, before, after, **equal)
    page = [_row(number, _decode(record)) for number, record in found[:limit]]
    return _encode(RequestRows(page, more=len(found) > limit))


def details(store: TraceStore, number: int, key: str | None) -> bytes | None:
    """The whole trace as JSON; None where there is none of that number, or it is another key's. `key` None: any."""
    trace = store.at(number)
    return None if trace is None or key not in (None, trace.get("key")) else _encode(trace)


def _row(number: int, record: _Record) -> RequestRow:
    plan, attributed = record.plan, record.ledgers.attributed if record.ledgers is not None else None
    return RequestRow(
        number=number,
        id=record.id,
        request_id=record.request_id,
        received_at=record.received_at,
        path=record.path,
        model=record.model,
        stream=record.stream,
        outcome=record.outcome,
        status=record.status,
        slo_latency_ms=record.slo.get("latency_ms"),
        strategy=plan.strategy if plan is not None else None,
        n=plan.n if plan is not None else None,
        backend=plan.backend if plan is not None else None,
        branches=Counter(branch.outcome for branch in record.branches if branch.role is None),
        latency_ms=record.latency_ms,
        completion_tokens=record.completion_tokens,
        cost_usd=attributed.usd if attributed is not None else None,
        cost_reason=attributed.reason if attributed is not None else "nothing was run",
        slo_status=record.slo_status,
        error=record.error,
    )
