"""Spans and metrics as a collector gets them from a running proxy."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from collector import GrpcCollector, HttpCollector, Span
from http_rig import Fleet, RunningProxy, chat, vote
from scripted_backend import answers, dies, says, until

from proxy.config import ConfigError, load
from proxy.telemetry import export
from proxy.trace import BranchTrace, Trace

TRACE_ID, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def to(url: str, **telemetry: Any) -> dict[str, Any]:
    """Configuration sections for a proxy that exports there."""
    return {"traces": {"path": "traces.db", "otlp_endpoint": url}, "telemetry": {"timeout_s": 2, **telemetry}}


async def spans(collector: HttpCollector | GrpcCollector, count: int) -> list[Span]:
    await until(lambda: len(collector.received.spans) >= count, 10)
    assert len(collector.received.spans) == count, [span.name for span in collector.received.spans]
    return collector.received.spans


async def metric(proxy: RunningProxy, name: str) -> float:
    """A sample of /metrics, by its whole name and labels."""
    page = (await proxy.client.get("/metrics")).text
    found = [line for line in page.splitlines() if line.startswith(name + " ")]
    return float(found[0].rpartition(" ")[2]) if found else 0.0


async def until_metric(proxy: RunningProxy, name: str, least: float) -> None:
    async with asyncio.timeout(15):
        while await metric(proxy, name) < least:
            await asyncio.sleep(0.02)


async def test_a_vote_is_a_tree_under_the_clients_own_span(collector: HttpCollector, fleet: Fleet) -> None:
    backend, proxy = await fleet.one(**to(collector.url, headers={"x-collector-key": "k"}))
    backend.will(says("\\boxed{4}"), dies("\\boxed{5}", after=2), says("\\boxed{4}", tokens=6))

    answer = await proxy.ask(
        vote(3), traceparent=f"00-{TRACE_ID}-{PARENT}-01", tracestate="rojo=1", x_slo_latency_ms="60000"
    )

    assert answer.status_code == 200
    found = await spans(collector, 6)
    assert {span.trace_id for span in found} == {TRACE_ID} and {span.tracestate for span in found} == {"rojo=1"}
    root, decide, *branches, select = found
    assert (root.name, root.kind, root.parent_id) == ("invoke_workflow self-consistency", "SERVER", PARENT)
    assert {span.parent_id for span in found[1:]} == {root.span_id}
    assert (decide.name, select.name) == ("decide", "select")
    assert [(span.name, span.kind) for span in branches] == [("chat m", "CLIENT")] * 3
    sent = [generation.header("traceparent") for generation in backend.generations]
    assert sorted(sent) == sorted(f"00-{TRACE_ID}-{span.span_id}-01" for span in branches)  # type: ignore[type-var]
    assert {generation.header("tracestate") for generation in backend.generations} == {"rojo=1"}
    assert collector.received.headers["x-collector-key"] == "k"
    assert root.resource["service.name"] == "paretoproxy"
    assert root.resource["service.instance.id"] == f"{socket.gethostname()}-{os.getpid()}"

    # Everything lies within the root, and in the order in which it happened.
    assert all(root.start <= span.start <= span.end <= root.end + 1000 for span in found)
    assert decide.end <= min(span.start for span in branches)
    assert abs(root.start / 1e9 - time.time()) < 60


async def test_what_the_spans_of_a_vote_tell(collector: HttpCollector, fleet: Fleet) -> None:
    backend, proxy = await fleet.one(**to(collector.url))
    backend.will(says("\\boxed{4}"), dies("\\boxed{5}", after=2), says("\\boxed{4}", tokens=6))
    answer = await proxy.ask(vote(3, max_tokens=512), x_slo_latency_ms="60000", x_slo_cost_usd="1")
    root, decide, *branches, select = await spans(collector, 6)

    told = root.attributes
    assert told["gen_ai.operation.name"] == "invoke_workflow" and told["gen_ai.provider.name"] == "vllm"
    assert told["gen_ai.workflow.name"] == "self-consistency" and told["gen_ai.request.model"] == "m"
    assert told["gen_ai.request.max_tokens"] == 512 and "gen_ai.request.choice.count" not in told
    assert told["http.route"] == "/v1/chat/completions" and told["http.response.status_code"] == 200
    assert (told["paretoproxy.slo.latency_ms"], told["paretoproxy.slo.cost_usd"]) == (60000, 1)
    assert told["paretoproxy.slo.status"] == answer.headers["x-slo-status"]
    assert told["paretoproxy.cost.attributed.usd"] == pytest.approx(float(answer.headers["x-cost-usd"]), abs=1e-9)
    assert told["paretoproxy.cost.billed.reason"] == "no price per token is configured"
    assert not [key for key in told if key.startswith("gen_ai.usage")], "tokens are on the branches, and counted once"

    plan = decide.attributes
    assert (plan["paretoproxy.plan.strategy"], plan["paretoproxy.plan.n"]) == ("self-consistency", 3)
    assert plan["paretoproxy.plan.predicted.latency_ms"] > 0 and plan["paretoproxy.plan.considered"] > 0

    by_outcome = {span.attributes["paretoproxy.branch.outcome"]: span for span in branches}
    assert by_outcome.keys() == {"completed", "failed"}
    done, failed = by_outcome["completed"].attributes, by_outcome["failed"]
    assert done["gen_ai.response.finish_reasons"] == ["stop"] and done["gen_ai.usage.input_tokens"] == 7
    assert done["gen_ai.response.time_to_first_chunk"] > 0 and by_outcome["completed"].events == ["first_token"]
    assert done["server.address"] == "127.0.0.1" and f":{done['server.port']}" in backend.url
    assert (failed.status, failed.attributes["error.type"]) == ("ERROR", "ConnectionLost")
    usage = answer.json()["usage"]["completion_tokens"]
    assert sum(span.attributes.get("gen_ai.usage.output_tokens", 0) for span in branches) == usage
    assert sum(span.attributes["paretoproxy.branch.chosen"] for span in branches) == 1
    assert select.attributes["paretoproxy.selection.votes"] == 2


async def test_pass_through_and_a_retry_are_branches_too(collector: HttpCollector, fleet: Fleet) -> None:
    backends = [await fleet.backend("a"), await fleet.backend("b")]
    proxy = await fleet.proxy(**to(collector.url))
    for backend in backends:
        backend.otherwise = answers(503, b"{}")
    await proxy.ask(chat())
    root, decide, first, *others = await spans(collector, 5)  # three attempts
    assert (root.name, root.parent_id, decide.name) == ("invoke_workflow none", "", "decide")
    assert (root.trace_id[16:], first.parent_id) == (root.span_id, root.span_id)
    sent = {each.header("traceparent") for backend in backends for each in backend.generations}
    assert sent == {f"00-{root.trace_id}-{span.span_id}-01" for span in (first, *others)}
    assert (first.attributes["error.type"], first.status) == ("503", "ERROR")


async def test_a_refusal_and_a_clients_unsampled_trace(collector: HttpCollector, fleet: Fleet) -> None:
    backend, proxy = await fleet.one(**to(collector.url))
    await proxy.ask(chat(), traceparent=f"00-{TRACE_ID}-{PARENT}-00")
    await proxy.ask(chat(model="unknown-to-us"))
    (root,) = await spans(collector, 1)
    assert root.name == "invoke_workflow" and root.attributes["error.type"] == "model_not_found"
    assert root.status == "UNSET", "what the client did wrong is no error of a server"
    sent = backend.generations[0].header("traceparent") or ""
    assert sent.startswith(f"00-{TRACE_ID}-") and sent.endswith("-00")


async def test_what_a_client_waits_for_is_told_as_a_servers_metrics(collector: HttpCollector, fleet: Fleet) -> None:
    backend, proxy = await fleet.one(**to(collector.url, metrics_every_s=0.1))
    backend.will(says("four", tokens=21))
    await proxy.stream(chat(stream_options={"include_usage": True}))
    received = collector.received
    await until(lambda: "gen_ai.server.time_per_output_token" in received.metrics, 10)
    told = {
        name: received.point(f"gen_ai.server.{name}", gen_ai_operation_name="invoke_workflow", gen_ai_request_model="m")
        for name in ("request.duration", "time_to_first_token", "time_per_output_token")
    }
    chunk = received.point("gen_ai.client.operation.time_per_output_chunk", paretoproxy_backend="a")
    assert {point.count for point in (*told.values(), chunk)} == {1}


async def test_how_many_choices_were_asked_for(collector: HttpCollector, fleet: Fleet) -> None:
    _, proxy = await fleet.one(**to(collector.url))
    await proxy.ask(chat(n=2))
    root, *_ = await spans(collector, 3)
    assert root.attributes["gen_ai.request.choice.count"] == 2


async def test_thinking_is_told_apart(collector: HttpCollector, fleet: Fleet) -> None:
    backend, proxy = await fleet.one(**to(collector.url))
    backend.otherwise = says("<think>2 + 2 is 4, of course</think>\\boxed{4}", tokens=12)
    await proxy.ask(vote(1))
    _, _, branch, *_ = await spans(collector, 4)
    usage = {key: branch.attributes[f"gen_ai.usage.{key}"] for key in ("output_tokens", "reasoning.output_tokens")}
    assert 0 < usage["reasoning.output_tokens"] < usage["output_tokens"] == 12


async def test_metrics_go_out_as_the_page_has_them_and_under_the_conventions_names(
    collector: HttpCollector, fleet: Fleet
) -> None:
    _, proxy = await fleet.one(**to(collector.url, metrics_every_s=0.1))
    await proxy.ask(vote(2))
    received = collector.received
    await until(lambda: "gen_ai.client.token.usage" in received.metrics, 10)
    duration = received.point("gen_ai.client.operation.duration", gen_ai_operation_name="chat")
    assert duration.count == 2 and sum(duration.bucket_counts) == 2
    assert len(duration.bucket_counts) == len(duration.explicit_bounds) + 1
    usage = received.point("gen_ai.client.token.usage", gen_ai_token_type="output", gen_ai_request_model="m")
    assert usage.sum == await metric(proxy, 'paretoproxy_completion_tokens_total{backend="a"}') == 8
    first = received.point("gen_ai.client.operation.time_to_first_chunk", gen_ai_operation_name="chat")
    each = received.point("gen_ai.client.operation.time_per_output_chunk", gen_ai_operation_name="chat")
    assert (first.count, each.count) == (2, 2) and first.sum > 0
    whole = received.point("gen_ai.server.request.duration", gen_ai_workflow_name="self-consistency")
    assert (whole.count, received.metrics.keys() & {"gen_ai.server.time_to_first_token"}) == (1, set())
    assert received.point("paretoproxy.requests", strategy="self-consistency").as_double == 1
    assert received.point("paretoproxy.backend_up", backend="a").as_double == 1


async def test_the_same_over_grpc(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    collector = GrpcCollector()
    monkeypatch.setattr(export, "CLOSE_WITHIN_S", 0.2)  # it is gone before the fleet is
    try:
        headers = {"X-Collector-Key": "k"}
        _, proxy = await fleet.one(**to(collector.url, protocol="grpc", headers=headers, metrics_every_s=0.1))
        await proxy.ask(vote(2))
        found = await spans(collector, 5)
        assert [span.name for span in found] == [
            "invoke_workflow self-consistency",
            "decide",
            *["chat m"] * 2,
            "select",
        ]
        await until(lambda: "paretoproxy.requests" in collector.received.metrics, 10)
        assert collector.received.headers["x-collector-key"] == "k"
    finally:
        collector.stop()


DROPPED = 'paretoproxy_telemetry_traces_total{result="dropped"}'
FAILED = 'paretoproxy_telemetry_traces_total{result="failed"}'
EXPORTED = 'paretoproxy_telemetry_traces_total{result="exported"}'


@pytest.mark.parametrize("trouble", ["down", "answers 503", "hangs"])
async def test_no_request_notices_a_collector_in_trouble(collector: HttpCollector, fleet: Fleet, trouble: str) -> None:
    url = collector.url if trouble != "down" else "http://127.0.0.1:9"
    collector.status = 503 if trouble == "answers 503" else 200
    collector.gate = threading.Event() if trouble == "hangs" else None
    _, proxy = await fleet.one(**to(url, queue_size=4, timeout_s=0.5))
    for _ in range(40):
        assert (await proxy.ask(chat())).status_code == 200
    # Every trace is stored, and every one is accounted for: waiting (at most four), under way, failed or dropped.
    await until_metric(proxy, "paretoproxy_traces_written_total", 40)
    await until_metric(proxy, DROPPED, 1)
    assert await metric(proxy, "paretoproxy_telemetry_queue") <= 4
    assert await metric(proxy, EXPORTED) == 0
    await until_metric(proxy, FAILED, 1)


async def test_when_the_collector_comes_back_so_do_the_spans(collector: HttpCollector, fleet: Fleet) -> None:
    _, proxy = await fleet.one(**to(collector.url, timeout_s=0.2))
    collector.status = 500
    await proxy.ask(chat())
    await until_metric(proxy, FAILED, 1)
    collector.status = 200
    await proxy.ask(chat())
    await until_metric(proxy, EXPORTED, 1)


async def test_shutting_down_sends_what_waits(collector: HttpCollector, fleet: Fleet) -> None:
    _, proxy = await fleet.one(**to(collector.url, metrics_every_s=3600))
    for _ in range(5):
        await proxy.ask(chat())
    await proxy.service.aclose()
    assert len(collector.received.named("invoke_workflow")) == 5
    assert "paretoproxy.requests" in collector.received.metrics


async def test_shutting_down_does_not_wait_for_a_collector_that_hangs(
    collector: HttpCollector, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "CLOSE_WITHIN_S", 0.5)
    collector.gate = threading.Event()
    _, proxy = await fleet.one(**to(collector.url, timeout_s=60))
    await proxy.ask(chat())
    await until(lambda: collector.asked > 0, 10)
    began = time.monotonic()
    await proxy.service.aclose()
    assert time.monotonic() - began < 4


async def test_content_is_in_spans_only_where_it_is_turned_on(collector: HttpCollector, fleet: Fleet) -> None:
    _, proxy = await fleet.one(**to(collector.url, content=True))
    await proxy.ask(vote(2))
    root, *_ = await spans(collector, 5)
    (asked,) = json.loads(root.attributes["gen_ai.input.messages"])
    assert asked == {"role": "user", "parts": [{"type": "text", "content": "What is 2 + 2?"}]}
    assert "boxed{4}" in root.attributes["gen_ai.output.messages"]
    branches = collector.received.named("chat")
    assert {span.attributes["paretoproxy.branch.answer"] for span in branches} == {"4"}
    stored = await proxy.trace()
    assert stored["prompt"] is None and all(branch["answer"] is None for branch in stored["branches"])


async def test_prompts_of_any_size_do_not_wait_in_the_queue(collector: HttpCollector, fleet: Fleet) -> None:
    """Long ones are left out of spans, and all of them where the store alone may have them."""
    sections = to(collector.url, content=True)
    sections["traces"]["store_prompts"] = True
    _, proxy = await fleet.one(**sections)
    await proxy.ask({**vote(2), "messages": [{"role": "user", "content": "x" * 100_000}]})
    root, *_ = await spans(collector, 5)
    assert "gen_ai.input.messages" not in root.attributes and "gen_ai.output.messages" in root.attributes
    assert len((await proxy.trace())["prompt"][0]["content"]) == 100_000
    stored = Trace("1" * 32, 0.0, "/", prompt=["x"], answer="x", branches=[BranchTrace(0, "a", "completed", 0, 1, 0.1)])
    assert export._bounded(stored, content=False).prompt is None and stored.prompt == ["x"]


def test_grpc_that_is_not_installed_is_said_before_the_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(yaml.safe_dump({**to("http://c:4317", protocol="grpc"), "models": [MODEL]}))
    config = load(path, environ={})
    export.check(config)
    monkeypatch.setattr(export, "_has_grpc", lambda: False)
    with pytest.raises(ConfigError, match=r"telemetry.protocol: grpc needs the extra `paretoproxy\[otlp-grpc\]`"):
        export.check(config)


MODEL = {"name": "m", "backends": [{"name": "a", "url": "http://a"}]}
