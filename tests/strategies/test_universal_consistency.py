"""Universal self-consistency, as worked examples: branches tick one token a second."""

from collections.abc import Callable, Sequence

import pytest
from pydantic import ValidationError

from strategies.base import Generation, Need, Outcome
from strategies.stopping import All
from strategies.testing import Scripted, ScriptedSampler, fails, finishes, writes
from strategies.universal_consistency import Params, UniversalConsistency, read_choice

TEXTS = [writes("by bus", 30), writes("by train", 10), writes("on a train", 20)]


def _chooses(answers: Sequence[Scripted], choice: Scripted) -> Callable[[Generation, int], Scripted]:
    return lambda generation, index: answers[index] if generation.prompt is None else choice


async def _run(sampler: ScriptedSampler, n: int = 3, **params: object) -> Outcome:
    return await UniversalConsistency(Params.model_validate({"n": n, **params})).run(sampler)


async def test_the_model_names_the_most_consistent_of_all() -> None:
    choice = writes("Two go by train. The most consistent response is Response 2", 5)
    sampler = ScriptedSampler(_chooses(TEXTS, choice), question="How do I get there?")
    assert await _run(sampler, choice_tokens=99) == Outcome((2, 1, 0))  # numbered in order of arrival
    assert (sampler.now_s, sampler.cancelled) == (35, {})
    asked = sampler.asked[-1]
    assert (asked.model, asked.temperature, asked.max_tokens, asked.final) == ("own", 0.0, 99, False)
    assert asked.prompt is not None
    assert "How do I get there?" in asked.prompt
    assert "Response 1: by train\n\nResponse 2: on a train\n\nResponse 3: by bus" in asked.prompt


async def test_the_judge_chooses_where_told() -> None:
    sampler = ScriptedSampler(_chooses(TEXTS, writes("Response 3", 5)))
    assert (await _run(sampler, by="judge")).ranking == (0, 1, 2)
    assert sampler.asked[-1].model == "judge"


async def test_thinking_is_not_shown_and_long_answers_are_shown_by_their_end() -> None:
    answers = [
        writes("<think>maybe a bus</think>by train", 10),
        writes("x" * 500 + "by bus", 20),
        writes("<think>hm", 30),
    ]
    sampler = ScriptedSampler(_chooses(answers, writes("2", 5)))
    assert (await _run(sampler, answer_chars=100)).ranking == (1, 0, 2)
    prompt = sampler.asked[-1].prompt
    assert prompt is not None
    assert "maybe a bus" not in prompt and "Response 3:" not in prompt and "…xxx" in prompt and "x" * 101 not in prompt


async def test_where_all_answers_are_one_nobody_is_asked() -> None:
    sampler = ScriptedSampler([finishes("7", 30), finishes("7", 20), finishes("7", 10)])
    assert await _run(sampler) == Outcome((2, 1, 0), agreement=1.0, answer="7", votes=3)
    assert sampler.started == 3


async def test_one_of_each_distinct_answer_is_listed_first() -> None:
    answers = [finishes("7", 10), finishes("8", 20), finishes("8", 30), finishes("7", 40)]
    outcome = await _run(ScriptedSampler(_chooses(answers, writes("Response 3", 5))), n=4)
    assert outcome == Outcome((2, 0, 1, 3), answer="8")


@pytest.mark.parametrize(
    ("choice", "problem"),
    [(writes("They all have merit.", 5), "the choice could not be read"), (fails(5), "no choice came")],
)
async def test_without_a_choice_the_vote_decides_and_says_so(choice: Scripted, problem: str) -> None:
    answers = [finishes("7", 10), finishes("8", 20), finishes("8", 30)]
    outcome = await _run(ScriptedSampler(_chooses(answers, choice)))
    assert outcome == Outcome((1, 0, 2), 2 / 3, "8", 3, f"{problem}; the plain vote decided")


async def test_without_a_choice_and_a_vote_the_reward_or_else_the_first_answers() -> None:
    script = _chooses(TEXTS, fails(5))
    outcome = await _run(ScriptedSampler(script))
    assert outcome.ranking[0] == 1
    assert outcome.note is not None and outcome.note.startswith("no choice came; no branch gave an answer")
    scored = ScriptedSampler(script, scores=lambda texts, by: [[float("bus" in text)] for text in texts])
    assert (await _run(scored)).ranking[0] == 0


async def test_a_deadline_while_it_chooses_leaves_the_vote_and_nothing_running() -> None:
    answers = [finishes("7", 10), finishes("8", 20), finishes("8", 30)]
    sampler = ScriptedSampler(_chooses(answers, writes("Response 1", 20)), deadline_s=40)
    outcome = await _run(sampler)
    assert (outcome.answer, outcome.note) == ("8", "no choice came; the plain vote decided")
    assert sampler.cancelled == {3: 40}


@pytest.mark.parametrize(("deadline_s", "ranking"), [(5, ()), (15, (1,)), (25, (1, 2))])
async def test_a_deadline_among_the_answers_leaves_no_time_to_choose(
    deadline_s: float, ranking: tuple[int, ...]
) -> None:
    sampler = ScriptedSampler(_chooses(TEXTS, writes("Response 2", 5)), deadline_s=deadline_s)
    assert (await _run(sampler)).ranking == ranking
    assert set(sampler.cancelled.values()) == {deadline_s}


async def test_failing_branches_are_left_out() -> None:
    sampler = ScriptedSampler(_chooses([fails(5), *TEXTS], writes("Response 2", 5)))
    assert (await _run(sampler, n=4)).ranking == (3, 2, 1)
    assert await _run(ScriptedSampler([fails(5), fails(6)]), n=2) == Outcome(())


async def test_a_lone_answer_is_not_chosen() -> None:
    sampler = ScriptedSampler([writes("by bus", 10), fails(20)])
    assert await _run(sampler, n=2) == Outcome((0,))
    assert sampler.started == 2


@pytest.mark.parametrize(
    ("reply", "number"),
    [
        ("The most consistent response is Response 3", 3),
        ("Responses 1 and 2 agree. The most consistent response is **Response 2**.", 2),
        ("the most consistent response is #4.", 4),
        ("Most consistent response: 1", 1),
        ("<think>Response 1? The most consistent response is Response 1</think>Response 4", 4),
        ("Response 2 it is: Response 2 says what most do.", 2),
        ("They agree on it.\n**3**", 3),
        ("Response 1 and Response 2 agree.", None),
        ("The most consistent response is Response 5", None),
        ("Response 0", None),
        ("Two of them say 3 of a kind", None),
        ("", None),
    ],
)
def test_a_choice_is_read_robustly(reply: str, number: int | None) -> None:
    assert read_choice(reply, 4) == number


def test_what_it_requires_and_its_shape() -> None:
    assert UniversalConsistency(Params()).required() == {Need.SAMPLING}
    assert UniversalConsistency(Params(by="judge")).required() == {Need.SAMPLING, Need.JUDGE}
    shape = UniversalConsistency(Params(n=5)).shape()
    assert (shape.branches, shape.stop, shape.waves, shape.votes) == (5, All(), 2, False)
    grid = [UniversalConsistency(Params.model_validate(p.model_dump())) for p in UniversalConsistency.grid()]
    assert [strategy.shape().branches for strategy in grid] == [4, 8]


@pytest.mark.parametrize("wrong", [{"n": 0}, {"n": 65}, {"by": "larger"}, {"answer_chars": 10}, {"beams": 2}])
def test_parameters_are_bounded(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Params.model_validate(wrong)
