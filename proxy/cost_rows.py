"""What requests cost together: per day, model, API key and backend.

A request counts once, at its plan's backend; tokens and costs are booked where they arose. `uses` counts pairs of a
request and a backend that it used: of so many, an amount covers all but its `…_unknown`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, get_args

from proxy import branch_ledgers
from proxy.ledgers import ACCOUNTS, Ledgers
from proxy.trace import BranchTrace, Trace

GroupBy = Literal["day", "model", "key", "backend"]
GROUPS: tuple[GroupBy, ...] = get_args(GroupBy)
OUTCOMES = ("answered", "refused", "failed", "client_gone")
UNITS = {"attributed": ("gpu_seconds", "usd"), "exclusive": ("gpu_seconds", "usd"), "marginal": ("gpu_seconds", "usd")}
SCORED = "score"  # what a reward model reads is no prompt of the client's


class _Use(NamedTuple):
    """What one request did on one backend; none where it used no backend."""

    backend: str | None
    counted: bool
    rows: Sequence[BranchTrace]
    ledgers: Ledgers | None


def summed(traces: Iterable[Trace], group_by: Sequence[GroupBy]) -> list[dict[str, Any]]:
    """One row per group, in order. Amounts are of what is known; null where nothing of them is."""
    sums: dict[tuple[str, ...], _Sum] = {}
    for trace in traces:
        day = datetime.fromtimestamp(trace.received_at, UTC).date().isoformat()
        for use in _uses(trace):
            labels = {"day": day, "model": trace.model, "key": trace.key, "backend": use.backend}
            key = tuple(labels[name] or "" for name in group_by)
            sums.setdefault(key, _Sum()).add(trace, use)
    return [
        {**{name: value or None for name, value in zip(group_by, key, strict=True)}, **sums[key].told()}
        for key in sorted(sums)
    ]


def _uses(trace: Trace) -> Iterator[_Use]:
    by_backend, costs = branch_ledgers.by_backend(trace.branches), branch_ledgers.of_backends(trace)
    home = trace.plan.backend if trace.plan is not None else next(iter(by_backend), None)
    if home not in by_backend:
        yield _Use(home, True, (), None)
    for name, rows in by_backend.items():
        yield _Use(name, name == home, rows, costs[name])


class _Sum:
    def __init__(self) -> None:
        self._requests = dict.fromkeys(("requests", *OUTCOMES), 0)
        self._uses = self._prompt = self._completion = 0
        self._known: dict[tuple[str, str], float] = {}
        self._unknown: dict[tuple[str, str], int] = {}
        self._reasons: dict[str, str] = {}

    def add(self, trace: Trace, use: _Use) -> None:
        if use.counted:
            self._requests["requests"] += 1
            self._requests[trace.outcome] += 1
        if use.ledgers is None:
            return
        self._uses += 1
        self._completion += sum(row.completion_tokens for row in use.rows)
        self._prompt += sum(row.prompt_tokens for row in use.rows if row.role != SCORED)
        for account in ACCOUNTS:
            amount = getattr(use.ledgers, account)
            for unit in UNITS.get(account, ("usd",)):
                value = getattr(amount, unit)
                if value is None:
                    self._unknown[account, unit] = self._unknown.get((account, unit), 0) + 1
                else:
                    self._known[account, unit] = self._known.get((account, unit), 0.0) + value
            if amount.reason is not None:
                self._reasons.setdefault(account, amount.reason)

    def told(self) -> dict[str, Any]:
        tokens = {"prompt_tokens": self._prompt, "completion_tokens": self._completion}
        return {
            **self._requests,
            "uses": self._uses,
            **tokens,
            "ledgers": {account: self._ledger(account) for account in ACCOUNTS},
        }

    def _ledger(self, account: str) -> dict[str, Any]:
        told: dict[str, Any] = {}
        for unit in UNITS.get(account, ("usd",)):
            unknown = self._unknown.get((account, unit), 0)
            told[unit] = None if self._uses and unknown == self._uses else self._known.get((account, unit), 0.0)
            told[f"{unit}_unknown"] = unknown
        return {**told, "reason": self._reasons.get(account)}
