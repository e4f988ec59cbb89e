"""short-m@k, as worked examples: branches tick one token a second."""

import pytest

from strategies.base import Outcome
from strategies.first_finish import FirstFinish, Params
from strategies.stopping import FirstArrivals
from strategies.testing import ScriptedSampler, fails, finishes


async def _run(sampler: ScriptedSampler, m: int) -> Outcome:
    return await FirstFinish(Params(n=len(sampler._script), m=m)).run(sampler)


async def test_the_first_m_vote_and_the_stragglers_are_cancelled() -> None:
    sampler = ScriptedSampler([finishes("8", 900), finishes("7", 30), finishes("8", 20), finishes("7", 10)])
    outcome = await _run(sampler, m=3)
    assert outcome == Outcome(ranking=(3, 2, 1), agreement=2 / 3, answer="7", votes=3)
    assert (sampler.decided_at_s, sampler.cancelled) == (30, {0: 30})
    assert sampler.spent == {0: 30, 1: 30, 2: 20, 3: 10}


async def test_ties_go_to_the_shortest() -> None:
    # Arrival and length differ where branches started late: the tie rule is about length.
    sampler = ScriptedSampler([finishes("7", 30, at_s=10), finishes("8", 20, at_s=20), finishes("9", 5)])
    assert (await _run(ScriptedSampler(sampler._script[:2]), m=2)).answer == "8"


async def test_an_abstention_is_an_arrival_but_no_vote() -> None:
    sampler = ScriptedSampler([finishes(None, 10), finishes("7", 20), finishes("8", 30)])
    assert await _run(sampler, m=2) == Outcome(ranking=(1, 0), agreement=1.0, answer="7", votes=1)


async def test_a_failure_is_no_arrival() -> None:
    sampler = ScriptedSampler([fails(1), finishes("7", 20), finishes("7", 30), finishes("7", 40)])
    assert (await _run(sampler, m=2)).ranking == (1, 2)
    assert sampler.decided_at_s == 30


async def test_fewer_than_m_survivors_still_answer() -> None:
    sampler = ScriptedSampler([fails(1), fails(2), finishes("7", 20)])
    assert (await _run(sampler, m=2)).answer == "7"


@pytest.mark.parametrize("script", [[fails(1), fails(2)], [finishes("7", 50), finishes("7", 60)]])
async def test_with_no_finished_branch_nothing_is_ranked(script: list[object]) -> None:
    sampler = ScriptedSampler(script, deadline_s=40)  # type: ignore[arg-type]
    assert await _run(sampler, m=1) == Outcome(ranking=())


async def test_where_all_abstain_the_first_arrival_answers() -> None:
    assert (await _run(ScriptedSampler([finishes(None, 20), finishes(None, 10)]), m=2)).ranking == (1, 0)


@pytest.mark.parametrize(("deadline_s", "ranking"), [(15, (0,)), (25, (0, 1)), (99, (2, 0, 1))])
async def test_at_the_deadline_it_decides_over_what_has_finished(deadline_s: float, ranking: tuple[int, ...]) -> None:
    script = [finishes("7", 10), finishes("8", 20), finishes("9", 5, at_s=30), finishes("9", 99)]
    sampler = ScriptedSampler(script, deadline_s=deadline_s)
    assert (await _run(sampler, m=3)).ranking == ranking
    assert sampler.decided_at_s == min(deadline_s, 30)


@pytest.mark.parametrize(("given", "m"), [({}, 3), ({"n": 2}, 2), ({"n": 16}, 3), ({"n": 16, "m": 5}, 5)])
def test_m_defaults_to_three_or_to_all_of_fewer(given: dict[str, int], m: int) -> None:
    assert Params.model_validate(given).m == m


def test_its_shape_is_what_it_runs() -> None:
    shape = FirstFinish(Params(n=8, m=5)).shape()
    assert (shape.branches, shape.stop) == (8, FirstArrivals(5))
