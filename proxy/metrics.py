"""The proxy's own metrics, in a registry of its own, under `paretoproxy_*`, with label values bounded by the
configuration.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from proxy.backend import Backend
from proxy.catalog import Served
from proxy.correction import QUANTILES
from proxy.trace import Trace
from proxy.trace_store import TraceStore

_LATENCY_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics(Collector):
    """Counts finished requests in plain numbers (a lock and a label look-up per count would cost a tenth of a small
    request); they become metric families when scraped."""

    def __init__(self, backends: Sequence[Backend], traces: TraceStore, served: Iterable[Served] = ()) -> None:
        self._requests: dict[tuple[str, str, str, str], int] = {}
        self._latency: dict[tuple[str, str], _Latency] = {}
        self._branches: dict[tuple[str, str], int] = {}
        self._tokens: dict[str, int] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._registry.register(_Live(backends, traces))
        self._registry.register(_Quality(tuple(served)))

    def add(self, collector: Collector) -> None:
        """Further families for the page."""
        self._registry.register(collector)

    def observe(self, trace: Trace, model: str) -> None:
        """`model`: a name from the configuration, or "unknown": never the client's free text."""
        strategy = trace.plan.strategy if trace.plan else "none"
        key = (model, strategy, trace.outcome, trace.slo_status)
        self._requests[key] = self._requests.get(key, 0) + 1
        latency = self._latency.get((model, strategy))
        if latency is None:
            latency = self._latency[model, strategy] = _Latency()
        latency.observe(trace.latency_ms / 1e3)
        for branch in trace.branches:
            pair = (branch.backend, branch.outcome)
            self._branches[pair] = self._branches.get(pair, 0) + 1

    def count_tokens(self, trace: Trace) -> None:
        """Once the trace's tokens are known: for pass-through that is in the trace writer's thread."""
        for branch in trace.branches:
            self._tokens[branch.backend] = self._tokens.get(branch.backend, 0) + branch.completion_tokens

    def collect(self) -> Iterator[Metric]:
        labels = ["model", "strategy", "outcome", "slo_status"]
        requests = CounterMetricFamily("paretoproxy_requests", "Finished requests", labels=labels)
        for key, count in list(self._requests.items()):
            requests.add_metric(list(key), count)
        duration = HistogramMetricFamily(
            "paretoproxy_request_duration_seconds", "Arrival to the end of the answer", labels=["model", "strategy"]
        )
        for pair, latency in list(self._latency.items()):
            duration.add_metric(list(pair), latency.cumulative(), latency.sum_s)
        branches = CounterMetricFamily("paretoproxy_branches", "Upstream branches", labels=["backend", "outcome"])
        for pair, count in list(self._branches.items()):
            branches.add_metric(list(pair), count)
        tokens = CounterMetricFamily(
            "paretoproxy_completion_tokens", "Generated tokens, losers included", labels=["backend"]
        )
        for backend, count in list(self._tokens.items()):
            tokens.add_metric([backend], count)
        yield from (requests, duration, branches, tokens)

    async def page(self) -> bytes:
        """Prometheus' text. Numbers are read here, where they change; a page of thousands of lines is written in a
        thread, so that requests do not wait for it."""
        return await asyncio.to_thread(generate_latest, _Read(self.read()))

    def read(self) -> list[Metric]:
        return list(self._registry.collect())


class _Read(CollectorRegistry):
    """Families that were collected before."""

    def __init__(self, families: list[Metric]) -> None:
        super().__init__()
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)


class _Latency:
    """One histogram's counts per bucket, the last being +Inf, and its sum."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(_LATENCY_BUCKETS_S) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(_LATENCY_BUCKETS_S, seconds)] += 1
        self.sum_s += seconds

    def cumulative(self) -> list[tuple[str, float]]:
        bounds = [*(str(float(bound)) for bound in _LATENCY_BUCKETS_S), "+Inf"]
        return list(zip(bounds, accumulate(self.counts), strict=True))


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
        spread = GaugeMetricFamily(
            "paretoproxy_backend_latency_spread",
            "Power of tail over median that predictions lately need",
            labels=["backend"],
        )
        known = CounterMetricFamily(
            "paretoproxy_prediction_known",
            "Requests for which it is known on which side they fell",
            labels=["backend", "quantile"],
        )
        within = CounterMetricFamily(
            "paretoproxy_prediction_within", "Requests inside their predicted quantile", labels=["backend", "quantile"]
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
            spread.add_metric(label, backend.correction.spread)
            for quantile in QUANTILES:
                known.add_metric([backend.name, f"{quantile:g}"], backend.correction.known[quantile])
                within.add_metric([backend.name, f"{quantile:g}"], backend.correction.within[quantile])
        yield from (up, flight, others, missing, busy, bias, spread, known, within)
        yield CounterMetricFamily("paretoproxy_traces_dropped", "Traces not stored", value=self._traces.dropped)
        yield CounterMetricFamily("paretoproxy_traces_written", "Traces stored", value=self._traces.written)


class _Quality(Collector):
    """What agreement lately says of accuracy. No sample before the first vote; the task of requests without one is
    empty."""

    def __init__(self, served: Sequence[Served]) -> None:
        self._served = served

    def collect(self) -> Iterator[Metric]:
        labels = ["model", "task"]
        expected = GaugeMetricFamily(
            "paretoproxy_expected_accuracy", "Of recent votes, from their agreement", labels=labels
        )
        drift = GaugeMetricFamily(
            "paretoproxy_quality_drift",
            "1 (-1) while votes lastingly agree more (less) than the quality table expects",
            labels=labels,
        )
        for served in self._served:
            for task, watch in served.watches.items():
                if watch.expected is not None:
                    expected.add_metric([served.name, task or ""], watch.expected)
                    drift.add_metric([served.name, task or ""], watch.drift)
        yield from (expected, drift)
