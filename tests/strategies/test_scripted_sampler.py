"""The fake itself: what it promises to tests of strategies, ours and others'."""

import pytest

from strategies.base import Answer, Branch
from strategies.testing import Scripted, ScriptedSampler, ScriptTooShort, fails, finishes


async def _arrivals(sampler: ScriptedSampler, count: int) -> list[tuple[int, float]]:
    async with sampler.sample(count) as branches:
        return [(branch.index, sampler.now_s) async for branch in branches]


async def test_branches_arrive_in_virtual_time_order_and_failed_ones_never() -> None:
    sampler = ScriptedSampler([finishes("1", 30), fails(at_s=10), finishes("2", 20)])
    assert await _arrivals(sampler, 3) == [(2, 20.0), (0, 30.0)]
    assert sampler.spent == {0: 30, 1: 10, 2: 20}
    assert sampler.cancelled == {}


async def test_leaving_cancels_what_still_runs_and_counts_what_it_spent() -> None:
    sampler = ScriptedSampler([finishes("1", 10), finishes("2", 90), finishes("3", 10)], tokens_per_s=2)
    async with sampler.sample(3) as branches:
        assert await anext(aiter(branches)) == Branch(0, r"so it is \boxed{1}", 10, "stop")
    assert sampler.decided_at_s == 10
    assert sampler.cancelled == {1: 10.0}  # the third had finished too, unread
    assert sampler.spent == {0: 10, 1: 20, 2: 10}


async def test_the_deadline_ends_the_arrivals_and_is_the_time_of_the_decision() -> None:
    sampler = ScriptedSampler([finishes("1", 10), finishes("2", 40), finishes("3", 41)], deadline_s=40)
    assert [index for index, _ in await _arrivals(sampler, 3)] == [0, 1]
    assert (sampler.decided_at_s, sampler.cancelled, sampler.cut_by_deadline) == (40, {2: 40}, True)
    assert sampler.spent[2] == 40


async def test_later_waves_start_when_the_earlier_one_was_left() -> None:
    sampler = ScriptedSampler([finishes("1", 10), finishes("2", 5)])
    assert await _arrivals(sampler, 1) == [(0, 10.0)]
    assert await _arrivals(sampler, 1) == [(1, 15.0)]


async def test_a_script_that_is_too_short_is_the_tests_mistake() -> None:
    with pytest.raises(ScriptTooShort, match="branch 1 was started, 1 are scripted"):
        await _arrivals(ScriptedSampler([finishes("1", 1)]), 2)


async def test_answers_are_grouped_as_mathematics_unless_told() -> None:
    half = Branch(0, r"\boxed{\frac12}", 1, "stop")
    assert await ScriptedSampler([]).answer(half) == Answer(0, r"\frac12")

    async def length(text: str) -> Answer | None:
        return Answer(0, str(len(text)))

    assert await ScriptedSampler([Scripted(1, "abc", 1)], classify=length).answer(half) == Answer(0, "15")
