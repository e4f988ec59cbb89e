"""Budget forcing, as worked examples: branches tick one token a second."""

import pytest
from pydantic import ValidationError

from strategies.base import Generation, Need, Outcome
from strategies.budget_forcing import BudgetForcing, Params
from strategies.stopping import All, BetaLead
from strategies.testing import Scripted, ScriptedSampler, fails, finishes, writes

WAIT = "Wait, let me check again.\n"
STOP = ("</think>",)
FIRST, SECOND, ANSWER = "<think>\n3+4=8\n</think>", "3+4=7\n</think>", "\nThe answer is 7."
TWICE = f"<think>\n3+4=8\n{WAIT}3+4=7\n</think>"


def cut(text: str, tokens: int) -> Scripted:
    return writes(text, tokens, finish_reason="length")


async def _run(sampler: ScriptedSampler, **params: object) -> Outcome:
    return await BudgetForcing(Params.model_validate(params)).run(sampler)


async def test_an_end_of_thinking_is_put_off_and_the_chain_thinks_on() -> None:
    sampler = ScriptedSampler([writes(FIRST, 30), writes(SECOND, 20), writes(ANSWER, 5)])
    assert await _run(sampler, waits=1) == Outcome(ranking=(2,))
    assert sampler.asked == [
        Generation(stop=STOP, max_tokens=4096),
        Generation(continues=f"<think>\n3+4=8\n{WAIT}", stop=STOP, max_tokens=4066),
        Generation(continues=TWICE),
    ]
    assert (sampler.decided_at_s, sampler.spent, sampler.cancelled) == (55, {0: 30, 1: 20, 2: 5}, {})


async def test_at_the_cap_it_is_made_to_answer() -> None:
    sampler = ScriptedSampler([cut("<think>\n3+4=8", 40), writes("7.", 2)])
    assert await _run(sampler, max_tokens=40, answer_tokens=16) == Outcome(ranking=(1,))
    assert sampler.asked[1] == Generation(continues="<think>\n3+4=8\n</think>\nThe answer is ", max_tokens=16)
    assert sampler.decided_at_s == 42


async def test_the_cap_is_that_of_all_its_thinking() -> None:
    sampler = ScriptedSampler([writes(FIRST, 30), cut("3+4", 10), writes("7.", 2)])
    await _run(sampler, max_tokens=40, waits=4)
    assert [asked.max_tokens for asked in sampler.asked] == [40, 10, 256]
    assert sampler.asked[2].continues == f"<think>\n3+4=8\n{WAIT}3+4\n</think>\nThe answer is "


async def test_without_budget_left_no_end_of_thinking_is_put_off() -> None:
    sampler = ScriptedSampler([writes(FIRST, 40), writes(ANSWER, 5)])
    await _run(sampler, max_tokens=40, waits=4)
    assert sampler.asked[1] == Generation(continues=FIRST)


@pytest.mark.parametrize(("room", "thinking"), [(10_000, 4096), (2000, 2000 - 256 - 24), (100, 1)])
async def test_thinking_leaves_room_for_the_answer_in_the_context(room: int, thinking: int) -> None:
    """What is put there to force it takes room too: a token of it is at least a character."""
    assert len(f"\n</think>{Params().answer_lead}") == 24
    sampler = ScriptedSampler([cut("<think>\n3+4=8", 40), writes("7.", 2)], room=room)
    await _run(sampler)
    assert [asked.max_tokens for asked in sampler.asked] == [thinking, 256]


async def test_and_what_it_was_told_to_wait_for_takes_room_too() -> None:
    sampler = ScriptedSampler([writes(FIRST, 30), writes(SECOND, 20), writes(ANSWER, 5)], room=2000)
    await _run(sampler, waits=1)
    assert [asked.max_tokens for asked in sampler.asked] == [1720, 1720 - 30 - len(WAIT) - 1, None]


async def test_enough_thinking_is_not_put_off() -> None:
    sampler = ScriptedSampler([writes(FIRST, 30), writes(ANSWER, 5)])
    assert await _run(sampler, waits=4, min_tokens=30) == Outcome(ranking=(1,))
    assert sampler.asked[1].continues == FIRST


