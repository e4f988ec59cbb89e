"""What is served besides answers: models, health, readiness, metrics, plans and traces."""

from typing import Any

import pytest
from http_rig import Fleet, chat, vote
from scripted_backend import says, until


async def test_the_models_of_the_configuration(fleet: Fleet) -> None:
    await fleet.backend("a", "m")
    await fleet.backend("b", "other")
    proxy = await fleet.proxy(task=None)

    listed = (await proxy.client.get("/v1/models")).json()

    assert listed["object"] == "list"
    assert [card["id"] for card in listed["data"]] == ["m", "other"]
    assert (await proxy.client.get("/v1/models/other")).json()["object"] == "model"
    assert (await proxy.client.get("/v1/models/gpt-4")).json()["error"]["code"] == "model_not_found"


async def test_each_model_goes_to_its_own_backend(fleet: Fleet) -> None:
    a, b = await fleet.backend("a", "m"), await fleet.backend("b", "other")
    proxy = await fleet.proxy(task=None)

    await proxy.ask(chat(model="other"))

    assert (len(a.generations), len(b.generations)) == (0, 1)


async def test_health_says_that_the_process_lives_and_ready_that_it_can_serve(fleet: Fleet) -> None:
    a, b = await fleet.backend("a"), await fleet.backend("b")
    a.healthy = b.healthy = False
    proxy = await fleet.proxy()
    await proxy.probed()

    assert (await proxy.client.get("/health")).status_code == 200
    ready = await proxy.client.get("/ready")
    assert (ready.status_code, ready.json()["ready"]) == (503, False)
    told = {"serving": False, "state": "open", "problem": "/health answered 503", "capabilities": None}
    assert ready.json()["backends"]["a"] == told

    b.healthy = True
    await until(lambda: proxy.service.catalog.backends[1].health.serving)
    assert (await proxy.client.get("/ready")).status_code == 200


