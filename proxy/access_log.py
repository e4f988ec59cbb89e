"""One line per finished request: what an operator greps for, and nothing that the client wrote."""

from __future__ import annotations

import logging
from typing import Any

from proxy.trace import Trace

log = logging.getLogger("paretoproxy.access")


def write(trace: Trace, model: str) -> None:
    """`model`: a name from the configuration, or "unknown". Called in the trace writer's thread."""
    log.info("%s", trace.path, extra={"trace_id": trace.id, "fields": fields(trace, model)})


def fields(trace: Trace, model: str) -> dict[str, Any]:
    plan = trace.plan
    return {
        "status": trace.status,
        "outcome": trace.outcome,
        "model": model,
        "strategy": plan.strategy if plan is not None else None,
        "n": plan.n if plan is not None else None,
        "backend": plan.backend if plan is not None else None,
        "stream": trace.stream,
        "latency_ms": trace.latency_ms,
        "ttft_ms": trace.ttft_ms,
        "prompt_tokens": trace.prompt_tokens,
        "completion_tokens": trace.completion_tokens,
        "gpu_seconds": trace.gpu_seconds,
        "cost_usd": trace.cost_usd,
        "slo_status": trace.slo_status,
        "error_code": trace.error_code,
    }
