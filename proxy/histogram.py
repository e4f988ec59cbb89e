"""Histograms in plain numbers, by label values; they become Prometheus families when read."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily


class Histogram:
    """`bounds`: upper edges, ascending, +Inf left out; label values are the caller's to bound."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self._told = name, documentation, tuple(labels)
        self._bounds = tuple(bounds)
        self._rows: dict[tuple[str, ...], _Row] = {}

    def observe(self, labels: tuple[str, ...], value: float) -> None:
        row = self._rows.get(labels)
        if row is None:
            row = self._rows[labels] = _Row(len(self._bounds) + 1)
        row.counts[bisect_left(self._bounds, value)] += 1
        row.sum += value

    def family(self) -> HistogramMetricFamily:
        name, documentation, labels = self._told
        family = HistogramMetricFamily(name, documentation, labels=labels)
        edges = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        for values, row in list(self._rows.items()):
            buckets = list(zip(edges, accumulate(list(row.counts)), strict=True))
            family.add_metric(list(values), buckets, row.sum)
        return family


class _Row:
    """Counts per bucket, the last being +Inf, and the sum."""

    __slots__ = ("counts", "sum")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * buckets
        self.sum = 0.0
