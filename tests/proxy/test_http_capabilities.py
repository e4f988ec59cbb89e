"""What engines can is asked of them, once they serve and again when they come back; strategies run where it is met."""

from __future__ import annotations

import asyncio

import pytest
from http_rig import Fleet, RunningProxy, chat
from own_strategies import asks, pinned, strategy
from scripted_backend import until

from profiler.quality_file import Curve
from strategies.base import WHOLE, Need

# One more accurate than all others: wherever it may run, `auto` takes it.
BEST = Curve("own", {}, False, 0.95, 0.93, [[4, 4]] * 8)
CONFIDENT = strategy(asks(WHOLE, WHOLE), needs=[Need.LOGPROBS])
GOING_ON = strategy(asks(WHOLE, WHOLE), needs=[Need.CONTINUATION])


async def chosen(proxy: RunningProxy) -> tuple[str, str]:
    """(strategy, backend) of a request that leaves both free."""
    answer = await proxy.ask(chat(), x_slo_latency_ms="60000")
    assert answer.status_code == 200, answer.text
    return answer.headers["x-tts-strategy"], answer.headers["x-tts-backend"]


async def test_an_engine_is_asked_once_while_it_serves(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    await proxy.asked_what_it_can()
    asked = len(backend.probes)
    looks = len(backend.received)
    await until(lambda: len(backend.received) > looks + 2)

    assert len(backend.probes) == asked > 0
    members = {name for probe in backend.probes for name in probe.json}
    assert {"top_logprobs", "min_p", "logit_bias", "priority", "continue_final_message"} <= members


async def test_and_again_when_it_has_come_back(fleet: Fleet) -> None:
    """It may have been started otherwise."""
    fleet.curves = [BEST]
    backend, proxy = await fleet.one(CONFIDENT)
    await proxy.asked_what_it_can()
    assert await chosen(proxy) == ("own", "a")

    backend.healthy = False
    await until(lambda: proxy.service.catalog.by_name["a"].capabilities is None)
    backend.incapable = {"logprobs"}
    backend.healthy = True
    await proxy.asked_what_it_can()

    assert (await chosen(proxy))[0] == "self-consistency"
    assert (await proxy.ask(pinned())).status_code == 400


async def test_an_engine_that_does_not_say_is_asked_again_and_meanwhile_looked_after(fleet: Fleet) -> None:
    """A 503 tells nothing of what it can."""
    fleet.curves = [BEST]
    backend = await fleet.backend()
    backend.incapable, backend.probe_status = {"logprobs"}, 503
    proxy = await fleet.proxy(CONFIDENT)
    await until(lambda: bool(backend.probes))
    looks = len(backend.received)
    await until(lambda: len(backend.received) > looks + 1)

    assert proxy.service.catalog.by_name["a"].capabilities is None
    assert (await chosen(proxy))[0] == "self-consistency", "unknown: no candidate of `auto`"
    assert (await proxy.ask(pinned())).headers["x-tts-strategy"] == "own", "a client that insists may try"


async def test_an_answer_that_is_long_in_coming_holds_up_no_health_probe(fleet: Fleet) -> None:
    backend = await fleet.backend()
    gate = asyncio.Event()
    backend.probe_gate = gate
    proxy = await fleet.proxy()
    await until(lambda: bool(backend.probes))
    backend.healthy = False
    await until(lambda: not proxy.service.catalog.by_name["a"].health.serving)
    gate.set()


MEANING = {
    Need.LOGPROBS: ("logprobs", "top log probabilities"),
    Need.CONTINUATION: ("continuation", "generation that goes on from a text"),
    Need.CHAT: ("chat", "a chat, which no backend"),
}


@pytest.mark.parametrize("need", MEANING)
async def test_a_need_that_no_engine_meets_is_the_clients_error(fleet: Fleet, need: Need) -> None:
    member, named = MEANING[need]
    backend = await fleet.backend()
    backend.incapable = {member}
    proxy = await fleet.proxy(strategy(asks(WHOLE), needs=[need]))
    await proxy.asked_what_it_can()

    answer = await proxy.ask(pinned())

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "x-tts-strategy")
    assert named in answer.json()["error"]["message"]
    assert backend.generations == []


async def test_a_strategy_runs_on_the_backend_that_can(fleet: Fleet) -> None:
    """Though the other one is idle."""
    fleet.curves = [BEST]
    unable, _ = await fleet.backend("a"), await fleet.backend("b")
    unable.incapable = {"continuation"}
    proxy = await fleet.proxy(GOING_ON)
    await proxy.asked_what_it_can("a")
    await proxy.asked_what_it_can("b")
    proxy.service.catalog.by_name["b"].gpu_time.set_others(8.0)

    for _ in range(3):
        assert await chosen(proxy) == ("own", "b")
        assert (await proxy.ask(pinned())).headers["x-tts-backend"] == "b"


async def test_the_plan_counts_those_that_cannot(fleet: Fleet) -> None:
    fleet.curves = [BEST]
    unable, _ = await fleet.backend("a"), await fleet.backend("b")
    unable.incapable = {"logprobs"}
    proxy = await fleet.proxy(CONFIDENT)
    await proxy.asked_what_it_can("a")
    await proxy.asked_what_it_can("b")

    plan = (await proxy.client.post("/v1/plan", json=chat())).json()

    assert plan["dropped"]["incapable"] == 1
    assert {row["backend"] for row in plan["candidates"] if row["strategy"] == "own"} == {"b"}
    await proxy.ask(chat(), x_slo_latency_ms="60000")
    assert (await proxy.trace())["plan"]["dropped"]["incapable"] == 1
