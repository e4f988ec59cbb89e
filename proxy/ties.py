"""One of several as good: at random, because every replica of the proxy sees the same old metrics.

Engines tell their load twice a second. Replicas that all took the engine that looks fastest would send it everything
until the next look, and then swing to another (Mitzenmacher, "How useful is old information?", 2000). A chance that
falls with the predicted latency moves traffic by as much as the engines differ, so what replicas do adds up to a share
instead of a jump.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from random import Random

LATENCY_TIE = 0.2  # as good otherwise, but slower than the fastest by this ratio: not as good


def one_of(latencies_s: Sequence[float], rng: Random) -> int:
    """An index. Chances fall linearly from the fastest to none at `LATENCY_TIE` slower; latencies are above 0."""
    limit_s = min(latencies_s) * (1 + LATENCY_TIE)
    return rng.choices(range(len(latencies_s)), cum_weights=[*accumulate(max(0.0, limit_s - s) for s in latencies_s)])[
        0
    ]
