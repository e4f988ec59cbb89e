"""Best-of-n, as worked examples: branches tick one token a second."""

from collections.abc import Callable, Sequence

import pytest
from pydantic import ValidationError

from strategies.base import Generation, Need, NoScore, Outcome, Scorer
from strategies.best_of_n import BestOfN, Params
from strategies.judging import judging, read_score
from strategies.stopping import All
from strategies.testing import Scripted, ScriptedSampler, fails, finishes, writes

Scores = Callable[[Sequence[str], Scorer], list[list[float]]]


def _by_word(rewards: dict[str, float | list[float]]) -> Scores:
    def scores(texts: Sequence[str], by: Scorer) -> list[list[float]]:
        found = [next(value for word, value in rewards.items() if word in text) for text in texts]
        return [value if isinstance(value, list) else [value] for value in found]

    return scores


def _judged(answers: Sequence[Scripted], verdicts: dict[str, Scripted]) -> Callable[[Generation, int], Scripted]:
    """The judge's verdict on the answer that has the word."""

    def script(generation: Generation, index: int) -> Scripted:
        if generation.prompt is None:
            return answers[index]
        return next(verdict for word, verdict in verdicts.items() if word in generation.prompt)

    return script


async def _run(sampler: ScriptedSampler, n: int, **params: object) -> Outcome:
    return await BestOfN(Params.model_validate({"n": n, **params})).run(sampler)


TEXTS = [writes("poor", 10), writes("good", 20), writes("fair", 30)]
REWARDS = {"poor": 0.1, "good": 0.9, "fair": 0.5}


@pytest.mark.parametrize("scorer", ["reward", "reranker"])
async def test_the_best_score_answers_free_text(scorer: str) -> None:
    sampler = ScriptedSampler(TEXTS, scores=_by_word({**REWARDS}))
    assert await _run(sampler, 3, scorer=scorer) == Outcome((1, 2, 0))
    assert {by for by, _ in sampler.scored} == {scorer}
    assert (sampler.decided_at_s, sampler.cancelled) == (30, {})


async def test_one_of_each_distinct_answer_is_listed_first() -> None:
    script = [finishes("7", 10), finishes("7", 20), finishes("8", 30)]
    scores: Scores = lambda texts, by: [[{10: 0.8, 20: 0.9, 30: 0.1}[10 * len(sampler.scored)]]]  # noqa: E731
    sampler = ScriptedSampler(script, scores=scores)
    assert await _run(sampler, 3) == Outcome((1, 2, 0), answer="7")


async def test_equal_scores_go_to_the_more_frequent_answer_then_to_the_shorter() -> None:
    script = [finishes("7", 10), finishes("8", 30), finishes("8", 20)]
    outcome = await _run(ScriptedSampler(script, scores=lambda texts, by: [[0.5]]), 3)
    assert (outcome.ranking, outcome.answer) == ((2, 0, 1), "8")


@pytest.mark.parametrize(("aggregate", "winner"), [("last", 0), ("min", 1), ("product", 2)])
async def test_step_rewards_are_aggregated(aggregate: str, winner: int) -> None:
    steps: dict[str, float | list[float]] = {"poor": [0.1, 1.0], "good": [0.6, 0.6, 0.6], "fair": [0.5, 0.9]}
    sampler = ScriptedSampler(TEXTS, scores=_by_word(steps))
    assert (await _run(sampler, 3, scorer="process-reward", aggregate=aggregate)).ranking[0] == winner


async def test_self_certainty_needs_no_other_model() -> None:
    script = [writes("a", 2, confidence=(3, 5)), writes("b", 3, confidence=(9, 1, 8)), writes("c", 4, confidence=(2,))]
    sampler = ScriptedSampler(script)
    assert (await _run(sampler, 3, scorer="self-certainty")).ranking == (1, 0, 2)
    assert all(generation.confidence for generation in sampler.asked)


