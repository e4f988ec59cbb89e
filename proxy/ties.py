"""One of several as good: at random, because every replica of the proxy sees the same old metrics.

Engines tell their load twice a second. Of engines that look alike, an idle fleet's above all, replicas with one rule
would take the same one until the next look, and then swing to another (Mitzenmacher, "How useful is old information?",
2000). How much of a difference each replica believes at once is the other half of it: `Backend.note_load`.
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
