"""Self-refine, as worked examples: branches tick one token a second, each step after the one before."""

import pytest
from pydantic import ValidationError

from strategies.base import WHOLE, Generation, Need, Outcome
from strategies.self_refine import CRITIQUE, JUDGE, REVISE, Params, SelfRefine
from strategies.testing import ScriptedSampler, fails, writes

DRAFT, FLAW, BETTER, CONTENT = writes("It is 6.", 30), writes("6 is wrong", 20), writes("It is 7.", 10), "NO CHANGES"


async def _run(sampler: ScriptedSampler, **params: object) -> Outcome:
    outcome = await SelfRefine(Params.model_validate(params)).run(sampler)
    assert len(sampler.spent) == sampler.started  # nothing is left running
    return outcome


async def test_a_draft_is_criticised_and_revised() -> None:
    sampler = ScriptedSampler([DRAFT, FLAW, BETTER])
    assert await _run(sampler) == Outcome(ranking=(2, 0), answer="7")
    assert sampler.decided_at_s == 30 + 20 + 10
    asked = (("assistant", "It is 6."), ("user", CRITIQUE))
    assert sampler.asked == [
        WHOLE,
        Generation(turns=asked, max_tokens=4096, final=False),
        Generation(turns=(*asked, ("assistant", "6 is wrong"), ("user", REVISE))),
    ]


async def test_a_judge_is_asked_outside_the_conversation() -> None:
    sampler = ScriptedSampler([DRAFT, FLAW, BETTER], question="What is 3+4?")
    assert (await _run(sampler, by="judge")).ranking == (2, 0)
    prompt = JUDGE.format(question="What is 3+4?", answer="It is 6.")
    assert sampler.asked[1] == Generation(prompt=prompt, max_tokens=4096, final=False, model="judge")
    assert [generation.model for generation in sampler.asked] == ["own", "judge", "own"]


@pytest.mark.parametrize(
    "critique", [CONTENT, f"**{CONTENT}**.", f"All is well.\n{CONTENT}", f"<think>?</think>{CONTENT}"]
)
async def test_a_content_critique_ends_it(critique: str) -> None:
    sampler = ScriptedSampler([DRAFT, writes(critique, 5)])
    assert await _run(sampler, rounds=4) == Outcome(ranking=(0,), answer="6")
    assert sampler.decided_at_s == 35


async def test_no_changes_within_a_sentence_is_no_end() -> None:
    sampler = ScriptedSampler([DRAFT, writes("NO CHANGES but one: say 7", 5), BETTER])
    assert (await _run(sampler)).ranking == (2, 0)


async def test_each_round_refines_the_latest_version() -> None:
    sampler = ScriptedSampler([DRAFT, FLAW, BETTER, writes("add a unit", 5), writes("It is 7 m.", 10)])
    assert (await _run(sampler, rounds=2)).ranking == (4, 2, 0)
    assert sampler.asked[3].turns[0] == ("assistant", "It is 7.")
    assert sampler.decided_at_s == 75


async def test_prompts_hold_no_thinking_and_are_bounded() -> None:
    draft, critique = writes(f"<think>{'hm ' * 99}</think>It is 6{'!' * 900}", 9), writes("bad" * 900, 9)
    sampler = ScriptedSampler([draft, critique, BETTER])
    await _run(sampler, answer_chars=200)
    assert all(len(text) <= 200 and "hm" not in text for role, text in sampler.asked[2].turns if role == "assistant")


async def test_a_critique_is_no_longer_than_the_request_allows() -> None:
    sampler = ScriptedSampler([DRAFT, FLAW, BETTER], max_tokens=100)
    await _run(sampler)
    assert [generation.max_tokens for generation in sampler.asked] == [None, 100, None]


FAILING = [
    ([fails(5)], (), None, 5),
    ([DRAFT, fails(5)], (0,), "round 1 of 2: no critique (it failed)", 35),
    ([DRAFT, writes("<think>hm", 5)], (0,), "round 1 of 2: no critique (it was empty)", 35),
    ([DRAFT, FLAW, fails(5)], (0,), "round 1 of 2: no revision (it failed)", 55),
    ([DRAFT, FLAW, writes("<think>hm", 5)], (0,), "round 1 of 2: no revision (it was cut off or empty)", 55),
    ([DRAFT, FLAW, BETTER, fails(5)], (2, 0), "round 2 of 2: no critique (it failed)", 65),
    ([DRAFT, FLAW, BETTER, FLAW, fails(5)], (2, 0), "round 2 of 2: no revision (it failed)", 85),
    ([writes("<think>hm", 30)], (0,), "round 1 of 2: the answer has no text to refine", 30),
]


@pytest.mark.parametrize(("script", "ranking", "note", "decided_at_s"), FAILING)
async def test_what_fails_leaves_the_version_before(
    script: list[object], ranking: tuple[int, ...], note: str | None, decided_at_s: float
) -> None:
    sampler = ScriptedSampler(script)  # type: ignore[arg-type]
    outcome = await _run(sampler, rounds=2)
    assert (outcome.ranking, outcome.note, sampler.decided_at_s) == (ranking, note, decided_at_s)


async def test_a_cut_off_revision_does_not_replace_a_whole_draft() -> None:
    sampler = ScriptedSampler([DRAFT, FLAW, writes("It is", 10, finish_reason="length")])
    assert (await _run(sampler)).ranking == (0,)


@pytest.mark.parametrize(
    ("deadline_s", "ranking", "note"),
    [
        (20, (), None),
        (30, (0,), "round 1 of 1: no critique (the deadline came)"),
        (40, (0,), "round 1 of 1: no critique (the deadline came)"),
        (55, (0,), "round 1 of 1: no revision (the deadline came)"),
        (60, (2, 0), None),
    ],
)
async def test_at_the_deadline_the_latest_whole_version_answers(
    deadline_s: float, ranking: tuple[int, ...], note: str | None
) -> None:
    sampler = ScriptedSampler([DRAFT, FLAW, BETTER], deadline_s=deadline_s)
    outcome = await _run(sampler)
    assert (outcome.ranking, outcome.note, sampler.decided_at_s) == (ranking, note, deadline_s)


def test_its_shape_needs_and_bounds() -> None:
    shape = SelfRefine(Params(rounds=3)).shape()
    assert (shape.branches, shape.waves, shape.votes) == (7, 7, False)
    assert SelfRefine(Params()).required() == {Need.CHAT}
    assert SelfRefine(Params(by="judge")).required() == {Need.CHAT, Need.JUDGE}
    with pytest.raises(ValidationError):
        Params(rounds=5)
    with pytest.raises(ValueError, match="set its `rounds`"):
        SelfRefine.pin(4)
    branches = [SelfRefine(Params.model_validate(p.model_dump())).shape().branches for p in SelfRefine.grid()]
    assert branches == [3, 5]
