"""Votes that the deadline is to cut: in time for the client, and telling of their backend's pace."""

from pathlib import Path

import pytest
from simulation_rig import QUESTIONS, write_config
from virtual_world import World, live

DEADLINE_MS = 800


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_config(tmp_path)


async def _ask(world: World, count: int) -> list[float]:
    """Latencies in milliseconds."""
    took = []
    for question in QUESTIONS[:count]:
        messages = [{"role": "user", "content": question.question}]
        answer = await world.ask(messages=messages, slo={"latency_ms": DEADLINE_MS})
        took.append(answer.latency_s * 1e3)
    assert all(trace.plan is not None and trace.plan.predicted["cut"] for trace in world.traces)
    return took


def test_they_leave_a_hundredth_of_the_deadline_to_what_only_the_client_sees(path: Path) -> None:
    took = live(path, lambda world: _ask(world, 20))
    assert DEADLINE_MS * 0.95 < max(took) <= DEADLINE_MS * 0.99


def test_a_backend_half_as_fast_as_its_profile_is_noticed(path: Path) -> None:
    """Every vote is cut long before its predicted median: how long it took tells nothing."""

    async def story(world: World) -> float:
        world.fleet["a"].engine.slow_down(2.0)
        await _ask(world, 25)
        return world.service.catalog.backends[0].correction.bias

    assert 1.6 < live(path, story) < 2.4
