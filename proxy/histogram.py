"""Histograms in plain numbers, by label values; they become Prometheus families when read."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.samples import Sample


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
        """As it is now."""
        edges = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        rows = [(values, row.counts.copy(), row.sum) for values, row in list(self._rows.items())]
        return _Snapshot(*self._told, edges, rows)


class _Snapshot(HistogramMetricFamily):
    """Its samples, a dozen and more a row, are made when somebody first asks for them: the writer of the page, in a
    thread."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        edges: Sequence[str],
        rows: Sequence[tuple[Sequence[str], list[int], float]],
    ) -> None:
        super().__init__(name, documentation, labels=labels)
        self._edges, self._rows = edges, rows
        del self.samples

    def __getattr__(self, name: str) -> list[Sample]:
        if name != "samples":
            raise AttributeError(name)
        whole = HistogramMetricFamily(self.name, self.documentation, labels=self._labelnames)
        for values, counts, total in self._rows:
            whole.add_metric(values, list(zip(self._edges, accumulate(counts), strict=True)), total)
        self.samples: list[Sample] = whole.samples
        return self.samples


class _Row:
    """Counts per bucket, the last being +Inf, and the sum."""

    __slots__ = ("counts", "sum")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * buckets
        self.sum = 0.0
