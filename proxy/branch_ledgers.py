"""The ledgers of each branch and of each backend, worked out from a trace: what a branch did is in its row, what that
cost in the trace's rates. Nothing of it is stored or computed while a request runs."""

from __future__ import annotations

from collections.abc import Sequence

from proxy import ledgers
from proxy.ledgers import Ledgers, Part
from proxy.trace import BranchTrace, Trace

NO_RATE = "the trace was written before rates were kept"


def of_branches(trace: Trace) -> list[Ledgers]:
    """In the order of the trace's branches."""
    return [_of_rows(trace, [row]) for row in trace.branches]


def of_backends(trace: Trace) -> dict[str, Ledgers]:
    """What the request cost on each backend that it used."""
    return {name: _of_rows(trace, rows) for name, rows in by_backend(trace.branches).items()}


def of_trace(trace: Trace) -> Ledgers:
    """The request's own, over all of its branches and backends."""
    return ledgers.of_request([part(trace, name, rows) for name, rows in by_backend(trace.branches).items()])


def by_backend(rows: Sequence[BranchTrace]) -> dict[str, list[BranchTrace]]:
    found: dict[str, list[BranchTrace]] = {}
    for row in rows:
        found.setdefault(row.backend, []).append(row)
    return found


def part(trace: Trace, backend: str, rows: Sequence[BranchTrace]) -> Part:
    """Rows of one backend together. Raises KeyError where the trace kept no rate of it."""
    ends = [row.end_ms for row in rows if row.end_ms is not None]
    return Part(
        trace.rates[backend],
        attributed_gpu_s=sum(row.gpu_seconds for row in rows),
        wall_s=(max(ends) - min(row.start_ms for row in rows)) / 1e3 if ends else 0.0,
        tokens=sum(row.completion_tokens for row in rows),
        prompt_tokens=sum(row.prompt_tokens for row in rows),
        cached_tokens=sum(min(row.cached_tokens or 0, row.prompt_tokens) for row in rows),
    )


def _of_rows(trace: Trace, rows: Sequence[BranchTrace]) -> Ledgers:
    name = rows[0].backend
    if name not in trace.rates:
        return ledgers.unknown(NO_RATE)
    return ledgers.of_request([part(trace, name, rows)])
