"""The record of one request: what was asked, predicted, done, and what it cost. Written whatever happens."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from proxy.ledgers import Ledgers, total
from proxy.prices import Rate
from proxy.trace_context import ROOT, context_lines, span_id

TraceOutcome = Literal["answered", "refused", "failed", "client_gone"]


class BranchTrace(msgspec.Struct, omit_defaults=True):
    """Times in milliseconds since the request arrived. `wave`: which fan-out of its request it belongs to; `role`: what
    it was for, where it is no answer (judge, aside, score). `attempt`: what it was started for after another one
    (retry, hedge, replacement). `error` quotes nothing that a backend said; `error_type`: the error's class, or the
    backend's status. Of `completion_tokens`, `reasoning_tokens` are those of thinking and `estimated_tokens` those that
    nobody counted: generated after the last that was heard of, or by an answer that told no usage."""

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
    estimated_tokens: int = 0
    reasoning_tokens: int = 0
    finish_reason: str | None = None
    cost_usd: float | None = None
    answer: str | None = None
    score: float | None = None
    error: str | None = None
    wave: int = 1
    role: str | None = None
    error_type: str | None = None
    attempt: str | None = None


class PlanTrace(msgspec.Struct, omit_defaults=True):
    """The plan with its predictions, and what it was chosen from. `start_ms`: when the planner was asked, since the
    request arrived; `took_ms`: until it had decided; None where there was nothing to plan."""

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
    start_ms: float | None = None
    took_ms: float | None = None


class Trace(msgspec.Struct, omit_defaults=True):
    """One request. `received_at`: Unix seconds; `request_id`: the client's own, None where it is the trace's id;
    `key`: the name of the API key that asked; `slo_status`: met, missed, degraded or none; `tokens_exact`: every token
    was counted, none is estimated; `rates`: by backend, what it cost when the request arrived; `ttft_ms`: of streamed
    answers, until the client had the first of it; `choices` and `max_tokens`: as the client asked for them.

    `error_code`: of the errors that a client can be given. `parent_id`, `tracestate` and `sampled`: the client's trace
    context; `root_id`: the root span, None where it is the last half of the trace's id.
    """

    id: str
    received_at: float
    path: str
    request_id: str | None = None
    model: str | None = None
    key: str | None = None
    stream: bool = False
    choices: int = 1
    max_tokens: int | None = None
    outcome: TraceOutcome = "answered"
    status: int = 0
    slo: dict[str, Any] = {}
    controls: dict[str, Any] = {}
    plan: PlanTrace | None = None
    earlier_plans: list[PlanTrace] = []
    branches: list[BranchTrace] = []
    selection: dict[str, Any] = {}
    latency_ms: float = 0.0
    queued_ms: float = 0.0
    ttft_ms: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    tokens_exact: bool = True
    ledgers: Ledgers | None = None
    rates: dict[str, Rate] = {}
    slo_status: str = "none"
    error: str | None = None
    prompt: Any = None
    answer: str | None = None
    error_code: str | None = None
    parent_id: str | None = None
    root_id: str | None = None
    tracestate: str | None = None
    sampled: bool = True

    def span_id(self, offset: int = ROOT) -> str:
        """Of the root, or of the span so many places after it (`trace_context`)."""
        return span_id(self.root_id or self.id[16:], offset)

    def context_lines(self, offset: int) -> bytes:
        """The header lines for what is sent upstream as that span."""
        return context_lines(self.id, self.span_id(offset), self.tracestate, sampled=self.sampled)

    @property
    def cost_usd(self) -> float | None:
        """Attributed; where a backend has no price per GPU-hour, each branch at the price that its backend has."""
        if self.ledgers is None or self.ledgers.attributed.usd is not None:
            return self.ledgers.attributed.usd if self.ledgers else None
        return total([branch.cost_usd for branch in self.branches]) if self.branches else None

    @property
    def gpu_seconds(self) -> float | None:
        return self.ledgers.attributed.gpu_seconds if self.ledgers else None
