"""The families of /metrics as OpenTelemetry's metrics: the same numbers, counted once.

`paretoproxy_requests_total` goes out as `paretoproxy.requests`, so that a collector that exports to Prometheus gives
the old name back. Histograms that the GenAI conventions know go out a second time under their names: what the
proxy asks as a client's, what it answers as a server's.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import prometheus_client.core as prometheus
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource

from proxy.backend import Backend
from proxy.operations import PROVIDER
from proxy.telemetry.spans import SCHEMA_URL, SCOPE

_CUMULATIVE = AggregationTemporality.CUMULATIVE
_UNITS = {"_seconds": "s", "_usd": "{USD}", "_tokens": "{token}"}
_CLIENT, _SERVER = "gen_ai.client.operation", "gen_ai.server"
_GENAI = {
    "paretoproxy_branch_duration_seconds": (f"{_CLIENT}.duration", "GenAI operation duration.", "s"),
    "paretoproxy_branch_time_to_first_token_seconds": (
        f"{_CLIENT}.time_to_first_chunk",
        "Time to receive the first chunk of a streamed answer.",
        "s",
    ),
    "paretoproxy_branch_time_per_output_token_seconds": (
        f"{_CLIENT}.time_per_output_chunk",
        "Time per output token after the first, averaged over each operation.",
        "s",
    ),
    "paretoproxy_request_duration_seconds": (f"{_SERVER}.request.duration", "GenAI server request duration.", "s"),
    "paretoproxy_time_to_first_token_seconds": (
        f"{_SERVER}.time_to_first_token",
        "Time to give the client the first of a streamed answer.",
        "s",
    ),
    "paretoproxy_time_per_output_token_seconds": (
        f"{_SERVER}.time_per_output_token",
        "Time per output token after the first, averaged over each streamed answer.",
        "s",
    ),
    "paretoproxy_branch_tokens": ("gen_ai.client.token.usage", "Number of input and output tokens used.", "{token}"),
}
Attributes = dict[str, Any]


class MetricBuilder:
    """`backends`: all that there are, by name. Sums count from when this was made."""

    def __init__(self, resource: Resource, backends: Mapping[str, Backend]) -> None:
        self._resource = resource
        self.backends = backends
        self._since = time.time_ns()

    def data(self, families: Iterable[prometheus.Metric]) -> MetricsData:
        now = time.time_ns()
        metrics = [metric for family in families for metric in self._metrics(family, now)]
        scope = ScopeMetrics(SCOPE, metrics, SCHEMA_URL)
        return MetricsData([ResourceMetrics(self._resource, [scope], SCHEMA_URL)])

    def _metrics(self, family: prometheus.Metric, now: int) -> Iterator[Metric]:
        if not family.samples:
            return
        name = "paretoproxy." + family.name.removeprefix("paretoproxy_")
        unit = next((unit for suffix, unit in _UNITS.items() if family.name.endswith(suffix)), "1")
        if family.type != "histogram":
            points = [
                NumberDataPoint(dict(sample.labels), self._since, now, float(sample.value))
                for sample in family.samples
                if not sample.name.endswith("_created")
            ]
            counts = family.type == "counter"
            yield Metric(name, family.documentation, unit, Sum(points, _CUMULATIVE, True) if counts else Gauge(points))
            return
        rows = list(_rows(family))
        yield self._histogram(name, family.documentation, unit, rows, now)
        if family.name in _GENAI:
            renamed = [(self._genai(labels), bounds, counts, total) for labels, bounds, counts, total in rows]
            yield self._histogram(*_GENAI[family.name], renamed, now)

    def _histogram(self, name: str, documentation: str, unit: str, rows: Sequence[_Row], now: int) -> Metric:
        points = []
        for labels, bounds, counts, total in rows:
            count = sum(counts)
            # Extremes are not known: the bounds that enclose them would be a guess, so both are left at the mean.
            mean = total / count if count else 0.0
            points.append(HistogramDataPoint(labels, self._since, now, count, total, counts, bounds, mean, mean))
        return Metric(name, documentation, unit, Histogram(points, _CUMULATIVE))

    def _genai(self, labels: Attributes) -> Attributes:
        if "backend" not in labels:  # a request of a client
            return {
                "gen_ai.operation.name": "invoke_workflow",
                "gen_ai.provider.name": PROVIDER,
                "gen_ai.request.model": labels["model"],
                "gen_ai.workflow.name": labels["strategy"],
            }
        backend = self.backends.get(labels["backend"])
        found: Attributes = {
            "gen_ai.operation.name": labels["operation"],
            "gen_ai.provider.name": PROVIDER,
            "paretoproxy.backend": labels["backend"],
        }
        if backend is not None:
            found["gen_ai.request.model"] = found["gen_ai.response.model"] = backend.model
            found["server.address"], found["server.port"] = backend.pool.origin.host, backend.pool.origin.port
        if "type" in labels:
            found["gen_ai.token.type"] = labels["type"]
        if outcome := labels.get("outcome"):
            found["paretoproxy.outcome"] = outcome
            if outcome == "failed":
                found["error.type"] = "_OTHER"
        return found


_Row = tuple[Attributes, list[float], list[int], float]  # labels, bounds without +Inf, counts per bucket, sum


def _rows(family: prometheus.Metric) -> Iterator[_Row]:
    """One per set of labels: prometheus_client lists a row's buckets in order, then its count and its sum."""
    labels: Attributes = {}
    bounds: list[float] = []
    cumulative: list[float] = []
    for sample in family.samples:
        if sample.name.endswith("_bucket"):
            labels = {key: value for key, value in sample.labels.items() if key != "le"}
            if sample.labels["le"] != "+Inf":
                bounds.append(float(sample.labels["le"]))
            cumulative.append(sample.value)
        elif sample.name.endswith("_sum"):
            counts = [int(after - before) for before, after in pairwise([0.0, *cumulative])]
            yield labels, bounds, counts, sample.value
            bounds, cumulative = [], []
