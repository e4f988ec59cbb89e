"""Mixture of agents, as worked examples: branches tick one token a second."""

import pytest
from pydantic import ValidationError

from strategies.base import WHOLE, Generation, Need, Outcome
from strategies.mixture_of_agents import AGGREGATE, MixtureOfAgents, Params
from strategies.testing import Scripted, ScriptedSampler, fails, writes

THREE = [writes("It is 7.", 10), writes("It is 8.", 20), writes("It is 7!", 30)]


def _aggregate(*texts: str) -> tuple[tuple[str, str], ...]:
    proposals = "\n\n".join(f"Answer {i}:\n{text}" for i, text in enumerate(texts, 1))
    return (("user", AGGREGATE.format(proposals=proposals)),)


async def _run(sampler: ScriptedSampler, **params: object) -> Outcome:
    outcome = await MixtureOfAgents(Params.model_validate({"n": 3, **params})).run(sampler)
    assert len(sampler.spent) == sampler.started  # nothing is left running
    return outcome


async def test_an_aggregator_is_given_the_proposals_and_answers() -> None:
    sampler = ScriptedSampler([*THREE, writes("It is 8, surely.", 15)])
    assert await _run(sampler) == Outcome(ranking=(3, 0, 1, 2), answer="8")
    assert sampler.decided_at_s == 30 + 15
    assert sampler.asked == [WHOLE] * 3 + [Generation(turns=_aggregate("It is 7.", "It is 8.", "It is 7!"))]


@pytest.mark.parametrize("by", ["judge", "larger"])
async def test_another_model_may_aggregate(by: str) -> None:
    sampler = ScriptedSampler([*THREE, writes("8", 15)])
    assert (await _run(sampler, by=by)).ranking[0] == 3
    assert [generation.model for generation in sampler.asked] == ["own", "own", "own", by]


async def test_a_second_model_may_propose_in_turns() -> None:
    sampler = ScriptedSampler(lambda generation, index: writes(f"It is {index}.", 10))
    await _run(sampler, proposers="own+judge", layers=2)
    models = ["own", "judge", "own"]
    assert [generation.model for generation in sampler.asked] == [*models, *models, "own"]
    assert sampler.asked[1] == Generation(model="judge")  # the client's own request


async def test_a_further_layer_proposes_over_the_one_before() -> None:
    sampler = ScriptedSampler(lambda generation, index: writes(f"It is {index}.", 10))
    outcome = await _run(sampler, layers=2)
    assert outcome.ranking == (6, 3, 4, 5, 0, 1, 2)
    over_first = Generation(turns=_aggregate("It is 0.", "It is 1.", "It is 2."))
    assert sampler.asked[3:] == [*[over_first] * 3, Generation(turns=_aggregate("It is 3.", "It is 4.", "It is 5."))]
    assert sampler.decided_at_s == 30


async def test_prompts_hold_no_thinking_and_are_bounded() -> None:
    wordy = writes(f"<think>hm</think>{'x' * 5000}", 10)
    sampler = ScriptedSampler([wordy, writes("<think>hm", 10), wordy, writes("8", 5)])
    await _run(sampler, answer_chars=200)
    prompt = sampler.asked[3].turns[0][1]
    assert "hm" not in prompt
    assert len(prompt) < len(AGGREGATE) + 2 * 220


@pytest.mark.parametrize(
    ("last", "why"),
    [
        (fails(5), "it failed"),
        (writes("It is", 5, finish_reason="length"), "it was cut off or empty"),
        (writes("<think>hm", 5), "it was cut off or empty"),
    ],
)
async def test_without_an_aggregation_the_proposals_vote(last: Scripted, why: str) -> None:
    sampler = ScriptedSampler([*THREE, last])
    expected = Outcome((0, 1, 2), agreement=2 / 3, answer="7", votes=3, note=f"no aggregation ({why})")
    assert await _run(sampler) == expected


async def test_where_proposals_cannot_be_grouped_the_first_answers() -> None:
    sampler = ScriptedSampler([writes("well", 30), writes("hello", 20), fails(5), fails(5)])
    assert await _run(sampler) == Outcome(ranking=(1, 0), note="no aggregation (it failed)")


async def test_a_tool_call_is_no_text_to_aggregate() -> None:
    sampler = ScriptedSampler([writes("", 10, finish_reason="tool_calls")] * 3)
    outcome = await _run(sampler)
    assert outcome.ranking == (0, 1, 2)
    assert (outcome.note or "").startswith("no aggregation (no proposal has a text); no branch gave an answer")


async def test_a_failed_proposal_is_only_missing() -> None:
    sampler = ScriptedSampler([THREE[0], fails(5), THREE[2], writes("7", 5)])
    assert (await _run(sampler)).ranking == (3, 0, 2)
    assert sampler.asked[3].turns == _aggregate("It is 7.", "It is 7!")


async def test_where_all_fail_nothing_is_ranked() -> None:
    sampler = ScriptedSampler([fails(5)] * 3)
    assert await _run(sampler) == Outcome(ranking=())


async def test_where_a_layer_fails_the_one_before_stands() -> None:
    sampler = ScriptedSampler([*THREE, *[fails(5)] * 3, writes("8", 5)])
    outcome = await _run(sampler, layers=2)
    assert (outcome.ranking, outcome.note) == ((6, 0, 1, 2), "1 of 2 layers")
    assert sampler.asked[6].turns == _aggregate("It is 7.", "It is 8.", "It is 7!")


@pytest.mark.parametrize(
    ("deadline_s", "ranking", "answer", "note"),
    [
        (5, (), None, "1 of 2 layers"),
        (25, (0, 1), "7", "1 of 2 layers; no aggregation (the deadline came)"),
        (35, (0, 1, 2), "7", "1 of 2 layers; no aggregation (the deadline came)"),
        (45, (3, 0, 1, 2), "9", "no aggregation (the deadline came)"),
        (65, (4, 3, 5, 0, 1, 2), "8", "no aggregation (the deadline came)"),
        (75, (6, 3, 4, 5, 0, 1, 2), "6", None),
    ],
)
async def test_at_the_deadline_the_latest_layer_with_answers_votes(
    deadline_s: float, ranking: tuple[int, ...], answer: str | None, note: str | None
) -> None:
    second = [writes("It is 9.", 10), writes("It is 8.", 20), writes("It is 8, I think.", 30)]
    sampler = ScriptedSampler([*THREE, *second, writes("It is 6.", 15)], deadline_s=deadline_s)
    outcome = await _run(sampler, layers=2)
    assert (outcome.ranking, outcome.answer, outcome.note) == (ranking, answer, note)
    assert sampler.decided_at_s == deadline_s


def test_its_shape_needs_and_bounds() -> None:
    shape = MixtureOfAgents(Params(n=5, layers=2)).shape()
    assert (shape.branches, shape.waves, shape.votes) == (11, 3, False)
    assert MixtureOfAgents(Params()).required() == {Need.CHAT}
    assert MixtureOfAgents(Params(proposers="own+judge")).required() == {Need.CHAT, Need.JUDGE}
    assert MixtureOfAgents(Params(by="larger")).required() == {Need.CHAT, Need.LARGER_MODEL}
    assert MixtureOfAgents(Params(by="judge")).required() == {Need.CHAT, Need.JUDGE}
    for wrong in ({"layers": 4}, {"n": 65}, {"by": "own+judge"}):
        with pytest.raises(ValidationError):
            Params.model_validate(wrong)
    branches = [MixtureOfAgents(Params.model_validate(p.model_dump())).shape().branches for p in MixtureOfAgents.grid()]
    assert branches == sorted(branches)