async def test_a_branch_cut_off_without_an_answer_ranks_last_whatever_its_score() -> None:
    script = [writes("poor", 10), writes("good good good", 30, finish_reason="length")]
    assert (await _run(ScriptedSampler(script, scores=_by_word({**REWARDS})), 2)).ranking == (0, 1)


async def test_the_judge_grades_each_answer_from_its_arrival_on() -> None:
    texts = [*TEXTS[:2], writes("<think>good? no, so</think>fair", 30)]
    verdicts = {"good": writes("Score: 9", 5), "fair": writes("Score: 4", 5), "poor": writes("Score: 1", 5)}
    sampler = ScriptedSampler(_judged(texts, verdicts), question="Which?")
    assert await _run(sampler, 3, scorer="judge", judge_tokens=99) == Outcome((1, 2, 0))
    assert sampler.now_s == 35  # only the last verdict is waited for
    asked = sampler.asked[-1]
    assert (asked.model, asked.temperature, asked.max_tokens, asked.final) == ("judge", 0.0, 99, False)
    assert asked.prompt is not None and "Which?" in asked.prompt and "think" not in asked.prompt


async def test_an_unreadable_or_failed_verdict_leaves_its_answer_behind_those_judged() -> None:
    verdicts = {"poor": writes("Score: 1", 5), "good": writes("Well.", 5), "fair": writes("Score: 2", 5)}
    outcome = await _run(ScriptedSampler(_judged(TEXTS, verdicts)), 3, scorer="judge")
    assert outcome == Outcome((2, 0, 1), note="1 of 3 answers had no score by judge")
    verdicts["fair"] = fails(3)
    outcome = await _run(ScriptedSampler(_judged(TEXTS, verdicts)), 3, scorer="judge")
    assert outcome.note is not None and outcome.note.startswith("no choice by judge (only 1 of 3 answers were scored)")


async def test_where_the_judge_fails_the_vote_decides_and_says_so() -> None:
    answers = [finishes("7", 10), finishes("8", 20), finishes("8", 30)]
    sampler = ScriptedSampler(_judged(answers, {"boxed": fails(3)}))
    outcome = await _run(sampler, 3, scorer="judge")
    assert outcome == Outcome((1, 0, 2), 2 / 3, "8", 3, "no choice by judge (it failed); the plain vote decided")


async def test_a_deadline_while_it_judges_leaves_the_vote_and_nothing_running() -> None:
    answers = [finishes("7", 10), finishes("8", 20), finishes("8", 30)]
    sampler = ScriptedSampler(_judged(answers, {"boxed": writes("Score: 9", 40)}), deadline_s=45)
    assert (await _run(sampler, 3, scorer="judge")).answer == "8"
    assert sampler.now_s == 45
    assert set(sampler.cancelled.values()) == {45}
    assert sampler.spent.keys() == set(range(6))


@pytest.mark.parametrize("deadline_s", [25, 5])
async def test_the_deadline_cuts_branches_and_what_is_scored_counts(deadline_s: float) -> None:
    sampler = ScriptedSampler(TEXTS, scores=_by_word({**REWARDS}), deadline_s=deadline_s)
    assert (await _run(sampler, 3)).ranking == ((1, 0) if deadline_s == 25 else ())
    assert set(sampler.cancelled.values()) == {deadline_s}


async def test_a_deadline_during_a_score_still_counts_those_before_it() -> None:
    sampler = ScriptedSampler(TEXTS, scores=_by_word({**REWARDS}), score_s=4, deadline_s=32)
    outcome = await _run(sampler, 3)
    assert outcome == Outcome((1, 0, 2), note="1 of 3 answers had no score by reward")
    assert sampler.now_s == 32


