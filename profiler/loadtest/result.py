"""What became of one request, as the client saw it, and whoever sends it."""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from profiler.loadtest.schedule import Planned
from profiler.loadtest.workload import SloConfig

Outcome = Literal["answered", "refused", "error", "cancelled"]


class Result(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One request; a row of `rows.jsonl`. What the server does not tell is None.

    `at_s`, `sent_s`: planned and real time since the start. `leaves`: its client has a limited patience; `cancelled`:
    it left. `refused`: 503 `slo_infeasible`, before anything was spent. `latency_ms` is from the sending to the last
    byte; `ttft_ms` to the first token, where streamed. `met`: answered within the class's SLO; None where it left.
    `correct`: None where the question has no label or there is no answer. `text` is dropped once it is marked.
    """

    index: int
    slo_class: str
    at_s: float
    stream: bool = False
    leaves: bool = False
    sent_s: float = 0.0
    outcome: Outcome = "error"
    status: int = 0
    error: str | None = None
    latency_ms: float | None = None
    ttft_ms: float | None = None
    met: bool | None = None
    correct: bool | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finish_reason: str | None = None
    strategy: str | None = None
    n: int | None = None
    backend: str | None = None
    slo_status: str | None = None
    predicted_ms: float | None = None
    cost_usd: float | None = None
    exclusive_usd: float | None = None
    gpu_seconds: float | None = None
    trace_id: str | None = None
    text: str | None = None

    @classmethod
    def of(cls, planned: Planned) -> Result:
        """As yet without an outcome."""
        return cls(
            index=planned.index,
            slo_class=planned.slo_class.name,
            at_s=planned.at_s,
            stream=planned.stream,
            leaves=planned.leave_after_s is not None,
        )

    @property
    def late_ms(self) -> float:
        return (self.sent_s - self.at_s) * 1e3


class Caller(Protocol):
    """Sends one request and waits for what becomes of it."""

    async def ask(self, request: Planned) -> Result:
        """Never raises for what the server does: that is an outcome. Cancelled, it drops the request."""
        ...


def met(result: Result, slo: SloConfig) -> bool | None:
    """Whether it was answered within its SLO; without a limit, whether it was answered. A cost that the server does not
    tell breaks no limit, and a demanded quality is judged over the class, not here."""
    if result.outcome == "cancelled":
        return None
    if result.outcome != "answered" or result.latency_ms is None:
        return False
    limits = [
        (result.latency_ms, slo.latency_ms),
        (result.ttft_ms, slo.ttft_ms),
        (_tpot_ms(result), slo.tpot_ms),
        (result.cost_usd, slo.cost_usd),
    ]
    return all(value is None or limit is None or value <= limit for value, limit in limits)


def _tpot_ms(result: Result) -> float | None:
    """Time per output token after the first."""
    if result.latency_ms is None or result.ttft_ms is None or (result.completion_tokens or 0) < 2:
        return None
    return (result.latency_ms - result.ttft_ms) / ((result.completion_tokens or 0) - 1)
