"""What requests cost, summed per day (UTC), model, API key and backend, in the transaction that writes their traces.

A request is counted once, at its plan's backend; tokens and costs are booked at the backends where they arose. `uses`
counts pairs of a request and a backend that it used: of so many, an amount covers all but its `…_unknown`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import date, timedelta

from proxy.ledgers import Amount, Ledgers, total
from proxy.trace import BranchTrace, Trace

GROUPS = ("day", "model", "key", "backend")
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
_NO_LEDGERS = Amount(reason="the trace has no ledgers")
_UNKNOWN = Ledgers(_NO_LEDGERS, _NO_LEDGERS, _NO_LEDGERS, _NO_LEDGERS, None)
_NOTHING = Amount(0.0, 0.0)


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

    def book(self, gpu_seconds: float | None, ledgers: Ledgers, attributed_usd: float | None) -> None:
        """What one request did here: `ledgers`, but of the attributed one these two. Every request pays for this."""
        self.uses += 1
        exclusive, marginal, billed = ledgers.exclusive, ledgers.marginal, ledgers.billed
        gpu, usd = exclusive.gpu_seconds, exclusive.usd
        values = (gpu_seconds, attributed_usd, gpu, usd, marginal.gpu_seconds, marginal.usd, billed.usd)
        amounts = self.amounts
        for at, value in enumerate(values):
            if value is None:
                self.unknown[at] += 1
            else:
                amounts[at] += value
        if None in values:
            for at, ledger in enumerate((ledgers.attributed, exclusive, marginal, billed)):
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
        names = {branch.backend for branch in branches}
        for name in names:
            mine = branches if len(names) == 1 else [branch for branch in branches if branch.backend == name]
            _book(self._at(*where, name), mine, _rest(trace, mine, name, home))

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


def _book(row: CostSum, branches: Sequence[BranchTrace], ledgers: Ledgers) -> None:
    """What one request did on one backend. The attributed ledger is the branches' own; `ledgers`: the others."""
    seconds, usd = 0.0, total([branch.cost_usd for branch in branches])
    for branch in branches:
        seconds += branch.gpu_seconds
        row.completion_tokens += branch.completion_tokens
        if branch.role != "score":  # what a reward model reads is no prompt of the client's
            row.prompt_tokens += branch.prompt_tokens
    row.book(seconds, ledgers, usd)


def _rest(trace: Trace, branches: Sequence[BranchTrace], backend: str, home: str) -> Ledgers:
    """The ledgers of what the request did there. Of a request on several backends they stand in `backend_ledgers`;
    where they do not (an attempt that failed before its first byte), the whole is booked at the plan's."""
    whole = trace.ledgers
    if whole is None:
        return _UNKNOWN
    apart = trace.backend_ledgers.get(backend)
    if apart is not None:
        # As in the request's own: what generates nothing has no marginal cost, known or not.
        idle = not any(branch.completion_tokens for branch in branches)
        return Ledgers(apart.attributed, apart.exclusive, _NOTHING, apart.billed, None) if idle else apart
    if backend == home:
        return whole
    return Ledgers(whole.attributed, _NOTHING, _NOTHING, _NOTHING, None)
