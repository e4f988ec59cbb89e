"""Recursive aggregation, as worked examples: branches tick one token a second."""

import re

import pytest
from pydantic import ValidationError

from strategies.base import WHOLE, Generation, Need, Outcome
from strategies.recursive_aggregation import AGGREGATE, Params, RecursiveAggregation
from strategies.testing import Scripted, ScriptedSampler, fails, writes


async def _run(sampler: ScriptedSampler, **params: object) -> Outcome:
    settings = {"n": 3, "k": 2, "rounds": 1, **params}
    outcome = await RecursiveAggregation(Params.model_validate(settings)).run(sampler)
    assert len(sampler.spent) == sampler.started  # nothing is left running
    return outcome


def _numbers_itself(generation: Generation, index: int) -> Scripted:
    return writes(f"It is {100 + index}.", 10)


def _members(generation: Generation) -> list[int]:
    """The branches whose answers a prompt holds."""
    return [int(number) - 100 for number in re.findall(r"It is (\d+)\.", generation.turns[0][1])]


async def test_each_round_aggregates_random_subsets_of_the_population_before() -> None:
    sampler = ScriptedSampler(_numbers_itself)
    await _run(sampler, n=4, rounds=2)
    assert sampler.asked[:4] == [WHOLE] * 4
    for wave, before in ((sampler.asked[4:8], range(4)), (sampler.asked[8:], range(4, 8))):
        subsets = [_members(generation) for generation in wave]
        assert all(len(set(subset)) == 2 and set(subset) <= set(before) for subset in subsets)
    assert (sampler.started, sampler.decided_at_s) == (12, 30)
    prompt = AGGREGATE.format(candidates="Candidate 1:\nIt is {}.\n\nCandidate 2:\nIt is {}.")
    assert sampler.asked[4].turns[0] == ("user", prompt.format(*(100 + i for i in _members(sampler.asked[4]))))


async def test_the_choice_of_subsets_follows_the_seed() -> None:
    asked = []
    for seed in (1, 1, 2):
        sampler = ScriptedSampler(_numbers_itself)
        await _run(sampler, n=8, k=3, seed=seed)
        asked.append(sampler.asked)
    assert asked[0] == asked[1] != asked[2]


async def test_the_last_population_votes() -> None:
    first = [writes("It is 6.", 10)] * 3
    sampler = ScriptedSampler([*first, writes("It is 7.", 30), writes("It is 8.", 10), writes("It is 7.", 20)])
    assert await _run(sampler) == Outcome((5, 4, 3, 0, 1, 2), agreement=2 / 3, answer="7", votes=3)
    assert sampler.decided_at_s == 40


async def test_without_groups_the_first_of_the_newest_answers() -> None:
    first = [writes("well", 10)] * 3
    sampler = ScriptedSampler([*first, writes("hm", 30), writes("hello", 10), writes("so", 20)])
    note = "no branch gave an answer, and no reward told them apart: the first one answers"
    assert await _run(sampler) == Outcome((4, 5, 3, 0, 1, 2), note=note)


async def test_prompts_hold_no_thinking_and_are_bounded() -> None:
    wordy = writes(f"<think>hm</think>{'x' * 5000}", 10)
    sampler = ScriptedSampler([wordy, wordy, writes("<think>hm", 10), *[writes("7", 5)] * 3])
    await _run(sampler, k=3, answer_chars=200)
    assert all("hm" not in generation.turns[0][1] for generation in sampler.asked[3:])
    assert len(sampler.asked[3].turns[0][1]) < len(AGGREGATE) + 2 * 230


@pytest.mark.parametrize("bad", [fails(5), writes("It is", 5, finish_reason="length"), writes("<think>hm", 5)])
async def test_a_failed_aggregation_keeps_the_member_in_its_place(bad: Scripted) -> None:
    first = [writes("It is 6.", 10), writes("It is 7.", 10), writes("It is 8.", 10)]
    sampler = ScriptedSampler([*first, writes("It is 7.", 10), bad, writes("It is 9.", 20)])
    assert await _run(sampler) == Outcome((3, 5, 1, 0, 2), agreement=2 / 3, answer="7", votes=3)  # 7, 7, 9


async def test_a_population_is_as_large_as_what_arrived() -> None:
    sampler = ScriptedSampler([fails(5), writes("It is 6.", 10), fails(5), writes("It is 7.", 10)])
    assert (await _run(sampler)).ranking == (3, 1)
    assert sampler.asked[3].turns == (("user", AGGREGATE.format(candidates="Candidate 1:\nIt is 6.")),)


async def test_where_all_fail_nothing_is_ranked() -> None:
    sampler = ScriptedSampler([fails(5)] * 3)
    assert await _run(sampler, rounds=3) == Outcome(ranking=())
    assert sampler.decided_at_s == 5


async def test_tool_calls_are_not_aggregated() -> None:
    sampler = ScriptedSampler([writes("", 10, finish_reason="tool_calls")] * 3)
    outcome = await _run(sampler)
    assert outcome.ranking == (0, 1, 2)
    assert (outcome.note or "").startswith("no aggregation (no member has a text); no branch gave an answer")


@pytest.mark.parametrize(
    ("deadline_s", "ranking", "answer", "note"),
    [
        (5, (), None, None),
        (15, (0,), "6", "round 1 of 2: 0 of 1 came (the deadline came)"),
        (25, (0, 1), "6", "round 1 of 2: 0 of 2 came (the deadline came)"),
        (45, (3, 2, 1, 0), "7", "round 1 of 2: 1 of 3 came (the deadline came)"),
        (75, (6, 7, 5, 3, 4, 0, 1, 2), "9", "round 2 of 2: 2 of 3 came (the deadline came)"),
    ],
)
async def test_at_the_deadline_what_arrived_has_taken_its_places(
    deadline_s: float, ranking: tuple[int, ...], answer: str | None, note: str | None
) -> None:
    first = [writes("It is 6.", 10), writes("It is 7.", 20), writes("It is 8.", 30)]
    second = [writes("It is 7.", 10), writes("It is 8.", 20), writes("It is 9.", 20)]
    third = [writes("It is 9.", 10), writes("It is 9.", 20), writes("It is 8.", 50)]
    sampler = ScriptedSampler([*first, *second, *third], deadline_s=deadline_s)
    outcome = await _run(sampler, rounds=2)
    assert (outcome.ranking, outcome.answer, outcome.note) == (ranking, answer, note)
    assert sampler.decided_at_s == deadline_s


def test_its_shape_needs_and_bounds() -> None:
    shape = RecursiveAggregation(Params(n=8, rounds=3)).shape()
    assert (shape.branches, shape.waves, shape.window, shape.votes) == (32, 4, 8, False)
    assert RecursiveAggregation(Params()).required() == {Need.CHAT, Need.SAMPLING}
    with pytest.raises(ValidationError, match="704, more than 256 branches; lower n or rounds"):
        Params(n=64, rounds=10)
    grid = [RecursiveAggregation(Params.model_validate(p.model_dump())) for p in RecursiveAggregation.grid()]
    assert [strategy.shape().branches for strategy in grid] == [8, 12, 24]
