"""The context of a running strategy, where HTTP does not show it: time that is up, and a client that has gone."""

from __future__ import annotations

import asyncio

import pytest

from proxy.backend import Backend
from proxy.errors import ClientGone, Unavailable
from proxy.fanout import Run
from strategies.base import Generation, NoScore


class Asked:
    """Counts what would have been sent; nobody can serve it."""

    def __init__(self) -> None:
        self.generations: list[Generation] = []

    def __call__(self, generation: Generation, index: int, every_tokens: int = 0) -> tuple[Backend, bytes]:
        self.generations.append(generation)
        raise Unavailable("nobody")


def _run(asked: Asked, decide_by: float | None) -> Run:
    return Run(None, asked, None, decide_by=decide_by)  # type: ignore[arg-type]  # no branch ever starts


async def test_a_timer_that_is_called_a_little_early_ends_the_time_all_the_same() -> None:
    """Loops call at the nearest tick of their clock: a wave started then would have none left."""
    asked = Asked()
    run = _run(asked, asyncio.get_running_loop().time() + 60)
    async with run.sample(1) as wave:
        wave.end()

    assert run.out_of_time and run.cut_by_deadline, "who asks has more to do"
    async with run.sample(1):
        pass
    assert len(asked.generations) == 1


async def test_without_a_deadline_time_is_never_up() -> None:
    assert not _run(Asked(), None).out_of_time


async def test_a_wave_that_nobody_can_serve_is_empty_and_noted() -> None:
    run = _run(Asked(), None)
    async with run.sample(2) as wave:
        assert [branch async for branch in wave] == []

    assert run.notes == ["nobody", "nobody"]


async def test_for_a_client_that_has_gone_nothing_is_started() -> None:
    asked = Asked()
    run = _run(asked, None)
    run.client_gone()

    with pytest.raises(ClientGone):
        async with run.sample(1):
            pass
    assert asked.generations == []


async def test_without_a_scorer_there_are_no_scores_and_no_similarities() -> None:
    run = _run(Asked(), None)

    with pytest.raises(NoScore):
        await run.score(["4"], "reward")
    assert await run.similarity(["4"]) is None