async def test_without_scores_the_vote_or_the_first_answers_and_the_note_says_so() -> None:
    outcome = await _run(ScriptedSampler([finishes("7", 10), finishes("8", 20), finishes("8", 30)]), 3)
    note = "no choice by reward (there is no scorer); the plain vote decided"
    assert (outcome.answer, outcome.note) == ("8", note)
    outcome = await _run(ScriptedSampler(TEXTS), 3)
    assert outcome.ranking == (0, 1, 2)
    assert outcome.note is not None and outcome.note.endswith("the first one answers")


async def test_a_scorer_that_failed_is_not_asked_again() -> None:
    asked = list[Scorer]()

    def breaks(texts: Sequence[str], by: Scorer) -> list[list[float]]:
        asked.append(by)
        raise NoScore("it crashed")

    await _run(ScriptedSampler(TEXTS, scores=breaks), 3)
    assert asked == ["reward"]


async def test_failing_branches_are_left_out() -> None:
    sampler = ScriptedSampler([fails(5), *TEXTS], scores=_by_word({**REWARDS}))
    assert await _run(sampler, 4) == Outcome((2, 3, 1))
    assert await _run(ScriptedSampler([fails(5), fails(6)]), 2) == Outcome(())


async def test_a_lone_answer_is_not_scored() -> None:
    sampler = ScriptedSampler([writes("poor", 10)], scores=_by_word({**REWARDS}))
    assert await _run(sampler, 1) == Outcome((0,))
    assert sampler.scored == []


@pytest.mark.parametrize(
    ("scorer", "need"),
    [
        ("reward", Need.REWARD),
        ("process-reward", Need.PROCESS_REWARD),
        ("reranker", Need.RERANKER),
        ("judge", Need.JUDGE),
        ("self-certainty", Need.LOGPROBS),
    ],
)
def test_what_it_requires_depends_on_the_scorer(scorer: str, need: Need) -> None:
    strategy = BestOfN(Params.model_validate({"scorer": scorer}))
    assert strategy.required() == {Need.SAMPLING, need}
    assert strategy.shape().waves == (2 if scorer == "judge" else 1)


def test_its_shape_is_no_plain_vote_and_its_grid_is_cheapest_first() -> None:
    shape = BestOfN(Params(n=5)).shape()
    assert (shape.branches, shape.stop, shape.votes) == (5, All(), False)
    branches = [BestOfN(Params.model_validate(p.model_dump())).shape().branches for p in BestOfN.grid()]
    assert branches == sorted(branches)


@pytest.mark.parametrize("wrong", [{"n": 0}, {"n": 257}, {"scorer": "auto"}, {"judge_tokens": 0}, {"beams": 2}])
def test_parameters_are_bounded(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Params.model_validate(wrong)


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("Score: 7", 7.0),
        ("It errs in step 2.\n**Score:** 3", 3.0),
        ("Score (0-10): 8", 8.0),
        ("Score: [8]", 8.0),
        ("The score is 8.5/10.", 8.5),
        ("I would give it 6 out of 10", 6.0),
        ("Score: 2 at first sight, but on reflection\nScore: 9", 9.0),
        ("<think>Score: 1</think>Score: 10", 10.0),
        (r"\boxed{4}", 4.0),
        ("9", 9.0),
        ("Right.\n**9**", 9.0),
        ("Score: 11", None),
        ("Score: -3", None),
        ("Scores range from 0 to 10.", None),
        ("It has 3 errors", None),
        ("<think>Score: 5", None),
        ("", None),
    ],
)
def test_a_verdict_is_read_robustly(reply: str, score: float | None) -> None:
    assert read_score(reply) == score


def test_an_answer_cut_off_while_thinking_is_not_judged() -> None:
    assert judging("Q?", "<think>so far", 10) is None


def test_the_judge_is_shown_the_end_of_a_long_answer() -> None:
    asked = judging("Q {x}?", "x" * 20_000 + " so it is {7}", 10)
    assert asked is not None and asked.prompt is not None
    assert "Q {x}?" in asked.prompt and "so it is {7}" in asked.prompt and len(asked.prompt) < 10_000
