"""Sends spans and metrics to a collector, from threads of its own. A collector that is down, slow or unwilling costs
what waits for it, never a request: the queue is bounded, and what is dropped is counted on /metrics.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol, Self

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from proxy.backend import Backend
from proxy.config import Config, ConfigError, TelemetryConfig
from proxy.outbox import Outbox
from proxy.trace import Trace

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricExporter
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

    from proxy.telemetry.otlp_metrics import MetricBuilder
    from proxy.telemetry.spans import SpanBuilder

log = logging.getLogger("paretoproxy.telemetry")

# Building and encoding hold the interpreter; between batches of this size the event loop gets it.
TRACES_PER_BATCH = 16
SPANS_PER_EXPORT = 512
GATHER_S = 0.5
CLOSE_WITHIN_S = 5.0
MAX_CONTENT = 64 * 1024  # characters of an answer, bytes of a prompt; a longer prompt is left out


class Page(Protocol):
    """What the metrics are read from (`proxy.metrics.Metrics`)."""

    def read(self) -> list[Family]: ...
    def add(self, collector: Collector) -> None: ...


def check(config: Config) -> None:
    """Raises ConfigError where the exporter that is asked for is not installed."""
    if config.traces.otlp_endpoint is not None and config.telemetry.protocol == "grpc" and not _has_grpc():
        raise ConfigError("telemetry.protocol: grpc needs the extra `paretoproxy[otlp-grpc]`, or use http/protobuf")


def _has_grpc() -> bool:
    return find_spec("grpc") is not None and find_spec("opentelemetry.exporter.otlp.proto.grpc") is not None


class Telemetry(Collector):
    """Started on the running loop by `start`, ended by `aclose`. `offer` is safe from any thread and never waits."""

    def __init__(
        self,
        config: TelemetryConfig,
        spans: SpanBuilder,
        metrics: MetricBuilder,
        exporters: tuple[SpanExporter, MetricExporter],
        read: Callable[[], list[Family]],
    ) -> None:
        self._build_spans, self._build_metrics = spans, metrics
        self._span_exporter, self._metric_exporter = exporters
        self._read = read
        self._every_s = config.metrics_every_s
        self._content = config.content
        self._said_failing = False
        self.exported = 0
        self.failed = 0
        self.metrics_exported = 0
        self.metrics_failed = 0
        self._traces: Outbox[Trace] = Outbox(
            "otlp-spans",
            self._send_spans,
            size=config.queue_size,
            batch=TRACES_PER_BATCH,
            every_s=GATHER_S,
        )
        self._families: Outbox[list[Family]] = Outbox("otlp-metrics", self._send_metrics, size=2)
        self._ticking = asyncio.create_task(self._tick(), name="otlp-metrics")

    @classmethod
    def start(cls, config: Config, backends: Mapping[str, Backend], page: Page) -> Self:
        """Raises ConfigError."""
        check(config)
        from opentelemetry.sdk.resources import Resource

        from proxy.telemetry.otlp_metrics import MetricBuilder
        from proxy.telemetry.spans import SpanBuilder

        telemetry = config.telemetry
        process = f"{socket.gethostname()}-{os.getpid()}"  # workers and replicas are not each other
        resource = Resource.create(
            {
                "service.name": telemetry.service_name,
                "service.version": _version(),
                "service.instance.id": process,
            }
        )
        started = cls(
            telemetry,
            SpanBuilder(resource, backends, content=telemetry.content),
            MetricBuilder(resource, backends),
            _exporters(config),
            page.read,
        )
        page.add(started)
        return started

    def offer(self, trace: Trace) -> None:
        """A finished trace; one that its caller did not sample is left out."""
        if trace.sampled:
            self._traces.put(_bounded(trace, self._content))

    def use(self, backends: Mapping[str, Backend]) -> None:
        """All that there are from now on, by name: after a reload."""
        self._build_spans.backends = self._build_metrics.backends = backends

    async def aclose(self) -> None:
        """Send what waits, and the last numbers, for `CLOSE_WITHIN_S` at most."""
        self._ticking.cancel()
        with suppress(asyncio.CancelledError):
            await self._ticking
        self._families.put(self._read())
        await asyncio.to_thread(self._close)

    def collect(self) -> Iterator[Family]:
        """Of its own doings."""
        traces = CounterMetricFamily(
            "paretoproxy_telemetry_traces", "Requests whose spans were to be exported", labels=["result"]
        )
        for result, count in (("exported", self.exported), ("failed", self.failed), ("dropped", self._traces.dropped)):
            traces.add_metric([result], count)
        metrics = CounterMetricFamily(
            "paretoproxy_telemetry_metric_exports", "Exports of the metrics", labels=["result"]
        )
        outcomes = {
            "exported": self.metrics_exported,
            "failed": self.metrics_failed,
            "dropped": self._families.dropped,
        }
        for result, count in outcomes.items():
            metrics.add_metric([result], count)
        waiting = GaugeMetricFamily("paretoproxy_telemetry_queue", "Requests whose spans wait for the collector")
        waiting.add_metric([], self._traces.waiting)
        yield from (traces, metrics, waiting)

    # -- inside --

    async def _tick(self) -> None:
        """Numbers are read on the loop, where they change."""
        while True:
            await asyncio.sleep(self._every_s)
            self._families.put(self._read())

    def _close(self) -> None:
        until = time.monotonic() + CLOSE_WITHIN_S
        self._traces.close(CLOSE_WITHIN_S, self._span_exporter.shutdown)
        self._families.close(max(0.1, until - time.monotonic()), self._metric_exporter.shutdown)

    def _send_spans(self, batch: list[Trace]) -> None:
        spans: list[ReadableSpan] = []
        kept = 0
        for trace in batch:
            try:
                spans += self._build_spans.spans(trace)
                kept += 1
            except Exception as error:  # one bad trace costs neither the others nor the thread
                self._say(f"{type(error).__name__}: {error}")
                self.failed += 1
            time.sleep(0)
        sent = all([self._export(spans[at : at + SPANS_PER_EXPORT]) for at in range(0, len(spans), SPANS_PER_EXPORT)])
        if sent:
            self.exported += kept
        else:
            self.failed += kept

    def _export(self, spans: list[ReadableSpan]) -> bool:
        from opentelemetry.sdk.trace.export import SpanExportResult

        return self._told(self._span_exporter.export(spans) is SpanExportResult.SUCCESS)

    def _send_metrics(self, batch: list[list[Family]]) -> None:
        from opentelemetry.sdk.metrics.export import MetricExportResult

        sent = self._metric_exporter.export(self._build_metrics.data(batch[-1])) is MetricExportResult.SUCCESS
        if self._told(sent):
            self.metrics_exported += 1
        else:
            self.metrics_failed += 1

    def _told(self, sent: bool) -> bool:
        if sent:
            self._said_failing = False
        else:
            self._say("the collector did not take it")
        return sent

    def _say(self, why: str) -> None:
        if not self._said_failing:
            self._said_failing = True
            log.error("spans or metrics are lost: %s; see paretoproxy_telemetry_traces_total", why)


def _bounded(trace: Trace, content: bool) -> Trace:
    """What waits in the queue must not hold prompts of any size; and what the store may not keep is taken out of the
    record itself afterwards. So a copy, where there is content."""
    if trace.prompt is None and trace.answer is None and not content:
        return trace
    kept = copy.copy(trace)
    kept.branches = [copy.copy(branch) for branch in trace.branches]
    for branch in kept.branches:
        branch.answer = branch.answer[:MAX_CONTENT] if content and branch.answer is not None else None
    kept.answer = kept.answer[:MAX_CONTENT] if content and kept.answer is not None else None
    if not content or len(msgspec.json.encode(kept.prompt)) > MAX_CONTENT:
        kept.prompt = None
    return kept


def _exporters(config: Config) -> tuple[SpanExporter, MetricExporter]:
    telemetry, endpoint = config.telemetry, config.traces.otlp_endpoint
    if telemetry.protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc import metric_exporter as grpc_metrics
        from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as grpc_traces

        options: dict[str, Any] = {
            "endpoint": endpoint,
            "headers": {name.lower(): value for name, value in telemetry.headers.items()},
            "timeout": telemetry.timeout_s,
        }
        return grpc_traces.OTLPSpanExporter(**options), grpc_metrics.OTLPMetricExporter(**options)
    from opentelemetry.exporter.otlp.proto.http import metric_exporter as http_metrics
    from opentelemetry.exporter.otlp.proto.http import trace_exporter as http_traces

    options = {"headers": telemetry.headers, "timeout": telemetry.timeout_s}
    return (
        http_traces.OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces", **options),
        http_metrics.OTLPMetricExporter(endpoint=f"{endpoint}/v1/metrics", **options),
    )


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("paretoproxy")
    except PackageNotFoundError:
        return "unknown"
