"""The proxy's own metrics, in a registry of its own, under `paretoproxy_*`, with label values bounded by the
configuration.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from proxy.backend import Backend
from proxy.catalog import Served
from proxy.correction import QUANTILES
from proxy.histogram import Histogram
from proxy.logs import LogHandler
from proxy.request_metrics import RequestMetrics
from proxy.trace import Trace
from proxy.trace_store import TraceStore

# Close where SLOs are set, so that a share in time can be read off them.
_LATENCY_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2.5, 4, 5, 6, 8, 10, 15, 20, 30, 60, 120, 300)


class Metrics(Collector):
    """Counts finished requests in plain numbers (a lock and a label look-up per count would cost a tenth of a small
    request); they become metric families when scraped."""

    def __init__(
        self,
        backends: Sequence[Backend],
        traces: TraceStore,
        served: Iterable[Served] = (),
        pooled: Sequence[Backend] = (),
    ) -> None:
        self._requests: dict[tuple[str, str, str, str], int] = {}
        self._latency = Histogram(
            "paretoproxy_request_duration_seconds",
            "Arrival to the end of the answer",
            ["model", "strategy"],
            _LATENCY_BUCKETS_S,
        )
        self._branches: dict[tuple[str, str], int] = {}
        self._finished = RequestMetrics()
        self._registry = CollectorRegistry()
        self._live, self._quality = _Live(backends, pooled, traces), _Quality(tuple(served))
        for collector in (self, self._live, self._quality):
            self._registry.register(collector)

    def follow(self, backends: Sequence[Backend], served: Iterable[Served], pooled: Sequence[Backend]) -> None:
        """After a reload: these are read now. What was counted stays."""
        self._live.backends, self._live.pooled = backends, pooled
        self._quality.served = tuple(served)

    def add(self, collector: Collector) -> None:
        """Further families on the page."""
        self._registry.register(collector)

    def observe(self, trace: Trace, model: str) -> None:
        """`model`: a name from the configuration, or "unknown": never the client's free text."""
        strategy = trace.plan.strategy if trace.plan else "none"
        key = (model, strategy, trace.outcome, trace.slo_status)
        self._requests[key] = self._requests.get(key, 0) + 1
        self._latency.observe((model, strategy), trace.latency_ms / 1e3)
        for branch in trace.branches:
            pair = (branch.backend, branch.outcome)
            self._branches[pair] = self._branches.get(pair, 0) + 1

    def count(self, trace: Trace, model: str) -> None:
        """The rest, once the trace is whole: in the trace writer's thread."""
        self._finished.count(trace, model)

    def collect(self) -> Iterator[Metric]:
        labels = ["model", "strategy", "outcome", "slo_status"]
        requests = CounterMetricFamily("paretoproxy_requests", "Finished requests", labels=labels)
        for key, count in list(self._requests.items()):
            requests.add_metric(list(key), count)
        branches = CounterMetricFamily("paretoproxy_branches", "Upstream branches", labels=["backend", "outcome"])
        for pair, count in list(self._branches.items()):
            branches.add_metric(list(pair), count)
        yield from (requests, self._latency.family(), branches)
        yield from self._finished.families()
        lines = CounterMetricFamily("paretoproxy_log_lines_dropped", "Log lines not written")
        lines.add_metric([], sum(h.dropped for h in logging.getLogger().handlers if isinstance(h, LogHandler)))
        yield lines

    async def page(self, families: list[Metric] | None = None) -> bytes:
        """Prometheus' text, of our own numbers unless `families` are given. They are read here, where they change; a
        page of thousands of lines is written in a thread, so that requests do not wait for it."""
        return await asyncio.to_thread(generate_latest, _Read(self.read() if families is None else families))

    def read(self) -> list[Metric]:
        return list(self._registry.collect())


class _Read(CollectorRegistry):
    """Families that were collected before."""

    def __init__(self, families: list[Metric]) -> None:
        super().__init__()
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)


class _Live(Collector):
    """Gauges that are read, not kept."""

    def __init__(self, backends: Sequence[Backend], pooled: Sequence[Backend], traces: TraceStore) -> None:
        self.backends = backends
        self.pooled = pooled
        self._traces = traces

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily(
            "paretoproxy_backend_up", "1 while it may get requests; see paretoproxy_backend_state", labels=["backend"]
        )
        flight = GaugeMetricFamily("paretoproxy_backend_in_flight", "Our running branches", labels=["backend"])
        others = GaugeMetricFamily("paretoproxy_backend_others", "Branches of other clients", labels=["backend"])
        missing = GaugeMetricFamily(
            "paretoproxy_backend_metric_missing", "1 if the engine lacks a load metric", labels=["backend", "metric"]
        )
        busy = CounterMetricFamily(
            "paretoproxy_backend_busy_gpu_seconds", "GPU time with a branch of ours", labels=["backend"]
        )
        spent = CounterMetricFamily(
            "paretoproxy_backend_gpu_seconds",
            "Wall-clock GPU time: attributed to branches of ours, of others beside them, idle",
            labels=["backend", "kind"],
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
        for backend in self.backends:
            label = [backend.name]
            up.add_metric(label, float(backend.health.serving))
            flight.add_metric(label, backend.in_flight)
            if backend.metric_missing is None:
                others.add_metric(label, backend.gpu_time.others)
            else:
                missing.add_metric([backend.name, backend.metric_missing], 1.0)
            busy.add_metric(label, backend.gpu_time.busy_gpu_s())
            _add_spent(spent, backend)
            bias.add_metric(label, backend.correction.bias)
            spread.add_metric(label, backend.correction.spread)
            for quantile in QUANTILES:
                known.add_metric([backend.name, f"{quantile:g}"], backend.correction.known[quantile])
                within.add_metric([backend.name, f"{quantile:g}"], backend.correction.within[quantile])
        for backend in self.pooled:
            _add_spent(spent, backend)
        yield from (up, flight, others, missing, busy, spent, bias, spread, known, within)
        yield CounterMetricFamily("paretoproxy_traces_dropped", "Traces not stored", value=self._traces.dropped)
        works = float(self._traces.problem is None)
        yield GaugeMetricFamily("paretoproxy_trace_store_up", "0 while traces cannot be written", value=works)
        yield GaugeMetricFamily("paretoproxy_traces_waiting", "Traces not yet stored", value=self._traces.waiting)
        yield CounterMetricFamily("paretoproxy_traces_written", "Traces stored", value=self._traces.written)


def _add_spent(spent: CounterMetricFamily, backend: Backend) -> None:
    for kind, seconds in backend.gpu_time.spent()._asdict().items():
        spent.add_metric([backend.name, kind], seconds)


class _Quality(Collector):
    """What agreement lately says of accuracy. No sample before the first vote; the task of requests without one is
    empty."""

    def __init__(self, served: Sequence[Served]) -> None:
        self.served = served

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
        for served in self.served:
            for task, watch in served.watches.items():
                if watch.expected is not None:
                    expected.add_metric([served.name, task or ""], watch.expected)
                    drift.add_metric([served.name, task or ""], watch.drift)
        yield from (expected, drift)
