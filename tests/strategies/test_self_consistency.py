"""Self-consistency, as worked examples: branches tick one token a second."""

import pytest

from strategies.base import Need, Outcome, Shape
from strategies.self_consistency import Params, SelfConsistency
from strategies.stopping import All, BetaLead
from strategies.testing import Scripted, ScriptedSampler, fails, finishes


async def _run(sampler: ScriptedSampler, **params: object) -> Outcome:
    n = len(sampler._script)
    return await SelfConsistency(Params.model_validate({"n": n, **params})).run(sampler)


async def test_a_clear_lead_stops_early_and_cancels_the_rest() -> None:
    sampler = ScriptedSampler([finishes("7", tokens) for tokens in (10, 20, 30, 40, 50, 60, 70, 80)])
    outcome = await _run(sampler)
    assert outcome == Outcome(ranking=(0, 1, 2, 3), agreement=1.0, answer="7", votes=4)
    assert sampler.decided_at_s == 40
    assert sampler.cancelled == dict.fromkeys(range(4, 8), 40)
    assert sum(sampler.spent.values()) == 10 + 20 + 30 + 5 * 40


async def test_with_stop_all_every_branch_is_waited_for() -> None:
    sampler = ScriptedSampler([finishes("7", tokens) for tokens in (10, 20, 30, 40, 50, 60, 70, 80)])
    assert (await _run(sampler, stop="all")).votes == 8
    assert (sampler.decided_at_s, sampler.cancelled) == (80, {})


async def test_a_lead_that_cannot_be_overturned_is_enough() -> None:
    sampler = ScriptedSampler([finishes("7", 10), finishes("7", 20), finishes("8", 30)])
    assert (await _run(sampler)).answer == "7"
    assert sampler.cancelled == {2: 20}


async def test_a_lower_confidence_stops_sooner() -> None:
    script = [finishes("7", 10 * (i + 1)) for i in range(8)]
    sampler = ScriptedSampler(script)
    assert (await _run(sampler, confidence=0.8)).votes == 2
    assert sampler.decided_at_s == 20


async def test_equal_answers_written_differently_vote_together() -> None:
    sampler = ScriptedSampler([finishes("8", 10), finishes("1/2", 20), finishes("0.5", 30)])
    outcome = await _run(sampler)
    assert (outcome.ranking, outcome.answer) == ((1, 0, 2), "1/2")


async def test_failed_branches_only_weaken_the_vote() -> None:
    sampler = ScriptedSampler([fails(5), finishes("7", 10), fails(15), finishes("8", 20), finishes("8", 30)])
    outcome = await _run(sampler)
    assert outcome == Outcome(ranking=(3, 1, 4), agreement=2 / 3, answer="8", votes=3)


async def test_where_all_fail_nothing_is_ranked() -> None:
    sampler = ScriptedSampler([fails(5), fails(15)])
    assert await _run(sampler) == Outcome(ranking=())
    assert sampler.decided_at_s == 15


async def test_where_all_abstain_the_first_arrival_answers() -> None:
    sampler = ScriptedSampler([finishes(None, 30), finishes(None, 20)])
    assert await _run(sampler) == Outcome(ranking=(1, 0), agreement=None)


@pytest.mark.parametrize(("deadline_s", "ranking"), [(5, ()), (10, (0,)), (35, (1, 0, 2))])
async def test_at_the_deadline_it_decides_over_what_has_finished(deadline_s: float, ranking: tuple[int, ...]) -> None:
    script = [finishes("7", 10), finishes("8", 20), finishes("8", 30), *[finishes("7", 40)] * 5]
    sampler = ScriptedSampler(script, deadline_s=deadline_s)
    assert (await _run(sampler)).ranking == ranking
    assert sampler.decided_at_s == deadline_s
    assert set(sampler.cancelled.values()) == {deadline_s}


async def test_a_truncated_branch_with_an_answer_votes() -> None:
    sampler = ScriptedSampler([Scripted(10, r"\boxed{7}", 10, "length")])
    assert (await _run(sampler)).answer == "7"


def test_its_shape_is_what_it_runs() -> None:
    assert SelfConsistency(Params(n=5)).shape().branches == 5
    assert SelfConsistency(Params(n=5)).shape().stop == BetaLead(0.95)
    assert SelfConsistency(Params(stop="all")).shape().stop == All()
    assert SelfConsistency.needs == {Need.ANSWERS, Need.SAMPLING}
    assert SelfConsistency.pin(6) == {"n": 6}
    shapes = [SelfConsistency(Params.model_validate(p.model_dump())).shape() for p in SelfConsistency.grid()]
    for greedy in (False, True):
        at_once = [shape.branches for shape in shapes if shape.window is None and shape.greedy == greedy]
        assert at_once == sorted(at_once)  # cheapest first
    assert SelfConsistency(Params(n=7, window=3)).shape() == Shape(7, BetaLead(0.95), window=3, waves=3)
    assert SelfConsistency(Params(n=3, window=3)).shape() == Shape(3, BetaLead(0.95))


async def test_in_windows_a_settled_vote_starts_no_more_branches() -> None:
    sampler = ScriptedSampler([finishes("7", 10), finishes("8", 20), finishes("7", 10), finishes("7", 15)] * 2)
    outcome = await _run(sampler, window=2, confidence=0.8)
    assert (outcome.answer, outcome.votes, sampler.started) == ("7", 4, 4)
    assert sampler.decided_at_s == 20 + 15


async def test_a_vote_settled_within_a_window_cancels_the_rest_of_it() -> None:
    sampler = ScriptedSampler([finishes("7", 10), finishes("7", 20), finishes("8", 90), finishes("7", 15)])
    assert (await _run(sampler, window=3, confidence=0.8)).votes == 2
    assert (sampler.started, sampler.cancelled) == (3, {2: 20})


async def test_the_first_sample_may_be_at_temperature_0() -> None:
    sampler = ScriptedSampler([finishes("7", 10)] * 4)
    await _run(sampler, window=2, confidence=0.95, greedy=True)
    assert [generation.temperature for generation in sampler.asked] == [0.0, None, None, None]
    assert SelfConsistency(Params(greedy=True)).required() == {Need.ANSWERS, Need.SAMPLING, Need.FREE_SAMPLING}


async def test_esc_starts_a_window_at_a_time_and_stops_when_one_agrees() -> None:
    script = [finishes("7", 10), finishes("8", 20), *[finishes("7", 10)] * 2, *[finishes("9", 10)] * 2]
    sampler = ScriptedSampler(script)
    outcome = await SelfConsistency(Params(n=6, stop="esc", window=2)).run(sampler)
    assert (outcome.answer, outcome.votes, sampler.started) == ("7", 4, 4)
    assert sampler.decided_at_s == 30


async def test_an_abstention_is_no_agreement_of_its_window() -> None:
    sampler = ScriptedSampler([finishes("7", 10), finishes(None, 10), finishes("7", 10), finishes("7", 10)])
    await SelfConsistency(Params(n=4, stop="esc", window=2)).run(sampler)
    assert sampler.started == 4


async def test_esc_starts_no_window_after_the_deadline() -> None:
    sampler = ScriptedSampler([finishes("7", 10), finishes("8", 20), finishes("7", 10)], deadline_s=15)
    outcome = await SelfConsistency(Params(n=6, stop="esc", window=2)).run(sampler)
    assert (outcome.ranking, sampler.started, sampler.cancelled) == ((0,), 2, {1: 15})
