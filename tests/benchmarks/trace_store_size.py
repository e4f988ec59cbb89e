"""How much a request takes in the trace store: `python tests/benchmarks/trace_store_size.py`.

Writes requests as the proxy does, passed through and voted over, to SQLite and to a PostgreSQL server of its own, and
prints what the store grew by, indexes included.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/proxy")]

import psycopg  # noqa: E402
from postgres_server import PostgresServer, binaries  # noqa: E402
from trace_store_rig import branch, ledgers  # noqa: E402

from proxy.trace import BranchTrace, PlanTrace, Trace  # noqa: E402
from proxy.trace_context import new_id  # noqa: E402
from proxy.trace_store import TraceStore  # noqa: E402

REQUESTS = 20_000
_PREDICTED = {
    **{"latency_ms": 2312.45, "median_ms": 1790.12, "accuracy": 0.812345, "accuracy_lower": 0.781234},
    **{"cost_usd": 1.23456e-05, "gpu_seconds": 0.456789, "congestion_gpu_seconds": 0.0123456, "tokens": 1890.12},
    **{"bias": 1.02345, "spread": 1.0, "prior": False, "cut": False},
}


def passed() -> Trace:
    plan = PlanTrace("h200-tp1", "qwen3-8b", "none", 1, 2, note="pass-through")
    return _trace(plan, 1)


def voted() -> Trace:
    plan = PlanTrace("h200-tp1", "qwen3-8b", "self-consistency", 8, 152, {"n": 8, "stop": "beta"}, _PREDICTED)
    plan.dropped = {"latency": 61, "quality": 12}
    trace = _trace(plan, 8)
    trace.slo, trace.slo_status = {"latency_ms": 2500.0, "objective": "quality", "mode": "best-effort"}, "met"
    trace.selection = {"agreement": 0.875, "votes": 8, "winners": [3], "cut_by_deadline": False}
    return trace


def _trace(plan: PlanTrace, branches: int) -> Trace:
    rows = [_branch(plan.backend) for _ in range(branches)]
    whole = ledgers(0.123456789 * branches, 0.000102880 * branches)
    told = {"latency_ms": 1801.234, "prompt_tokens": 10, "completion_tokens": 5 * branches, "status": 200}
    chat = "/v1/chat/completions"
    return Trace(new_id(), time.time(), chat, model="qwen3-8b", plan=plan, branches=rows, ledgers=whole, **told)


def _branch(backend: str) -> BranchTrace:
    """No two are alike: what repeats would be compressed away."""
    seconds = round(random.uniform(0.05, 0.5), 9)
    row = branch(backend, seconds, seconds * 3 / 3600, completion_tokens=random.randrange(20, 900))
    row.start_ms, row.first_token_ms, row.end_ms = (round(random.uniform(1, 3000), 3) for _ in range(3))
    return row


def grown(target: Path | str, make: Callable[[], Trace], size: Callable[[], int]) -> float:
    """Bytes per request."""
    store = TraceStore(target, REQUESTS)
    store.start()
    before = size()
    for _ in range(REQUESTS):
        store.record(make())
    store.close()
    assert store.written == REQUESTS
    return (size() - before) / REQUESTS


def on_sqlite() -> Iterator[float]:
    for make in (passed, voted):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "traces.db"
            yield grown(path, make, lambda file=path: file.stat().st_size)  # type: ignore[misc]


def on_postgres() -> Iterator[float]:
    programs = binaries()
    if programs is None:
        return
    server = PostgresServer(programs)
    try:
        server.start()
        for make in (passed, voted):
            url = server.new_database()
            yield grown(url, make, lambda where=url: _relations(where))  # type: ignore[misc]
    finally:
        server.remove()


def _relations(url: str) -> int:
    with closing(psycopg.connect(url)) as database:
        row = database.execute("SELECT pg_total_relation_size('paretoproxy_traces')").fetchone()
        assert row is not None
        return int(row[0])


if __name__ == "__main__":
    for name, sizes in (("SQLite", on_sqlite()), ("PostgreSQL", on_postgres())):
        for kind, size in zip(("passed through", "8 branches"), sizes, strict=False):
            print(f"{name:<11} {kind:<15} {size:6.0f} bytes a request", flush=True)
