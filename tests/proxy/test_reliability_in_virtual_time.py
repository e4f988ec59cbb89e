"""Outages of a simulated fleet, the whole real proxy in front of it, in virtual time: every run is the same."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from simulation_rig import write_config
from virtual_world import World, live, with_sections

from profiler.simulation.faults import Fault
from proxy.in_process_client import Answer

HERD = 200


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_config(tmp_path, "a", "b")


async def herd(world: World, many: int = HERD, **members: Any) -> list[Answer]:
    """So many requests at once; one of the backends dies while none of them has a byte."""
    asked = [asyncio.create_task(world.ask(**members)) for _ in range(many)]
    await asyncio.sleep(0.01)
    assert all(backend.in_flight > many // 4 for backend in world.service.catalog.backends), "both have their share"
    world.fleet["a"].inflict(Fault("die"))
    return list(await asyncio.gather(*asked))


def test_a_backend_that_dies_under_a_herd_is_no_failure_of_any_client(path: Path) -> None:
    async def story(world: World) -> None:
        answers = await herd(world)

        assert {answer.status for answer in answers} == {200}
        assert {answer.header("x-tts-backend") for answer in answers} == {"b"}
        retries = world.service.reliability.retries
        moved = sum(retries.counts.values())
        assert HERD / 4 < moved <= HERD, "one each of those that were on it"
        assert retries.budget.spent <= 0.2 * HERD + retries.config.reserve
        health = world.service.catalog.by_name["a"].health
        assert (health.state, health.opened["errors"]) == ("open", 1)
        attempts = [[branch.backend for branch in trace.branches] for trace in world.traces]
        assert sum(backends == ["a", "b"] for backends in attempts) == moved, "the trace says where it was tried"
        again = [trace.branches[1].attempt for trace in world.traces if len(trace.branches) == 2]
        assert set(again) == {"retry"}

    live(path, story)


def test_a_herd_larger_than_the_budget_is_moved_because_the_backend_is_out(path: Path) -> None:
    with_sections(path, reliability={"retries": {"budget": 0.01, "reserve": 5}}, admission={"max_in_flight": 2000})

    async def story(world: World) -> None:
        answers = await herd(world, 600)
        assert {answer.status for answer in answers} == {200}
        assert world.service.reliability.retries.budget.spent <= 0.01 * 600 + 5

    live(path, story)


def test_where_every_backend_breaks_the_budget_and_the_breakers_bound_what_is_tried(path: Path) -> None:
    """Each backend sees its share of the first attempts, and no storm after it."""

    async def story(world: World) -> None:
        asked = [asyncio.create_task(world.ask()) for _ in range(HERD)]
        await asyncio.sleep(0.01)
        for backend in world.fleet.values():
            backend.inflict(Fault("die"))
        answers = await asyncio.gather(*asked)

        assert {answer.status for answer in answers} <= {502, 503}
        attempts = sum(len(trace.branches) for trace in world.traces)
        assert attempts <= HERD + HERD / 2 + 0.2 * HERD + world.service.reliability.retries.config.reserve
        late = await world.ask()
        assert (late.status, late.json()["error"]["code"]) == (503, "no_backend")
        assert 1 <= int(late.header("retry-after") or 0) <= 10
        assert not world.traces[-1].branches, "refused at once: nothing is sent to a backend that is out"

    live(path, story)


def test_a_breaker_closes_after_one_good_trial(path: Path) -> None:
    async def story(world: World) -> None:
        await herd(world, 40)
        health = world.service.catalog.by_name["a"].health
        world.fleet["a"].inflict(Fault("revive"))
        await asyncio.sleep(20)
        assert health.state in ("half-open", "closed")
        for _ in range(20):
            assert (await world.ask()).status == 200
        assert health.state == "closed"
        assert {trace.plan.backend for trace in world.traces[-20:] if trace.plan} == {"a", "b"}

    live(path, story)


def test_a_vote_is_moved_within_its_deadline_too(path: Path) -> None:
    async def story(world: World) -> None:
        vote = {"tts": {"strategy": "self-consistency", "n": 4}, "slo": {"latency_ms": 20_000}}
        answers = await herd(world, 16, **vote)
        assert {answer.status for answer in answers} == {200}
        moved = [trace for trace in world.traces if trace.earlier_plans]
        assert moved
        for trace in moved:
            assert [plan.backend for plan in trace.earlier_plans] == ["a"]
            assert {branch.attempt for branch in trace.branches} == {None, "retry"}
            assert trace.slo_status == "met"

    live(path, story)


def test_more_than_may_run_wait_and_more_than_may_wait_are_told_when_to_come_back(path: Path) -> None:
    with_sections(path, admission={"max_in_flight": 10, "max_queued": 20})

    async def story(world: World) -> None:
        answers = await asyncio.gather(*(world.ask() for _ in range(50)))

        assert sorted(answer.status for answer in answers) == [200] * 30 + [503] * 20
        shed = [answer for answer in answers if answer.status == 503]
        assert {answer.json()["error"]["code"] for answer in shed} == {"overloaded"}
        assert all(1 <= int(answer.header("retry-after") or 0) <= 60 for answer in shed)
        waited = [trace.queued_ms for trace in world.traces if trace.outcome == "answered"]
        assert sum(ms > 0 for ms in waited) == 20
        assert [trace.outcome for trace in world.traces].count("refused") == 20
        gate = world.service.reliability.admission.gate("m")
        assert (gate.in_flight, gate.queued) == (0, 0)

    live(path, story)


def test_retry_after_is_the_measured_time_until_the_queue_has_gone(path: Path) -> None:
    with_sections(path, admission={"max_in_flight": 1, "max_queued": 4})

    async def story(world: World) -> None:
        busy = True

        async def client() -> None:
            while busy:
                answer = await world.ask()
                if answer.status == 503:
                    told.append(int(answer.header("retry-after") or 0))
                    await asyncio.sleep(0.5)

        told: list[int] = []
        clients = [asyncio.create_task(client()) for _ in range(8)]
        await asyncio.sleep(15)
        gate = world.service.reliability.admission.gate("m")
        rate = gate.ends_per_s
        busy = False
        await asyncio.gather(*clients)
        assert told and rate > 0
        assert abs(told[-1] - max(1, (4 + 1) / rate)) <= 1

    live(path, story)


def test_a_higher_class_takes_the_place_of_a_lower_one(path: Path) -> None:
    with_sections(path, admission={"max_in_flight": 1, "max_queued": 2})

    async def story(world: World) -> None:
        running = asyncio.create_task(world.ask())
        await asyncio.sleep(0.001)
        older, younger = (asyncio.create_task(world.ask(service_tier="flex")) for _ in range(2))
        await asyncio.sleep(0.001)
        first = asyncio.create_task(world.ask(service_tier="priority"))
        answers = await asyncio.gather(running, older, younger, first)

        assert [answer.status for answer in answers] == [200, 200, 503, 200]
        ended = [answer.ended_at or 0 for answer in answers]
        assert ended[3] < ended[1], "it came last and ran first"
        assert world.service.reliability.admission.shed == {("m", "flex", "displaced"): 1}

    live(path, story)


def test_a_strict_request_that_cannot_be_in_time_is_refused_before_others_are(path: Path) -> None:
    with_sections(path, admission={"max_in_flight": 1, "max_queued": 8})
    strict = {"slo": {"latency_ms": 1, "mode": "strict"}, "tts": {"strategy": "none"}}

    async def story(world: World) -> None:
        for _ in range(3):  # so that the rate is known
            await world.ask()
        plain = [asyncio.create_task(world.ask()) for _ in range(4)]
        await asyncio.sleep(0.001)
        late = await world.ask(**strict)
        answers = await asyncio.gather(*plain)

        assert (late.status, late.json()["error"]["code"]) == (503, "slo_infeasible")
        assert late.header("retry-after")
        assert {answer.status for answer in answers} == {200}
        assert [trace.outcome for trace in world.traces].count("refused") == 1

    live(path, story)


def test_a_deadline_that_comes_in_the_queue_is_kept(path: Path) -> None:
    with_sections(path, admission={"max_in_flight": 1})

    async def story(world: World) -> None:
        running = asyncio.create_task(world.ask())
        await asyncio.sleep(0.001)
        late = await world.ask(slo={"latency_ms": 5}, tts={"strategy": "none"})
        assert (late.status, late.json()["error"]["code"]) == (504, "deadline_exceeded")
        assert late.latency_s == pytest.approx(0.005, abs=0.001)
        assert (await running).status == 200

    live(path, story)


def test_a_client_that_leaves_the_queue_leaves_nothing_behind(path: Path) -> None:
    with_sections(path, admission={"max_in_flight": 1})

    async def story(world: World) -> None:
        loop = asyncio.get_running_loop()
        running = asyncio.create_task(world.ask())
        await asyncio.sleep(0.001)
        left = await world.ask(on_client=lambda client: loop.call_later(0.01, client.leave))
        assert left.left and not left.parts
        gate = world.service.reliability.admission.gate("m")
        assert gate.queued == 0
        assert (await running).status == 200
        assert {trace.outcome for trace in world.traces} == {"client_gone", "answered"}

    live(path, story)


def test_bodies_that_are_held_are_bounded(path: Path) -> None:
    with_sections(path, admission={"max_held_bytes": 1024})

    async def story(world: World) -> None:
        running = asyncio.create_task(world.ask(padding="x" * 900))
        await asyncio.sleep(0.001)
        refused = await world.ask(padding="x" * 900)
        assert (refused.status, refused.json()["error"]["code"]) == (503, "overloaded")
        assert (await running).status == 200
        assert (await world.ask(padding="x" * 900)).status == 200
        assert world.service.reliability.admission.held_bytes == 0

    live(path, story)


def test_one_slow_backend_is_hedged_and_the_loser_is_paid_for(path: Path) -> None:
    with_sections(path, reliability={"hedge": {"after_percentile": 0.9, "budget": 0.1}, "outliers": None})

    async def story(world: World) -> None:
        for _ in range(100):
            assert (await world.ask(stream=True)).status == 200
        for name in ("a", "b"):
            first, other = name, "b" if name == "a" else "a"
            world.fleet[first].inflict(Fault("stall"))
            answer = await world.ask(stream=True)
            while answer.header("x-tts-backend") == other and len(world.traces[-1].branches) == 1:
                answer = await world.ask(stream=True)  # it went to the other one by chance
            world.fleet[first].inflict(Fault("revive"))
            assert answer.status == 200
            lost, won = world.traces[-1].branches
            assert (lost.backend, lost.outcome, lost.attempt) == (first, "cancelled", None)
            assert (won.backend, won.outcome, won.attempt) == (other, "completed", "hedge")
            assert lost.gpu_seconds > 0, "the loser's share is in the cost"
            total = world.traces[-1].gpu_seconds
            assert total == pytest.approx(lost.gpu_seconds + won.gpu_seconds, rel=1e-3)
        hedging = world.service.reliability.hedging
        assert hedging is not None and hedging.counts["won"] == 2

    live(path, story)


def test_without_the_setting_nothing_is_hedged(path: Path) -> None:
    async def story(world: World) -> None:
        assert world.service.reliability.hedging is None
        for _ in range(100):
            await world.ask(stream=True)
        assert all(len(trace.branches) == 1 for trace in world.traces)

    live(path, story)
