"""When a request's branches must be over."""

from __future__ import annotations

from proxy.controls import Slo

# Of a deadline, what passes before a request is here and after its answer has left: the client measures that, too.
OUTSIDE_SHARE, OUTSIDE_AT_LEAST_S, OUTSIDE_AT_MOST_S = 0.01, 0.002, 0.05
PATIENCE_S = 60.0  # of a request without a deadline


def decide_by(slo: Slo, arrived_at: float, reserve_s: float) -> float | None:
    """The clock's seconds at which arrivals end; None: no deadline. `reserve_s`: from a decision to its last byte."""
    if slo.latency_ms is None:
        return None
    outside_s = min(OUTSIDE_AT_MOST_S, max(OUTSIDE_AT_LEAST_S, OUTSIDE_SHARE * slo.latency_ms / 1e3))
    return arrived_at + slo.latency_ms / 1e3 - reserve_s - outside_s


def patience_s(slo: Slo) -> float:
    """How long its client is taken to wait."""
    return PATIENCE_S if slo.latency_ms is None else slo.latency_ms / 1e3
