"""An engine that orders its queue by `priority` is told by when each branch must be over; others are told nothing."""

import time

import pytest
from http_rig import Fleet, RunningProxy, vote
from scripted_backend import ScriptedBackend, says, stalls, until

from proxy.line import Dues, Line


async def by_priority(fleet: Fleet) -> tuple[ScriptedBackend, RunningProxy]:
    backend = await fleet.backend()
    launch = {"model": "m", "args": {"scheduling-policy": "priority"}}
    one = {"name": "a", "url": backend.url, "launch": launch}
    return backend, await fleet.proxy(first_model={"backends": [one]})


async def test_branches_carry_their_dues_in_unix_milliseconds_evenly_until_the_deadline(fleet: Fleet) -> None:
    backend, proxy = await by_priority(fleet)
    await proxy.ask(vote(2), x_slo_latency_ms="5000")
    first, last = sorted(request.json["priority"] for request in backend.generations)
    assert last == pytest.approx((time.time() + 5) * 1e3, abs=2000)
    assert last - first == pytest.approx(2500, abs=1)


async def test_without_a_deadline_it_is_a_minute(fleet: Fleet) -> None:
    backend, proxy = await by_priority(fleet)
    await proxy.ask(vote(1))
    assert backend.generations[0].json["priority"] == pytest.approx((time.time() + 60) * 1e3, abs=3000)


async def test_the_clients_own_priority_stays(fleet: Fleet) -> None:
    backend, proxy = await by_priority(fleet)
    await proxy.ask({**vote(2), "priority": 7})
    assert [request.json["priority"] for request in backend.generations] == [7, 7]


async def test_an_engine_that_serves_who_came_first_gets_none(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    await proxy.ask(vote(2), x_slo_latency_ms="5000")
    assert all("priority" not in request.json for request in backend.generations)


async def test_a_branch_stands_in_line_until_its_first_token_or_its_end(fleet: Fleet) -> None:
    backend, proxy = await by_priority(fleet)
    backend.will(stalls(), says("\\boxed{4}"))
    line = proxy.service.catalog.backends[0].line
    assert line is not None
    await proxy.ask(vote(2), x_slo_latency_ms="400")
    await until(lambda: not line.due)


def test_a_line_counts_who_is_due_later() -> None:
    line = Line()
    for due_s in (12.0, 60.0, 25.0, 25.0):
        line.join(due_s)
    assert [line.behind(due_s) for due_s in (1.0, 12.0, 25.0, 60.0)] == [4, 3, 1, 0]
    line.leave(25.0)
    assert line.due == [12.0, 25.0, 60.0]
    with pytest.raises(ValueError, match="nobody who is due"):
        line.leave(24.0)


def test_a_vote_that_is_asked_for_more_than_it_planned_is_due_at_its_deadline() -> None:
    dues = Dues(arrived_s=100.0, patience_s=12.0, branches=4)
    assert [dues.of(index) for index in range(5)] == [103.0, 106.0, 109.0, 112.0, 112.0]
