"""The proxy's own metrics page: read where the numbers change, written elsewhere."""

import threading
from collections.abc import Iterator

import pytest
from planner_tables import backend
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from proxy.metrics import Metrics
from proxy.trace import BranchTrace, PlanTrace, Trace
from proxy.trace_store import TraceStore


class Slow(Collector):
    """A number, and in which threads it was read and written."""

    def __init__(self) -> None:
        self.read_in: list[threading.Thread] = []
        self.written_in: list[threading.Thread] = []

    def collect(self) -> Iterator[Metric]:
        self.read_in.append(threading.current_thread())
        yield _Told(self)


class _Told(GaugeMetricFamily):
    def __init__(self, told: Slow) -> None:
        super().__init__("told", "-")
        self._told = told

    @property
    def samples(self) -> list[object]:
        self._told.written_in.append(threading.current_thread())
        return []

    @samples.setter
    def samples(self, value: list[object]) -> None:
        """The base class's own empty list."""


async def test_a_page_is_read_in_the_loop_and_written_in_a_thread() -> None:
    metrics, slow = Metrics([backend()], TraceStore(None, 1)), Slow()
    metrics._registry.register(slow)
    slow.read_in.clear()
    slow.written_in.clear()
    await metrics.page()
    assert slow.read_in == [threading.current_thread()]
    assert slow.written_in and threading.current_thread() not in slow.written_in


async def test_the_page_counts_requests_branches_and_tokens() -> None:
    metrics = Metrics([backend("a")], TraceStore(None, 1))
    trace = Trace(id="0", received_at=0.0, path="/", slo_status="met", latency_ms=700)
    trace.plan = PlanTrace("a", "m", "first-finish", 2, 9)
    trace.branches = [
        BranchTrace(0, "a", "completed", 0.0, 1.0, 0.1, completion_tokens=7),
        BranchTrace(1, "a", "cancelled", 0.0, 1.0, 0.1, completion_tokens=5),
    ]
    metrics.observe(trace, "m")
    metrics.count(trace, "m")
    found = {
        (sample.name, frozenset(sample.labels.values())): sample.value
        for family in text_string_to_metric_families((await metrics.page()).decode())
        for sample in family.samples
    }
    assert found["paretoproxy_requests_total", frozenset({"m", "first-finish", "answered", "met"})] == 1
    assert found["paretoproxy_branches_total", frozenset({"a", "cancelled"})] == 1
    assert found["paretoproxy_completion_tokens_total", frozenset({"a"})] == 12
    bucket = "paretoproxy_request_duration_seconds_bucket"
    assert [found[bucket, frozenset({"m", "first-finish", bound})] for bound in ("0.5", "1.0")] == [0, 1]


def test_times_to_the_first_token_and_for_each_after_it() -> None:
    """A vote whose answer goes on beside a loser, and a score, which has no tokens to wait for."""
    metrics = Metrics([], TraceStore(None, 1))
    branches = [
        BranchTrace(
            0, "a", "completed", start_ms=50, end_ms=650, gpu_seconds=1, first_token_ms=150, completion_tokens=6
        ),
        BranchTrace(
            1, "a", "completed", start_ms=50, end_ms=1150, gpu_seconds=1, first_token_ms=250, completion_tokens=11
        ),
        BranchTrace(2, "b", "completed", start_ms=1150, end_ms=1180, gpu_seconds=1, completion_tokens=1, role="score"),
    ]
    told = Trace(
        "t", 0.0, "/v1/chat/completions", model="m", stream=True, branches=branches, latency_ms=1200, ttft_ms=200
    )
    told.selection = {"winners": [1, 0]}
    metrics.count(told, "m")

    sums = {sample.name: sample.value for family in metrics.read() for sample in family.samples}
    assert sums["paretoproxy_time_to_first_token_seconds_sum"] == 0.2
    assert sums["paretoproxy_time_per_output_token_seconds_sum"] == 0.1  # a second for ten
    assert sums["paretoproxy_branch_time_to_first_token_seconds_sum"] == pytest.approx(0.1 + 0.2)
    assert sums["paretoproxy_branch_time_per_output_token_seconds_sum"] == pytest.approx(0.1 + 0.09)
    assert sums["paretoproxy_branch_time_to_first_token_seconds_count"] == 2