async def test_within_the_requests_own_limit_room_is_kept_for_the_answer() -> None:
    sampler = ScriptedSampler([writes(FIRST, 30), writes(SECOND, 20), writes(ANSWER, 5)], max_tokens=100)
    await _run(sampler, answer_tokens=20)
    assert [asked.max_tokens for asked in sampler.asked] == [80, 50, 50]


async def test_thinking_that_the_engine_tells_apart_has_no_closing_tag() -> None:
    sampler = ScriptedSampler([writes("<think>\n3+4=8", 30), writes(ANSWER, 5)])
    await _run(sampler, waits=0)
    assert sampler.asked[1].continues == "<think>\n3+4=8</think>"


async def test_a_model_that_does_not_think_in_tags_has_answered() -> None:
    sampler = ScriptedSampler([writes("It is 7.", 30)])
    note = "no thinking between tags: there was nothing to force"
    assert await _run(sampler) == Outcome(ranking=(0,), note=note)


async def test_where_thinking_on_fails_it_answers_from_what_it_had() -> None:
    sampler = ScriptedSampler([writes(FIRST, 30), fails(3), writes(ANSWER, 5)])
    assert await _run(sampler, waits=1) == Outcome(ranking=(2,))
    assert sampler.asked[2] == Generation(continues=FIRST)


@pytest.mark.parametrize("script", [[fails(3)], [writes(FIRST, 30), fails(3)]])
async def test_a_chain_that_fails_otherwise_ranks_nothing(script: list[Scripted]) -> None:
    assert await _run(ScriptedSampler(script), waits=0) == Outcome(ranking=())


@pytest.mark.parametrize(
    ("deadline_s", "ranking", "started"),
    [
        (20, (), 1),  # while it thinks
        (30, (0,), 1),  # as the first part ends: there is nothing else
        (40, (), 2),  # while it thinks on: that part is further than the first one
        (53, (), 3),  # while it answers
        (55, (2,), 3),
    ],
)
async def test_at_the_deadline(deadline_s: float, ranking: tuple[int, ...], started: int) -> None:
    sampler = ScriptedSampler([writes(FIRST, 30), writes(SECOND, 20), writes(ANSWER, 5)], deadline_s=deadline_s)
    assert (await _run(sampler)).ranking == ranking
    assert (sampler.decided_at_s, sampler.started) == (deadline_s, started)
    assert set(sampler.spent) == set(range(started))  # nothing is left running


async def test_chains_go_on_together_and_vote() -> None:
    script = [writes(FIRST, 30), writes(FIRST, 10), fails(5), cut("<think>\n3", 40)]
    script += [finishes("7", 5), finishes("7", 9), finishes("8", 20)]
    sampler = ScriptedSampler(script)
    outcome = await _run(sampler, n=4, waits=0, max_tokens=40, confidence=0.8)
    assert outcome == Outcome(ranking=(4, 5), agreement=1.0, answer="7", votes=2)
    assert (sampler.decided_at_s, sampler.cancelled) == (49, {6: 49})
    assert sampler.asked[6].continues == "<think>\n3\n</think>\nThe answer is "


def test_its_needs_and_shape_follow_its_parameters() -> None:
    one, four = BudgetForcing(Params(waits=2)), BudgetForcing(Params(n=4, waits=0))
    assert one.required() == {Need.CONTINUATION}
    assert four.required() == {Need.CONTINUATION, Need.ANSWERS, Need.SAMPLING}
    assert (one.shape().branches, one.shape().waves, one.shape().stop, one.shape().votes) == (1, 4, All(), False)
    assert (four.shape().branches, four.shape().waves, four.shape().stop) == (4, 2, BetaLead(0.95))
    assert {BudgetForcing(Params.model_validate(p.model_dump())).shape().votes for p in BudgetForcing.grid()} == {False}
    with pytest.raises(ValidationError, match=r"min_tokens \(9\) cannot be more than max_tokens \(8\)"):
        Params(min_tokens=9, max_tokens=8)
