"""The highest rate at which the SLO is still attained: doubling, then bisection."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import msgspec

from profiler.loadtest import LoadTestError
from profiler.loadtest.statistics import Share

MAX_RATE = 1e5
MIN_RATE_OF_START = 1 / 1024


class Probe(msgspec.Struct, frozen=True):
    """One rate, held for a while."""

    rate_per_s: float
    attainment: Share
    goodput_per_s: float
    p95_latency_ms: float | None = None
    sustained: bool = False


class FoundMax(msgspec.Struct, frozen=True):
    """`rate_per_s`: the highest that was sustained, None where none was. `too_much_per_s`: the lowest that was not, at
    most `resolution` above; None where the generator came to its own end first (`limited_by` says how)."""

    target: float
    resolution: float
    rate_per_s: float | None
    too_much_per_s: float | None
    probes: list[Probe]
    limited_by: str | None = None


class ProbeFailed(LoadTestError):
    """The generator could not offer this rate."""


async def find_max(
    probe: Callable[[float], Awaitable[Probe]],
    *,
    start: float,
    target: float = 0.95,
    resolution: float = 0.05,
    seen: Callable[[Probe], None] = lambda one: None,
) -> FoundMax:
    """Doubles from `start` requests/s until the attainment falls under `target` (or halves until it does not), then
    bisects, at the geometric mean, until both sides are within `resolution`. `probe` raises ProbeFailed for a rate that
    the generator cannot offer. The attainment itself decides, not its interval: longer probes make it surer."""
    probes: list[Probe] = []
    low: float | None = None
    high: float | None = None
    limited_by = None
    rate = start
    while True:
        try:
            one = await probe(rate)
        except ProbeFailed as error:
            limited_by = str(error)
            break
        one = msgspec.structs.replace(one, sustained=one.attainment.value >= target)
        probes.append(one)
        seen(one)
        if one.sustained:
            low = rate
        else:
            high = rate
        if high is None:
            rate *= 2
        elif low is None:
            rate /= 2
        elif high / low <= 1 + resolution:
            break
        else:
            rate = math.sqrt(low * high)
        if rate > MAX_RATE or rate < start * MIN_RATE_OF_START:
            break
    return FoundMax(target, resolution, low, high, probes, limited_by)
