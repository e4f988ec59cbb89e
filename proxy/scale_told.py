"""What a client is told beside its answer: the headers, the usage, and whether the SLO was met."""

from __future__ import annotations

from typing import Any

from proxy import reply
from proxy.controls import Slo
from proxy.exchange import Exchange, Executed
from proxy.plan_run import PlanRun
from proxy.plans import Decision
from proxy.trace import Trace
from proxy.upstream.connection import Headers


def slo_status(slo: Slo, decision: Decision, run: PlanRun[Any], latency_ms: float, cost_usd: float | None) -> str:
    if not slo.demanding:
        return "none"
    late = slo.latency_ms is not None and latency_ms > slo.latency_ms
    dear = slo.cost_usd is not None and cost_usd is not None and cost_usd > slo.cost_usd
    if late or dear:
        return "missed"
    planned = decision.plan.predicted.cut and bool(run.finished)
    cut_short = run.cut_by_deadline and not planned
    return "degraded" if cut_short or not decision.feasible else "met"


def usage(executed: Executed, trace: Trace, status: str) -> reply.Usage:
    run, plan = executed.run, executed.decision.plan
    states = [branch.state for branch in run.branches]
    note = notes(executed)
    return reply.Usage(
        prompt_tokens=trace.prompt_tokens,
        completion_tokens=trace.completion_tokens,
        reasoning_tokens=sum(row.reasoning_tokens for row in trace.branches),
        tts={
            "strategy": plan.strategy,
            "n": plan.branches,
            "completed": len(run.finished),
            "cancelled": states.count("cancelled"),
            "failed": states.count("failed"),
            "agreement": executed.outcome.agreement,
            "backend": plan.backend.name,
            "trace_id": trace.id,
            "cost_usd": trace.cost_usd,
            "gpu_seconds": trace.gpu_seconds,
            "slo_status": status,
            **({"note": note} if note else {}),
        },
    )


def notes(executed: Executed) -> str | None:
    """What the strategy had to do without."""
    notes = [executed.outcome.note, *dict.fromkeys(executed.run.notes)]
    return "; ".join(note for note in notes if note) or None


def headers(exchange: Exchange, decision: Decision) -> Headers:
    plan = decision.plan
    return [
        (b"x-request-id", (exchange.trace.request_id or exchange.trace.id).encode()),
        (b"x-tts-strategy", plan.strategy.encode()),
        (b"x-tts-n", str(plan.branches).encode()),
        (b"x-tts-backend", plan.backend.name.encode()),
        (b"x-slo-predicted-latency-ms", f"{plan.predicted.latency_ms:.0f}".encode()),
    ]
