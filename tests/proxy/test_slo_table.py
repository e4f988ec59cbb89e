"""What `paretoproxy slo-table` makes of an answer that never came."""

from __future__ import annotations

from http_rig import Fleet
from scripted_backend import stalls

from profiler.tasks import load_task
from proxy.slo_table import Row, ask


async def test_a_deadline_that_passes_without_an_answer_is_a_miss_of_its_plan(fleet: Fleet) -> None:
    backend = await fleet.backend("a")
    proxy = await fleet.proxy()
    backend.otherwise = stalls()
    task = load_task("tinymath", count=1)

    asked = [one async for one in ask(proxy.url, "m", task, 300, None)]

    told = [(one.in_time, one.feasible, one.backend, one.strategy) for one in asked]
    assert told == [(False, True, "a", "self-consistency")]
    assert Row(300, asked).cells()[1:4] == ["0/1", "0/1", "0.00"]
