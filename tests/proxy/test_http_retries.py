"""Failures over real sockets: what is tried again, what is not, and what operators and clients get to see."""

from __future__ import annotations

import asyncio
import time

import pytest
from http_rig import Fleet, RunningProxy, chat, vote
from own_strategies import gathered, pinned, ranked, strategy
from scripted_backend import ScriptedBackend, answers, begins, closes, resets, says, stalls, until

from strategies.base import Context, Generation, Outcome

ONE_EACH = {"retries": {"max_attempts": 1}}


async def metrics(proxy: RunningProxy) -> dict[str, float]:
    page = (await proxy.client.get("/metrics")).text
    lines = [line.rpartition(" ") for line in page.splitlines() if line.startswith("paretoproxy_")]
    return {name: float(value) for name, _, value in lines}


async def test_a_lone_backend_is_asked_again_after_a_pause(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    backend.will(closes(), answers(503, b"{}"), says("third time"))

    answer = await proxy.ask()

    assert (answer.status_code, answer.json()["choices"][0]["message"]["content"]) == (200, "third time")
    trace = await proxy.trace()
    tried = [(b["backend"], b["outcome"], b.get("attempt"), b.get("error")) for b in trace["branches"]]
    assert tried == [
        ("a", "failed", None, "the backend closed the connection"),
        ("a", "failed", "retry", "it answered 503"),
        ("a", "completed", "retry", None),
    ]
    seen = await metrics(proxy)
    assert seen['paretoproxy_retries_total{kind="pass-through",reason="lost"}'] == 1
    assert seen['paretoproxy_retries_total{kind="pass-through",reason="status"}'] == 1


@pytest.mark.parametrize("status", [400, 404, 422, 500])
async def test_what_every_backend_would_answer_is_relayed_at_once(fleet: Fleet, status: int) -> None:
    a, b, proxy = await fleet.two()
    a.otherwise = b.otherwise = answers(status, b'{"error":{"message":"no"}}')

    answer = await proxy.ask()

    assert (answer.status_code, answer.json()["error"]["message"]) == (status, "no")
    assert len(a.generations) + len(b.generations) == 1


async def test_nothing_is_tried_again_once_the_client_has_a_byte(fleet: Fleet) -> None:
    a, b, proxy = await fleet.two()
    a.otherwise = b.otherwise = begins("0123", after=1, then=stalls())

    async with await proxy.connect() as client:
        await client.post(chat(stream=True))
        await client.read_until(b"data: ")
        for backend in (a, b):
            for generation in backend.generations:
                generation.over.set()
        asked = len(a.generations) + len(b.generations)
    assert asked == 1


async def test_an_upstreams_retry_after_is_waited_for(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    backend.will(answers(503, b"{}", headers="retry-after: 1\r\n"), says("later"))

    began = time.monotonic()
    answer = await proxy.ask()

    assert answer.status_code == 200
    assert time.monotonic() - began >= 1


async def test_one_attempt_turns_retries_off(fleet: Fleet) -> None:
    a, b, proxy = await fleet.two(reliability=ONE_EACH)
    a.otherwise = b.otherwise = resets()

    answer = await proxy.ask()

    assert answer.status_code == 502
    assert len(a.generations) + len(b.generations) == 1


async def test_a_spent_budget_leaves_the_backends_own_answer(fleet: Fleet) -> None:
    backend, proxy = await fleet.one(reliability={"retries": {"budget": 0, "reserve": 1, "backoff_ms": 0}})
    backend.otherwise = answers(503, b'{"error":{"message":"sleeping"}}')

    answer = await proxy.ask()

    assert (answer.status_code, answer.json()["error"]["message"]) == (503, "sleeping")
    assert len(backend.generations) == 2
    assert (await metrics(proxy))['paretoproxy_retries_denied_total{why="budget"}'] == 1


async def test_a_client_that_leaves_during_a_pause_is_not_waited_for(fleet: Fleet) -> None:
    pauses = {"retries": {"backoff_ms": 60_000, "max_backoff_ms": 60_000}}
    backend, proxy = await fleet.one(reliability=pauses)
    backend.will(closes())

    client = await proxy.connect()
    await client.post(chat())
    await (await backend.generation(0)).over.wait()
    await asyncio.sleep(0.05)
    client.leave()

    assert (await proxy.trace())["outcome"] == "client_gone"
    assert len(backend.generations) == 1


async def broken(proxy: RunningProxy, backend: ScriptedBackend) -> None:
    """Until its breaker is open."""
    backend.otherwise = answers(503, b"{}")
    while proxy.service.catalog.by_name[backend.name].health.state == "closed":
        await proxy.ask()


async def test_failures_in_a_row_open_the_breaker_and_clients_are_told_when_to_come_back(fleet: Fleet) -> None:
    backend, proxy = await fleet.one(reliability={"breaker": {"open_s": 30}})
    await broken(proxy, backend)
    asked = len(backend.generations)

    answer = await proxy.ask()

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_backend")
    assert 25 <= int(answer.headers["retry-after"]) <= 30
    assert len(backend.generations) == asked == 5, "it is left alone"
    ready = await proxy.client.get("/ready")
    assert (ready.status_code, ready.json()["backends"]["a"]["state"]) == (503, "open")
    seen = await metrics(proxy)
    assert seen['paretoproxy_backend_state{backend="a",state="open"}'] == 1
    assert seen['paretoproxy_backend_opened_total{backend="a",cause="errors"}'] == 1


async def test_one_request_tries_a_half_open_backend_and_closes_it_with_its_first_byte(fleet: Fleet) -> None:
    backend, proxy = await fleet.one(reliability={"breaker": {"open_s": 0.1}})
    await broken(proxy, backend)
    health, gate = proxy.service.catalog.by_name["a"].health, asyncio.Event()
    await until(lambda: health.state == "half-open")
    backend.otherwise = says("well again", when=gate)

    trial = asyncio.create_task(proxy.ask())
    await until(lambda: health.state == "half-open" and not health.serving)
    refused = await proxy.ask()
    gate.set()

    assert (await trial).status_code == 200
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_backend")
    assert health.state == "closed"


async def test_without_a_breaker_a_failing_backend_stays_in(fleet: Fleet) -> None:
    backend, proxy = await fleet.one(reliability={"breaker": None, "retries": {"max_attempts": 1}})
    backend.otherwise = resets()
    for _ in range(8):
        assert (await proxy.ask()).status_code == 502
    assert len(backend.generations) == 8


async def test_a_branch_of_a_later_wave_is_made_again_elsewhere(fleet: Fleet) -> None:
    """To plan again would throw away what the first wave gave."""

    async def two_waves(context: Context) -> Outcome:
        drafts = await gathered(context, 2)
        return ranked(await gathered(context, [Generation(continues=drafts[0].text)]))

    a, b = await fleet.backend("a"), await fleet.backend("b")
    b.usd_per_hour = 10 * (a.usd_per_hour or 1)
    proxy = await fleet.proxy(strategy(two_waves))
    a.will(says("one"), says("two"), answers(503, b"{}"))
    b.will(says(" and three"))

    answer = await proxy.ask(pinned())

    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"].endswith(" and three")
    trace = await proxy.trace()
    assert "earlier_plans" not in trace or not trace["earlier_plans"]
    last = trace["branches"][2:]
    assert [(b_["backend"], b_["outcome"], b_.get("attempt"), b_["wave"]) for b_ in last] == [
        ("a", "failed", None, 2),
        ("b", "completed", "replacement", 2),
    ]


async def test_a_branch_of_many_is_not_replaced(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    backend.will(resets())

    told = (await proxy.ask(vote(3))).json()["usage"]["tts"]

    assert (told["completed"], told["failed"]) == (2, 1)
    assert len(backend.generations) == 3


async def test_a_vote_on_a_lone_backend_that_broke_before_a_token_is_run_once_more(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    backend.will(resets(), resets())

    answer = await proxy.ask(vote(2))

    assert answer.status_code == 200, answer.text
    trace = await proxy.trace()
    assert [branch.get("attempt") for branch in trace["branches"]] == [None, None, "retry", "retry"]
