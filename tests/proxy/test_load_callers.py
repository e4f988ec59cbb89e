"""The load tester's client, against a whole proxy and against servers that are none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from http_rig import Fleet
from scripted_backend import ScriptedBackend, answers, closes, cuts, dies, says, sends, stalls, tells, until

from profiler.loadtest.result import Result
from profiler.loadtest.run import run
from profiler.loadtest.schedule import Planned, Schedule, schedule
from profiler.loadtest.workload import Workload
from proxy.load_callers import HttpCaller, Unreachable


def planned(**members: Any) -> Schedule:
    """Five requests at once of one class, whose keys are `members`; labelled questions."""
    return schedule(
        Workload.model_validate(
            {
                "arrivals": {"process": "constant", "rate": 50, "for_s": 0.1},
                "task": "tinymath-held-out",
                "classes": [{"name": "one", **members}],
            }
        )
    )


def one(**members: Any) -> Planned:
    return planned(**members).requests[0]


@pytest.fixture
async def callers() -> AsyncIterator[list[HttpCaller]]:
    made: list[HttpCaller] = []
    yield made
    for caller in made:
        await caller.aclose()


@pytest.fixture
async def alone() -> AsyncIterator[ScriptedBackend]:
    """An engine that is asked directly."""
    backend = ScriptedBackend()
    await backend.start()
    yield backend
    await backend.stop()


def caller_of(url: str, callers: list[HttpCaller], **members: Any) -> HttpCaller:
    callers.append(HttpCaller(url, model="m", **{"timeout_s": 5, **members}))
    return callers[-1]


async def asked(backend: ScriptedBackend, callers: list[HttpCaller], **members: Any) -> Result:
    """One request to an engine; the callers are closed before the engine is."""
    result = await caller_of(backend.url, callers).ask(one(**members))
    await callers[-1].aclose()
    return result


async def test_a_vote_is_told_with_its_plan_its_cost_and_its_prediction(
    fleet: Fleet, callers: list[HttpCaller]
) -> None:
    backend, proxy = await fleet.one()
    backend.otherwise = says("\\boxed{4}")
    caller = caller_of(proxy.url, callers)
    slo, tts = {"latency_ms": 5000}, {"strategy": "self-consistency", "n": 4}
    results = (await run(planned(slo=slo, tts=tts), caller)).results
    assert len(results) == 5
    for result in results:
        assert (result.outcome, result.status, result.met) == ("answered", 200, True)
        assert (result.strategy, result.n, result.backend) == ("self-consistency", 4, "a")
        assert result.slo_status == "met" and result.predicted_ms is not None
        assert result.text == "\\boxed{4}" and result.cost_usd is not None and result.cost_usd > 0
        assert result.latency_ms is not None and result.latency_ms < 5000 and result.exclusive_usd is None
    assert await caller.read_traces(results) == 5
    for result in results:
        assert result.exclusive_usd is not None and result.exclusive_usd >= (result.cost_usd or 0) * 0.99
    await caller.aclose()


async def test_a_streamed_vote_has_its_first_token_and_its_usage(fleet: Fleet, callers: list[HttpCaller]) -> None:
    _, proxy = await fleet.one()
    caller = caller_of(proxy.url, callers)
    result = await caller.ask(one(stream=1, slo={"latency_ms": 5000}, tts={"strategy": "self-consistency", "n": 4}))
    assert (result.outcome, result.text, result.strategy, result.n) == ("answered", "\\boxed{4}", "self-consistency", 4)
    assert result.ttft_ms is not None and result.latency_ms is not None and 0 < result.ttft_ms <= result.latency_ms
    assert result.cost_usd is not None and result.slo_status == "met" and (result.completion_tokens or 0) >= 4
    await caller.aclose()


async def test_a_strict_refusal_is_no_error(fleet: Fleet, callers: list[HttpCaller]) -> None:
    _, proxy = await fleet.one()
    caller = caller_of(proxy.url, callers)
    result = await caller.ask(one(slo={"latency_ms": 0.001, "mode": "strict"}))
    assert (result.outcome, result.status, result.error) == ("refused", 503, "503 slo_infeasible")
    await caller.aclose()


async def test_a_control_that_the_proxy_knows_not_is_an_error_with_its_code(
    fleet: Fleet, callers: list[HttpCaller]
) -> None:
    _, proxy = await fleet.one()
    caller = caller_of(proxy.url, callers)
    result = await caller.ask(one(tts={"strategy": "no-such"}))
    assert (result.outcome, result.error) == ("error", "400 invalid_control")
    await caller.aclose()


@pytest.mark.parametrize("stream", [0, 1])
async def test_a_client_that_leaves_closes_its_connection_and_is_charged(
    fleet: Fleet, callers: list[HttpCaller], stream: int
) -> None:
    backend, proxy = await fleet.one()
    backend.otherwise = stalls()
    caller = caller_of(proxy.url, callers)
    load = planned(stream=stream, tts={"strategy": "self-consistency", "n": 2})
    patient = [replace(request, leave_after_s=0.5) for request in load.requests]  # long enough to be seen
    results = (await run(Schedule(patient, load.lasts_s), caller)).results
    assert [(result.outcome, result.met, result.leaves) for result in results] == [("cancelled", None, True)] * 5
    await until(lambda: all(generation.cancelled for generation in backend.generations))
    assert len(backend.generations) == 10
    await proxy.nothing_left()
    assert await caller.read_traces(results) == 5
    assert any((result.cost_usd or 0) > 0 for result in results)
    await caller.aclose()


async def test_a_stopped_run_closes_its_connections(alone: ScriptedBackend, callers: list[HttpCaller]) -> None:
    alone.otherwise = stalls()
    stop = asyncio.Event()
    running = asyncio.create_task(run(planned(), caller_of(alone.url, callers), stop=stop))
    await alone.generation(4)
    stop.set()
    ran = await running
    assert (len(ran.results), ran.unfinished) == (0, 5)
    await until(lambda: all(generation.cancelled for generation in alone.generations))


async def test_an_engine_without_a_proxy_leaves_the_proxys_columns_blank(
    alone: ScriptedBackend, callers: list[HttpCaller]
) -> None:
    caller = caller_of(alone.url + "/v1", callers)
    results = (await run(planned(stream=0.5, slo={"latency_ms": 5000}), caller)).results
    assert {result.outcome for result in results} == {"answered"}
    assert {
        (result.strategy, result.n, result.backend, result.cost_usd, result.predicted_ms) for result in results
    } == {(None,) * 5}
    assert {result.completion_tokens for result in results} == {4}
    assert alone.generations[0].header("x-slo-latency-ms") == "5000"
    assert alone.generations[0].header("traceparent") is not None
    await caller.aclose()


@pytest.mark.parametrize(
    ("play", "stream", "error"),
    [
        (closes(), 0, "ConnectionLost"),
        (sends(b"nonsense\r\n\r\n"), 0, "BadResponse"),
        (answers(200, b"<html>"), 0, "200, but no chat completion"),
        (answers(500, b"oh"), 0, "500 error"),
        (answers(429, json.dumps({"error": {"code": "rate_limited"}}).encode()), 1, "429 rate_limited"),
        (dies("\\boxed{4}", after=2), 1, "ConnectionLost"),
        (cuts("\\boxed{4}", after=2), 1, "the stream ended without [DONE]"),
        (tells(b"{"), 1, "a broken event"),
        (tells(b'{"error": {"message": "out of memory", "type": "server_error"}}'), 1, "server_error in the stream"),
    ],
)
async def test_what_goes_wrong_is_an_outcome(
    alone: ScriptedBackend, callers: list[HttpCaller], play: Any, stream: int, error: str
) -> None:
    alone.otherwise = play
    result = await asked(alone, callers, stream=stream)
    assert (result.outcome, result.met) == ("error", None)
    assert result.error is not None and result.error.startswith(error)


async def test_a_server_that_is_silent_too_long_is_an_error(alone: ScriptedBackend, callers: list[HttpCaller]) -> None:
    alone.otherwise = stalls()
    result = await caller_of(alone.url, callers, timeout_s=0.05).ask(one())
    assert (result.outcome, result.error) == ("error", "no whole answer within 0.05 s")
    await until(lambda: alone.generations[0].cancelled)


async def test_the_first_token_is_the_first_text(alone: ScriptedBackend, callers: list[HttpCaller]) -> None:
    """Not the opening chunk, which has only the role."""
    gate = asyncio.Event()
    alone.otherwise = says("7", tokens=1, when=gate)
    asking = asyncio.create_task(caller_of(alone.url, callers).ask(one(stream=1)))
    await until(lambda: bool(alone.generations) and alone.generations[0].sent_events > 0)
    await asyncio.sleep(0.05)
    gate.set()
    result = await asking
    assert result.ttft_ms is not None and result.ttft_ms >= 50


async def test_the_model_is_the_servers_first_unless_told(alone: ScriptedBackend, callers: list[HttpCaller]) -> None:
    callers.append(HttpCaller(alone.url))
    assert await callers[-1].find_model() == "m"
    assert await caller_of(alone.url, callers).find_model() == "m"


async def test_nobody_there(fleet: Fleet, callers: list[HttpCaller]) -> None:
    with pytest.raises(Unreachable, match="no server answers at"):
        await caller_of(fleet.refusing().url, callers).find_model()
    with pytest.raises(Unreachable, match="--url: not an http"):
        HttpCaller("localhost:8000")
