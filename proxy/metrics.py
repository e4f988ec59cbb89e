"""The proxy's own metrics, in a registry of its own, under `paretoproxy_*`, with label values bounded by the
configuration.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from proxy.backend import Backend
from proxy.trace import Trace
from proxy.trace_store import TraceStore

_LATENCY_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counts finished requests; reads backends and the trace store when scraped."""

    def __init__(self, backends: Sequence[Backend], traces: TraceStore) -> None:
        self._registry = CollectorRegistry()
        labels = ("model", "strategy", "outcome", "slo_status")
        self._requests = Counter("paretoproxy_requests", "Finished requests", labels, registry=self._registry)
        self._latency = Histogram(
            "paretoproxy_request_duration_seconds",
            "Arrival to the end of the answer",
            ("model", "strategy"),
            buckets=_LATENCY_BUCKETS_S,
            registry=self._registry,
        )
        branch_labels = ("backend", "outcome")
        self._branches = Counter("paretoproxy_branches", "Upstream branches", branch_labels, registry=self._registry)
        self._tokens = Counter(
            "paretoproxy_completion_tokens", "Generated tokens, losers included", ("backend",), registry=self._registry
        )
        self._registry.register(_Live(backends, traces))
        self._bound: dict[tuple[str, str, str, str], Counter] = {}
        self._bound_latency: dict[tuple[str, str], Histogram] = {}

    def observe(self, trace: Trace, model: str) -> None:
        """`model`: a name from the configuration, or "unknown": never the client's free text."""
        strategy = trace.plan.strategy if trace.plan else "none"
        key = (model, strategy, trace.outcome, trace.slo_status)
        counter = self._bound.get(key)
        if counter is None:
            counter = self._bound[key] = self._requests.labels(*key)
        counter.inc()
        pair = (model, strategy)
        histogram = self._bound_latency.get(pair)
        if histogram is None:
            histogram = self._bound_latency[pair] = self._latency.labels(*pair)
        histogram.observe(trace.latency_ms / 1e3)
        if trace.branches and trace.plan:
            backend = trace.branches[0].backend
            for branch in trace.branches:
                self._branches.labels(backend, branch.outcome).inc()
            self._tokens.labels(backend).inc(trace.completion_tokens)

    def text(self) -> bytes:
        return generate_latest(self._registry)


class _Live(Collector):
    """Gauges that are read, not kept."""

    def __init__(self, backends: Sequence[Backend], traces: TraceStore) -> None:
        self._backends = backends
        self._traces = traces

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("paretoproxy_backend_up", "1 if the last probe succeeded", labels=["backend"])
        flight = GaugeMetricFamily("paretoproxy_backend_in_flight", "Our running branches", labels=["backend"])
        others = GaugeMetricFamily("paretoproxy_backend_others", "Branches of other clients", labels=["backend"])
        missing = GaugeMetricFamily(
            "paretoproxy_backend_metric_missing", "1 if the engine lacks a load metric", labels=["backend", "metric"]
        )
        busy = CounterMetricFamily(
            "paretoproxy_backend_busy_gpu_seconds", "GPU time with a branch of ours", labels=["backend"]
        )
        bias = GaugeMetricFamily(
            "paretoproxy_backend_latency_bias", "Measured over predicted latency, lately", labels=["backend"]
        )
        for backend in self._backends:
            label = [backend.name]
            up.add_metric(label, float(backend.health.serving))
            flight.add_metric(label, backend.in_flight)
            if backend.metric_missing is None:
                others.add_metric(label, backend.gpu_time.others)
            else:
                missing.add_metric([backend.name, backend.metric_missing], 1.0)
            busy.add_metric(label, backend.gpu_time.busy_gpu_s())
            bias.add_metric(label, backend.correction.bias)
        yield from (up, flight, others, missing, busy, bias)
        yield CounterMetricFamily("paretoproxy_traces_dropped", "Traces not stored", value=self._traces.dropped)
        yield CounterMetricFamily("paretoproxy_traces_written", "Traces stored", value=self._traces.written)
