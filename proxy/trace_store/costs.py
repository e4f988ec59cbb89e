"""What requests cost, summed per day (UTC), model, API key and backend, in the transaction that writes their traces.

A request is counted once, at its plan's backend; tokens and costs are booked at the backends where they arose. `uses`
counts pairs of a request and a backend that it used: of so many, an amount covers all but its `…_unknown`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import date, timedelta
from typing import Literal, get_args

from proxy import branch_ledgers, ledgers
from proxy.ledgers import Ledgers
from proxy.trace import BranchTrace, Trace

GroupBy = Literal["day", "model", "key", "backend"]
GROUPS: tuple[GroupBy, ...] = get_args(GroupBy)
OUTCOMES = ("answered", "refused", "failed", "client_gone")
# Of each ledger, what is summed. A bill has no GPU time.
LEDGERS = {
    "attributed": ("gpu_seconds", "usd"),
    "exclusive": ("gpu_seconds", "usd"),
    "marginal": ("gpu_seconds", "usd"),
    "billed": ("usd",),
}
COUNTS = ("requests", *OUTCOMES, "uses", "prompt_tokens", "completion_tokens")
AMOUNTS = tuple(f"{ledger}_{unit}" for ledger, units in LEDGERS.items() for unit in units)
UNKNOWNS = tuple(f"{amount}_unknown" for amount in AMOUNTS)
REASONS = tuple(f"{ledger}_reason" for ledger in LEDGERS)
COLUMNS = (*GROUPS, *COUNTS, *AMOUNTS, *UNKNOWNS, *REASONS)

_EPOCH = date(1970, 1, 1)
_UNKNOWN = ledgers.unknown("the trace has no ledgers")


class CostSum:
    """One row. `amounts` (of AMOUNTS) are of what is known; `unknown` counts the others; `reasons`: why, of LEDGERS."""

    __slots__ = (*COUNTS, "amounts", "backend", "day", "key", "model", "reasons", "unknown")

    def __init__(self, day: str, model: str, key: str, backend: str) -> None:
        self.day, self.model, self.key, self.backend = day, model, key, backend
        self.requests = self.answered = self.refused = self.failed = self.client_gone = 0
        self.uses = self.prompt_tokens = self.completion_tokens = 0
        self.amounts = [0.0] * len(AMOUNTS)
        self.unknown = [0] * len(AMOUNTS)
        self.reasons: list[str | None] = [None] * len(LEDGERS)

    def book(self, cost: Ledgers) -> None:
        """What one request did here. Every request pays for this."""
        self.uses += 1
        attributed, exclusive, marginal, billed = cost.attributed, cost.exclusive, cost.marginal, cost.billed
        values = (
            *(attributed.gpu_seconds, attributed.usd, exclusive.gpu_seconds, exclusive.usd),
            *(marginal.gpu_seconds, marginal.usd, billed.usd),
        )
        amounts = self.amounts
        for at, value in enumerate(values):
            if value is None:
                self.unknown[at] += 1
            else:
                amounts[at] += value
        if None in values:
            for at, ledger in enumerate((attributed, exclusive, marginal, billed)):
                self.reasons[at] = ledger.reason or self.reasons[at]

    def values(self) -> tuple[object, ...]:
        """In the order of COLUMNS."""
        counts = [getattr(self, name) for name in COUNTS]
        return (
            *(self.day, self.model, self.key, self.backend),
            *(*counts, *self.amounts, *self.unknown, *self.reasons),
        )


class Costs:
    """The sums of some traces."""

    def __init__(self) -> None:
        self._sums: dict[tuple[int, str, str, str], CostSum] = {}

    def __iter__(self) -> Iterator[CostSum]:
        """Always in the same order: two writers who lock rows in different orders would wait for each other."""
        return iter([self._sums[key] for key in sorted(self._sums)])

    def add(self, trace: Trace, model: str) -> None:
        """`model`: what it is booked under."""
        branches, plan = trace.branches, trace.plan
        home = plan.backend if plan is not None else branches[0].backend if branches else ""
        where = (int(trace.received_at // 86400), model, trace.key or "")
        counted = self._at(*where, home)
        counted.requests += 1
        setattr(counted, trace.outcome, getattr(counted, trace.outcome) + 1)
        if len(branches) == 1 and branches[0].backend == home:  # as most
            _book(counted, branches, trace.ledgers or _UNKNOWN)
            return
        by_backend = branch_ledgers.by_backend(branches)
        costs = branch_ledgers.of_backends(trace) if len(by_backend) > 1 else {}
        for name, rows in by_backend.items():
            _book(self._at(*where, name), rows, costs.get(name) or trace.ledgers or _UNKNOWN)

    def _at(self, day: int, model: str, key: str, backend: str) -> CostSum:
        found = self._sums.get((day, model, key, backend))
        if found is None:
            text = (_EPOCH + timedelta(days=day)).isoformat()
            found = self._sums[day, model, key, backend] = CostSum(text, model, key, backend)
        return found


def summed(rows: Iterable[tuple[Trace, str]]) -> Costs:
    """Of traces and the models that they are booked under."""
    costs = Costs()
    for trace, model in rows:
        costs.add(trace, model)
    return costs


def _book(row: CostSum, branches: Sequence[BranchTrace], cost: Ledgers) -> None:
    """What one request did on one backend."""
    for branch in branches:
        row.completion_tokens += branch.completion_tokens
        if branch.role != "score":  # what a reward model reads is no prompt of the client's
            row.prompt_tokens += branch.prompt_tokens
    row.book(cost)
