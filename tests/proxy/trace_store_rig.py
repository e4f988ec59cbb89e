"""Traces and stores for the tests of the trace store."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import psycopg

from proxy.ledgers import Amount, Ledgers
from proxy.trace import BranchTrace, PlanTrace, Trace
from proxy.trace_store import TraceStore

DAY = date(2026, 11, 26)
NOON = datetime(2026, 11, 26, 12, tzinfo=UTC).timestamp()
NOT_BILLED = Amount(reason="no price per token is configured")


def branch(backend: str = "a", gpu_seconds: float = 0.5, usd: float | None = 0.25, **members: Any) -> BranchTrace:
    told = {"outcome": "completed", "prompt_tokens": 10, "completion_tokens": 5, "cost_usd": usd, **members}
    return BranchTrace(index=0, backend=backend, start_ms=1.0, end_ms=2.0, gpu_seconds=gpu_seconds, **told)


def ledgers(gpu_seconds: float = 0.5, usd: float | None = 0.25) -> Ledgers:
    """An exclusive cost of twice the attributed, a marginal one of half of it."""

    def amount(times: float) -> Amount:
        reason = "the backend has no gpu_hour_usd" if usd is None else None
        return Amount(gpu_seconds * times, None if usd is None else usd * times, reason)

    return Ledgers(amount(1), amount(2), amount(0.5), NOT_BILLED, None)


def trace(trace_id: str = "t", received_at: float = NOON, *branches: BranchTrace, **members: Any) -> Trace:
    plan = PlanTrace("a", "m", "none", 1, 1)
    whole = {"model": "m", "plan": plan, "branches": list(branches), "ledgers": ledgers() if branches else None}
    return Trace(trace_id, received_at, "/v1/chat/completions", **{**whole, **members})


@contextmanager
def opened(
    target: Path | str, queue_size: int = 100, retention_days: float | None = None, max_bytes: int | None = None
) -> Iterator[TraceStore]:
    store = TraceStore(target, queue_size, retention_days, max_bytes=max_bytes)
    store.start()
    try:
        yield store
    finally:
        store.close()


def write(target: Path | str, *traces: Trace) -> TraceStore:
    """They are in the store; it is closed."""
    with opened(target, max(1, len(traces))) as store:
        for each in traces:
            store.record(each)
    assert (store.written, store.dropped) == (len(traces), 0)
    return store


def wait_for(reached: Callable[[], bool], within_s: float = 10.0) -> None:
    give_up_at = time.monotonic() + within_s
    while not reached():
        assert time.monotonic() < give_up_at, "it never came"
        time.sleep(0.01)


def sql(target: Path | str, statement: str) -> list[tuple[Any, ...]]:
    """By another client. Tables are `traces` and `costs`, whatever the database calls them."""
    if isinstance(target, Path):
        with closing(sqlite3.connect(target)) as file, file:
            return file.execute(statement).fetchall()
    for name in ("traces", "costs"):
        statement = statement.replace(f" {name}", f" paretoproxy_{name}")
    with psycopg.connect(target) as server:
        cursor = server.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []
