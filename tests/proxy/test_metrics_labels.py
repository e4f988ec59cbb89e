"""No client can make a label value: every request leaves the set of series within what the configuration spans."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any, get_args

import pytest
from http_rig import CHAT, Fleet, RunningProxy, chat, vote
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from scripted_backend import until

from proxy.errors import DeadlineExceeded, InvalidControl, SloInfeasible, Unauthorized
from proxy.health import Cause
from proxy.limits import LIMITS
from proxy.metrics import Metrics
from proxy.reliability.admission import Reason as Shed
from proxy.reliability.collector import STATES
from proxy.reliability.retrying import Denied, Kind, Reason
from proxy.request_metrics import SLO_KINDS, RequestMetrics
from proxy.trace import BranchTrace, Trace
from strategies.registry import Registry

WORDS = st.text(min_size=1, max_size=20)
SENT = st.fixed_dictionaries(
    {"model": WORDS | st.sampled_from(["m", "m@self-consistency:2", "m@nothing", "moa-m"])},
    optional={
        "tts": st.dictionaries(st.sampled_from(["strategy", "n", "task", "stop"]) | WORDS, WORDS | st.integers(0, 4)),
        "slo": st.dictionaries(
            st.sampled_from([*SLO_KINDS, "mode", "objective"]) | WORDS, WORDS | st.integers(1, 9999)
        ),
        "user": WORDS,
    },
)
HEADERS = st.dictionaries(
    st.sampled_from(["x-tts-strategy", "x-slo-latency-ms", "x-tts-task", "x-request-id", "user-agent", "traceparent"]),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20),
)


async def page(proxy: RunningProxy) -> list[Any]:
    text = (await proxy.client.get("/metrics")).text
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


async def test_a_client_cannot_make_a_label_value(fleet: Fleet) -> None:
    await fleet.backend()
    proxy = await fleet.proxy(first_model={"task": None})
    requests: list[tuple[dict[str, Any], dict[str, str]]] = []

    @settings(max_examples=150)
    @given(SENT, HEADERS)
    def draw(body: dict[str, Any], headers: dict[str, str]) -> None:
        requests.append((body, headers))

    draw()
    gate = asyncio.Semaphore(8)

    async def send(body: dict[str, Any], headers: dict[str, str]) -> None:
        async with gate:
            await proxy.client.post(CHAT, content=json.dumps({**chat(), **body}).encode(), headers=headers)

    await asyncio.gather(*(send(body, headers) for body, headers in requests))
    await until(lambda: proxy.service.traces.written == len(requests), 20)

    allowed = {
        "model": {"m", "unknown"},
        "strategy": {*Registry.installed().names},
        "backend": {"a"},
        "outcome": {"answered", "refused", "failed", "client_gone", "completed", "truncated", "cancelled"},
        "slo_status": {"met", "missed", "degraded", "none"},
        "kind": {*SLO_KINDS.values(), *get_args(Kind), "attributed", "others", "idle"},
        "status": {"met", "missed", "degraded", "answered", "refused", "failed", "client_gone"},
        "ledger": {"attributed", "exclusive", "marginal", "billed"},
        "operation": {"chat", "text_completion", "embeddings", "tokenize", "detokenize", "score"},
        "type": {"input", "output"},
        "task": {"math", ""},
        "limit": set(LIMITS),
        "result": {"ok", "failed"},
        "state": set(STATES),
        "cause": set(get_args(Cause)),
        "reason": {*get_args(Reason), *get_args(Shed)},
        "class": {"priority", "default", "flex"},
        "why": set(get_args(Denied)),
    }
    samples = await page(proxy)
    seen = {(label, value) for sample in samples for label, value in sample.labels.items() if label in allowed}
    assert {(label, value) for label, value in seen if value not in allowed[label]} == set()
    codes = {sample.labels["code"] for sample in samples if "code" in sample.labels}
    assert codes <= {"model_not_found", "invalid_control", "invalid_json", "invalid_request_error", "model_missing"}
    assert {label for sample in samples for label in sample.labels} <= {*allowed, "code", "le", "quantile", "metric"}
    total = sum(sample.value for sample in samples if sample.name == "paretoproxy_requests_total")
    assert total == len(requests), "and each is counted"


def test_every_error_code_is_a_word_of_the_code() -> None:
    errors = [
        InvalidControl("client's text", "client's text"),
        Unauthorized("client's text", code="invalid_api_key"),
        SloInfeasible("client's text"),
        DeadlineExceeded("client's text"),
    ]
    assert all(re.fullmatch(r"[a-z_]+", error.code or error.type) for error in errors)


async def test_what_an_operator_asks_of_the_page(fleet: Fleet) -> None:
    """Attainment by kind of SLO, time to the first token, cost by ledger, decisions, errors, retries."""
    await fleet.backend()
    proxy = await fleet.proxy()
    await proxy.ask(vote(2), x_slo_latency_ms="60000", x_slo_cost_usd="1")
    await proxy.ask(chat(stream=True))
    await proxy.ask(chat(), x_slo_latency_ms="1", x_slo_mode="strict")
    await proxy.ask(chat(model="none-such"))
    await until(lambda: proxy.service.traces.written == 4)
    found = {(s.name, frozenset(s.labels.items())): s.value for s in await page(proxy)}

    def value(name: str, **labels: str) -> float:
        return found["paretoproxy_" + name, frozenset(labels.items())]

    assert value("slo_requests_total", model="m", kind="latency", status="met") == 1
    assert value("slo_requests_total", model="m", kind="cost", status="met") == 1
    assert value("slo_requests_total", model="m", kind="latency", status="refused") == 1
    assert value("errors_total", outcome="refused", code="slo_infeasible") == 1
    assert value("errors_total", outcome="refused", code="model_not_found") == 1
    assert value("time_to_first_token_seconds_count", model="m", strategy="none") == 1
    assert value("decision_seconds_count", model="m") == 2
    assert value("request_gpu_seconds_total", model="m", ledger="attributed") > 0
    usd, seconds = (value(name, model="m", ledger="exclusive") for name in _COSTS)
    assert usd == pytest.approx(seconds * 3.6 / 3600, rel=1e-6)
    assert value("requests_unpriced_total", model="m", ledger="billed") == 2
    assert value("branch_duration_seconds_count", backend="a", operation="chat", outcome="completed") == 3
    stored = (await proxy.client.get("/v1/traces")).json()["data"]
    assert value("completion_tokens_total", backend="a") == sum(trace["completion_tokens"] for trace in stored) > 0


_COSTS = ("request_cost_usd_total", "request_gpu_seconds_total")


async def test_a_retry_is_counted(fleet: Fleet) -> None:
    down, _ = fleet.refusing("a"), await fleet.backend("b")
    proxy = await fleet.proxy()
    for served in proxy.service.catalog.backends:
        served.health.serving = True
    for _ in range(6):
        assert (await proxy.ask(chat())).status_code == 200
    assert down.generations == []
    await until(lambda: proxy.service.traces.written == 6)
    failed = [
        s.value for s in await page(proxy) if s.name == "paretoproxy_branches_total" and s.labels["outcome"] == "failed"
    ]
    retries = [s.value for s in await page(proxy) if s.name == "paretoproxy_retries_total"]
    assert retries == failed


def test_counting_in_one_thread_while_another_reads_loses_nothing() -> None:
    import threading

    counted, stop = RequestMetrics(), threading.Event()

    def read() -> None:
        while not stop.is_set():
            list(counted.families())

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(2000):
        trace = Trace("0" * 32, 0.0, "/v1/completions", model=f"m{number % 7}")
        trace.branches = [BranchTrace(0, f"b{number % 5}", "completed", 0.0, 5.0, 0.1, completion_tokens=3)]
        counted.count(trace, "m")
    stop.set()
    reader.join()
    tokens = next(f for f in counted.families() if f.name == "paretoproxy_completion_tokens")
    assert sum(sample.value for sample in tokens.samples) == 6000


def test_the_page_has_no_family_twice() -> None:
    from planner_tables import backend

    from proxy.trace_store import TraceStore

    names = [family.name for family in Metrics([backend("a")], TraceStore(None, 1)).read()]
    assert len(names) == len(set(names)) and all(name.startswith("paretoproxy_") for name in names)
