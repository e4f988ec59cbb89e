"""Shares with their intervals, and quantiles that were truly seen."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import NormalDist

import msgspec


class Share(msgspec.Struct, frozen=True):
    """`count` of `total`; `lower` and `upper` bound the 95% Wilson score interval."""

    count: int
    total: int
    value: float
    lower: float
    upper: float


def share(count: int, total: int, confidence: float = 0.95) -> Share | None:
    """None of none. The interval is Wilson's (JASA 22, 1927), for independent trials: it stays within 0 and 1, and is
    honest near them, where the normal approximation is not."""
    if total == 0:
        return None
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    value = count / total
    centre = (value + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * math.sqrt(value * (1 - value) / total + z**2 / (4 * total**2))
    lower = 0.0 if count == 0 else centre - half  # exactly, where floating point would leave a rest
    return Share(count, total, value, lower, 1.0 if count == total else centre + half)


class Quantiles(msgspec.Struct, frozen=True):
    """Each is a value that was seen: the smallest that so many do not exceed."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    most: float


def quantile(ordered: Sequence[float], q: float) -> float:
    """Of ascending values, at least one."""
    return ordered[max(math.ceil(q * len(ordered) - 1e-9), 1) - 1]


def quantiles(values: Iterable[float | None]) -> Quantiles | None:
    """Of those that are known; None of none."""
    ordered = sorted(value for value in values if value is not None)
    if not ordered:
        return None
    p50, p90, p95, p99 = (quantile(ordered, q) for q in (0.5, 0.9, 0.95, 0.99))
    return Quantiles(math.fsum(ordered) / len(ordered), p50, p90, p95, p99, ordered[-1])
