"""The cascade, as worked examples: branches tick one token a second."""

import pytest
from pydantic import ValidationError

from strategies.base import WHOLE, Need, Outcome
from strategies.cascade import LARGER, Cascade, Params
from strategies.testing import Scripted, ScriptedSampler, fails, finishes

ESCALATED = "escalated to the larger model"
SPLIT = [finishes("6", 10), finishes("7", 20), finishes("8", 30), finishes("9", 40)]


async def _run(sampler: ScriptedSampler, **params: object) -> Outcome:
    outcome = await Cascade(Params.model_validate(params)).run(sampler)
    assert len(sampler.spent) == sampler.started  # nothing is left running
    return outcome


async def test_an_agreement_that_must_come_stops_the_small_model() -> None:
    sampler = ScriptedSampler([finishes("7", tokens) for tokens in (10, 20, 30, 40)])
    assert await _run(sampler) == Outcome((0, 1, 2), agreement=1.0, answer="7", votes=3)  # 3 of 4 are 0.7
    assert (sampler.decided_at_s, sampler.cancelled) == (30, {3: 30})
    assert sampler.asked == [WHOLE] * 4


async def test_an_agreement_that_cannot_come_escalates_at_once() -> None:
    sampler = ScriptedSampler([*SPLIT, finishes("9", 15)])
    expected = Outcome((4, 0, 1, 2), agreement=1.0, answer="9", votes=1, note=ESCALATED)
    assert await _run(sampler, agreement=0.75) == expected
    assert sampler.cancelled == {3: 30}  # after 6 and 7 three of four could still agree, after 8 only two
    assert sampler.decided_at_s == 30 + 15


async def test_the_threshold_decides_when() -> None:
    sampler = ScriptedSampler([*SPLIT, finishes("9", 15)])
    await _run(sampler, agreement=1.0)
    assert (sampler.cancelled, sampler.decided_at_s) == ({2: 20, 3: 20}, 35)
    assert sampler.asked == [*[WHOLE] * 4, LARGER]


async def test_an_agreement_exactly_at_the_threshold_is_enough() -> None:
    sampler = ScriptedSampler([finishes("7", 10), finishes("7", 20), finishes("7", 30), *[finishes("8", 40)] * 7])
    assert (await _run(sampler, n=10, agreement=0.3)).answer == "7"  # 0.3 · 10 is a little over 3 in floats
    assert sampler.decided_at_s == 30


async def test_samples_without_an_answer_do_not_agree() -> None:
    sampler = ScriptedSampler([finishes(None, 10), finishes("7", 20), finishes(None, 30), finishes("8", 5)])
    assert (await _run(sampler, n=3)).note == ESCALATED
    assert sampler.asked[3] == LARGER


async def test_failed_samples_leave_the_agreement_to_the_others() -> None:
    sampler = ScriptedSampler([fails(5), fails(5), finishes("7", 10), finishes("7", 20)])
    assert await _run(sampler) == Outcome((2, 3), agreement=1.0, answer="7", votes=2)


async def test_where_the_small_model_fails_the_larger_answers() -> None:
    sampler = ScriptedSampler([*[fails(5)] * 4, finishes("7", 10)])
    assert await _run(sampler) == Outcome((4,), agreement=1.0, answer="7", votes=1, note=ESCALATED)
    assert sampler.decided_at_s == 15


async def test_the_larger_models_votes_count_alone() -> None:
    sampler = ScriptedSampler([finishes("6", 10), finishes("7", 20), *[finishes("7", 5), finishes("8", 10)] * 2])
    outcome = await _run(sampler, n=2, larger_n=4, agreement=1.0)
    assert outcome == Outcome((2, 3, 4, 5, 0, 1), agreement=0.5, answer="7", votes=4, note=ESCALATED)


async def test_a_lead_of_the_larger_model_that_cannot_be_overturned_is_enough() -> None:
    larger = [finishes("8", tokens) for tokens in (5, 6, 7, 90)]
    sampler = ScriptedSampler([finishes("6", 10), finishes("7", 20), *larger])
    assert (await _run(sampler, n=2, larger_n=4, agreement=1.0)).votes == 3
    assert (sampler.decided_at_s, sampler.cancelled) == (27, {5: 27})


async def test_the_small_models_votes_may_join_at_a_weight() -> None:
    script = [finishes("6", 10), finishes("7", 20), finishes("8", 5), finishes("7", 10)]
    outcome = await _run(ScriptedSampler(script), n=2, larger_n=2, agreement=1.0, small_weight=0.5)
    assert (outcome.answer, outcome.agreement, outcome.votes) == ("7", 1.5 / 3, 4)
    assert (await _run(ScriptedSampler(script), n=2, larger_n=2, agreement=1.0)).answer == "8"  # a tie: the shorter


NOTHING = [
    ([fails(5)], (0, 1), 25, "escalated, but the larger model gave nothing (it failed)"),
    ([finishes(None, 5)], (0, 1, 2), 25, "escalated, but the larger model gave no answer"),
]


@pytest.mark.parametrize(("larger", "ranking", "decided_at_s", "note"), NOTHING)
async def test_without_the_larger_model_the_small_ones_vote_answers(
    larger: list[Scripted], ranking: tuple[int, ...], decided_at_s: float, note: str
) -> None:
    sampler = ScriptedSampler([finishes("6", 10), finishes("7", 20), *larger])
    assert await _run(sampler, n=2, agreement=1.0) == Outcome(ranking, 0.5, "6", 2, note)
    assert sampler.decided_at_s == decided_at_s


async def test_where_neither_can_be_grouped_the_larger_model_answers() -> None:
    sampler = ScriptedSampler([finishes(None, 10), finishes(None, 20), finishes(None, 5)])
    assert (await _run(sampler, n=2)).ranking == (2, 0)


@pytest.mark.parametrize(
    ("deadline_s", "ranking", "note"),
    [
        (5, (), "not escalated: the deadline came"),
        (10, (0,), None),
        (25, (0, 1), "escalated, but the larger model gave nothing (the deadline came)"),
        (30, (2, 0, 1), ESCALATED),
        (45, (2, 4, 0, 1), ESCALATED),
    ],
)
async def test_at_the_deadline_it_decides_over_what_has_finished(
    deadline_s: float, ranking: tuple[int, ...], note: str | None
) -> None:
    larger = [finishes("7", 10), finishes("8", 50), finishes("8", 20)]
    sampler = ScriptedSampler([finishes("6", 10), finishes("7", 20), *larger], deadline_s=deadline_s)
    outcome = await _run(sampler, n=2, larger_n=3, agreement=1.0)
    assert (outcome.ranking, outcome.note) == (ranking, note)
    assert sampler.decided_at_s == deadline_s


def test_its_shape_needs_and_bounds() -> None:
    shape = Cascade(Params(n=5, larger_n=2)).shape()
    assert (shape.branches, shape.waves, shape.votes) == (7, 2, False)
    assert Cascade(Params()).required() == {Need.ANSWERS, Need.SAMPLING, Need.LARGER_MODEL}
    for wrong in ({"n": 1}, {"agreement": 0.0}, {"agreement": 1.1}, {"small_weight": 2.0}):
        with pytest.raises(ValidationError):
            Params.model_validate(wrong)
    branches = [Cascade(Params.model_validate(p.model_dump())).shape().branches for p in Cascade.grid()]
    assert branches == sorted(branches)