async def test_metrics_count_requests_and_branches(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    backend.otherwise = says("\\boxed{4}", tokens=5)
    await proxy.ask(vote(3))
    await proxy.ask(chat(model="anything a client may write"))

    await until(lambda: proxy.service.traces.written == 2)  # tokens are counted with the trace
    page = (await proxy.client.get("/metrics")).text

    counted = 'strategy="self-consistency"'
    assert f'paretoproxy_requests_total{{model="m",outcome="answered",slo_status="none",{counted}}} 1.0' in page
    assert 'paretoproxy_branches_total{backend="a",outcome="completed"} 3.0' in page
    assert 'paretoproxy_completion_tokens_total{backend="a"} 15.0' in page
    assert 'paretoproxy_backend_up{backend="a"} 1.0' in page
    assert 'paretoproxy_backend_in_flight{backend="a"} 0.0' in page
    assert 'model="unknown"' in page and "anything" not in page


async def test_a_load_metric_that_the_engine_lacks_shows_up(fleet: Fleet) -> None:
    backend = await fleet.backend()
    del backend.metrics["num_requests_waiting"]
    proxy = await fleet.proxy()
    await until(lambda: proxy.service.catalog.backends[0].metric_missing is not None)

    page = (await proxy.client.get("/metrics")).text

    lacking = 'paretoproxy_backend_metric_missing{backend="a",metric="vllm:num_requests_waiting"} 1.0'
    assert lacking in page
    assert 'paretoproxy_backend_others{backend="a"}' not in page, "unknown is not zero"
    assert (await proxy.ask()).status_code == 200, "it serves all the same"


async def test_a_plan_ranks_the_candidates_and_sends_nothing(fleet: Fleet) -> None:
    a, b, proxy = await fleet.two()

    answer = await proxy.ask(path="/v1/plan", x_slo_latency_ms="60000", x_slo_quality="0.65")

    plan: dict[str, Any] = answer.json()
    assert answer.status_code == 200, answer.text
    assert (plan["object"], plan["model"], plan["task"]) == ("plan", "m", "math")
    assert (plan["prompt_tokens"], plan["prompt_tokens_exact"]) == (7, True)
    best, worst = plan["candidates"][0], plan["candidates"][-1]
    assert (best["strategy"], best["n"], best["feasible"], best["dropped_by"]) == ("self-consistency", 8, True, [])
    assert (worst["feasible"], worst["dropped_by"]) == (False, ["quality"])
    predicted, ledgers = best["predicted"], best["ledgers"]
    assert predicted["latency_ms"] > 0
    assert (predicted["congestion_gpu_seconds"], predicted["congestion_usd"]) == (0.0, 0.0)  # idle: nobody to hold up
    assert ledgers["attributed"]["gpu_seconds"] == pytest.approx(predicted["gpu_seconds"], rel=1e-4)
    assert ledgers["exclusive"]["gpu_seconds"] == pytest.approx(predicted["median_ms"] / 1e3, rel=1e-4)  # one GPU
    assert ledgers["paper_cost_per_token"] == pytest.approx(
        ledgers["exclusive"]["gpu_seconds"] / predicted["tokens"], rel=0.01
    )
    assert ledgers["attributed"]["usd"] == pytest.approx(predicted["cost_usd"], rel=1e-4)
    assert ledgers["congestion"] == {"gpu_seconds": 0.0, "usd": 0.0, "reason": None}
    unpriced = {"gpu_seconds": None, "usd": None}
    assert ledgers["billed"] == {**unpriced, "reason": "no price per token is configured"}
    assert ledgers["marginal"] == {**unpriced, "reason": "the backend has no profile"}
    assert a.generations == b.generations == []


async def test_what_the_plan_says_is_what_is_done(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()

    plan = (await proxy.ask(path="/v1/plan", x_slo_latency_ms="60000")).json()
    answer = await proxy.ask(x_slo_latency_ms="60000")

    best = plan["candidates"][0]
    assert (answer.headers["x-tts-strategy"], answer.headers["x-tts-n"]) == (best["strategy"], str(best["n"]))
    assert len(backend.generations) == best["n"]


async def test_traces_are_listed_newest_first_and_filtered(fleet: Fleet) -> None:
    _, proxy = await fleet.one()
    await proxy.ask()
    await proxy.ask(vote(2))
    await proxy.ask(chat(model="gpt-4"))
    await until(lambda: proxy.service.traces.written == 3)

    async def outcomes(**filters: str) -> list[str]:
        listed = (await proxy.client.get("/v1/traces", params=filters)).json()
        return [trace["outcome"] for trace in listed["data"]]

    assert await outcomes() == ["refused", "answered", "answered"]
    assert await outcomes(limit="1") == ["refused"]
    assert await outcomes(strategy="self-consistency") == ["answered"]
    assert await outcomes(outcome="refused", model="gpt-4") == ["refused"]


async def test_a_bad_limit_is_named(fleet: Fleet) -> None:
    _, proxy = await fleet.one()

    for limit in ("0", "1001", "many"):
        answer = await proxy.client.get("/v1/traces", params={"limit": limit})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "limit")


async def test_a_trace_by_its_id(fleet: Fleet) -> None:
    """The id is the caller's trace id where it sends `traceparent`, and stands in `usage.tts`."""
    _, proxy = await fleet.one()
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    answer = await proxy.ask(vote(3), traceparent=f"00-{trace_id}-b7ad6b7169203331-01")
    assert answer.json()["usage"]["tts"]["trace_id"] == trace_id
    await until(lambda: proxy.service.traces.written == 1)

    trace = (await proxy.client.get(f"/v1/traces/{trace_id}")).json()

    assert (trace["id"], trace["path"], trace["outcome"]) == (trace_id, "/v1/chat/completions", "answered")
    assert trace["controls"] == {"strategy": "self-consistency", "n": 3, "stop": "all"}
    assert trace["plan"]["predicted"]["latency_ms"] > 0
    assert [branch["outcome"] for branch in trace["branches"]] == ["completed"] * 3
    assert trace["selection"]["votes"] == 3
    assert trace["prompt"] is None and trace["answer"] is None, "content is kept only if the operator says so"


async def test_prompts_are_kept_if_the_operator_says_so(fleet: Fleet) -> None:
    _, proxy = await fleet.one(traces={"path": "traces.db", "store_prompts": True})

    await proxy.ask(vote(2))

    trace = await proxy.trace()
    assert (trace["prompt"], trace["answer"]) == (chat()["messages"], "\\boxed{4}")


async def test_an_unknown_trace(fleet: Fleet) -> None:
    _, proxy = await fleet.one()

    answer = await proxy.client.get("/v1/traces/none")

    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "trace_not_found")
