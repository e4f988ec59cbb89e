"""`none`: one branch, answered as it comes."""

import pytest

from strategies.base import Need, Outcome
from strategies.single import Params, Single
from strategies.testing import ScriptedSampler, fails, finishes


async def test_the_one_branch_answers_unread() -> None:
    sampler = ScriptedSampler([finishes("7", 10)])
    assert await Single(Params()).run(sampler) == Outcome(ranking=(0,), agreement=None, answer=None, votes=0)
    assert (sampler.started, sampler.decided_at_s, sampler.cancelled) == (1, 10, {})


async def test_a_failure_ranks_nothing() -> None:
    assert await Single(Params()).run(ScriptedSampler([fails(1)])) == Outcome(ranking=())


async def test_at_the_deadline_the_branch_is_cancelled() -> None:
    sampler = ScriptedSampler([finishes("7", 50)], deadline_s=20)
    assert await Single(Params()).run(sampler) == Outcome(ranking=())
    assert (sampler.cancelled, sampler.spent) == ({0: 20}, {0: 20})


def test_it_can_be_pinned_to_one_branch_only() -> None:
    assert Single.pin(1) == {}
    with pytest.raises(ValueError, match="one branch"):
        Single.pin(2)
    assert Single(Params()).shape().branches == 1
    assert not Single.needs


async def test_greedy_is_at_temperature_0_and_for_requests_that_leave_it_open() -> None:
    sampler = ScriptedSampler([finishes("7", 10)])
    await Single(Params(greedy=True)).run(sampler)
    assert [generation.temperature for generation in sampler.asked] == [0.0]
    assert Single(Params(greedy=True)).required() == {Need.FREE_SAMPLING}
    assert not Single(Params()).required()
