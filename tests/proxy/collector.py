"""A collector as OpenTelemetry's exporters see it: OTLP over HTTP with protobuf, or gRPC, on real sockets, decoded with
the protocol's own messages. It can be unwilling (`status`) or slow (`gate`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_pb
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage


@dataclass
class Span:
    """One span as it arrived; ids in hex, times in nanoseconds since 1970."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: str
    status: str
    status_text: str
    start: int
    end: int
    attributes: dict[str, Any]
    events: list[str]
    tracestate: str
    resource: dict[str, Any]


@dataclass
class Received:
    """What a collector was sent. `raw`: every body; `headers`: of the last export."""

    spans: list[Span] = field(default_factory=list)
    metrics: dict[str, list[Any]] = field(default_factory=dict)  # by name: the data points, the newest export's last
    raw: list[bytes] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    exports: int = 0

    def take_spans(self, request: trace_pb.ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            told = plain(resource.resource.attributes)
            for scope in resource.scope_spans:
                self.spans += [_span(span, told) for span in scope.spans]

    def take_metrics(self, request: metrics_pb.ExportMetricsServiceRequest) -> None:
        for resource in request.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    data = getattr(metric, metric.WhichOneof("data"))
                    self.metrics[metric.name] = list(data.data_points)

    def named(self, start: str) -> list[Span]:
        """Spans whose names begin so, in order of their start."""
        return sorted((span for span in self.spans if span.name.startswith(start)), key=lambda span: span.start)

    def point(self, metric: str, **labels: str) -> Any:
        """The only data point with these attributes among its own; `gen_ai_token_type` is `gen_ai.token.type`."""
        found = []
        for point in self.metrics[metric]:
            told = {key.replace(".", "_"): value for key, value in plain(point.attributes).items()}
            if labels.items() <= told.items():
                found.append(point)
        assert len(found) == 1, (metric, labels, [plain(point.attributes) for point in self.metrics[metric]])
        return found[0]


class HttpCollector:
    """`status`: what exports are answered; `gate`: what they wait for; `url`: what `traces.otlp_endpoint` is set to."""

    def __init__(self) -> None:
        self.received = Received()
        self.status = 200
        self.gate: threading.Event | None = None
        self.asked = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        if self.gate is not None:
            self.gate.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(collector: HttpCollector) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.asked += 1
            if collector.gate is not None:
                collector.gate.wait()
            received = collector.received
            if collector.status == 200:
                received.raw.append(body)
                received.headers = {name.lower(): value for name, value in self.headers.items()}
                assert received.headers["content-type"] == "application/x-protobuf"
                if self.path == "/v1/traces":
                    received.take_spans(trace_pb.ExportTraceServiceRequest.FromString(body))
                elif self.path == "/v1/metrics":
                    received.take_metrics(metrics_pb.ExportMetricsServiceRequest.FromString(body))
                received.exports += 1
            self.send_response(collector.status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    return Handler


class GrpcCollector:
    """The same over gRPC."""

    def __init__(self) -> None:
        import grpc
        from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc
        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as trace_grpc

        received = self.received = Received()

        def note(context: Any) -> None:
            received.headers = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
            received.exports += 1

        class Traces(trace_grpc.TraceServiceServicer):
            def Export(self, request: Any, context: Any) -> Any:
                note(context)
                received.take_spans(request)
                return trace_pb.ExportTraceServiceResponse()

        class Metrics(metrics_grpc.MetricsServiceServicer):
            def Export(self, request: Any, context: Any) -> Any:
                note(context)
                received.take_metrics(request)
                return metrics_pb.ExportMetricsServiceResponse()

        self._server = grpc.server(ThreadPoolExecutor(2))
        trace_grpc.add_TraceServiceServicer_to_server(Traces(), self._server)
        metrics_grpc.add_MetricsServiceServicer_to_server(Metrics(), self._server)
        self.url = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def stop(self) -> None:
        self._server.stop(0).wait()


def plain(attributes: Any) -> dict[str, Any]:
    """Protobuf's key-values as a dictionary."""
    return dict(_plain(attributes))


def _plain(attributes: Iterator[KeyValue]) -> Iterator[tuple[str, Any]]:
    for pair in attributes:
        yield pair.key, _value(pair.value)


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind) if kind else None


def _span(span: SpanMessage, resource: dict[str, Any]) -> Span:
    return Span(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        SpanMessage.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        type(span.status).StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
        span.status.message,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        plain(span.attributes),
        [event.name for event in span.events],
        span.trace_state,
        resource,
    )
