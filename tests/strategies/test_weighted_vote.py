"""The weighted vote, as worked examples: branches tick one token a second."""

from collections.abc import Sequence

import pytest
from pydantic import ValidationError

from strategies.base import Need, NoScore, Outcome, Scorer
from strategies.stopping import All
from strategies.testing import Scripted, ScriptedSampler, fails, finishes, writes
from strategies.weighted_vote import Params, WeightedVote


def _sure(answer: str, tokens: int, *confidence: float) -> Scripted:
    return writes(rf"\boxed{{{answer}}}", tokens, confidence=confidence)


def _rewards(**rewards: float | list[float]):  # type: ignore[no-untyped-def]
    """By the letter that the answer is."""

    def scores(texts: Sequence[str], by: Scorer) -> list[list[float]]:
        found = [rewards[text[text.index("{") + 1]] for text in texts]
        return [value if isinstance(value, list) else [value] for value in found]

    return scores


async def _run(sampler: ScriptedSampler, **params: object) -> Outcome:
    n = len(sampler._script)  # type: ignore[arg-type]
    return await WeightedVote(Params.model_validate({"n": n, **params})).run(sampler)


async def test_two_sure_branches_outweigh_three_unsure_ones() -> None:
    script = [_sure("a", 10, 2.0), _sure("a", 20, 2.0), _sure("a", 30, 2.0), _sure("b", 40, 9.0), _sure("b", 50, 9.0)]
    outcome = await _run(ScriptedSampler(script), floor=0.5)
    assert (outcome.answer, outcome.votes) == ("b", 5)
    assert outcome.agreement == pytest.approx(2.0 / 3.5)
    assert outcome.ranking == (3, 0, 1, 2, 4)


async def test_equal_confidence_is_the_plain_vote() -> None:
    script = [_sure("a", 10, 5.0), _sure("b", 20, 5.0), _sure("b", 30, 5.0)]
    outcome = await _run(ScriptedSampler(script))
    assert (outcome.answer, outcome.agreement) == ("b", pytest.approx(2 / 3))


@pytest.mark.parametrize(("part", "answer"), [("mean", "a"), ("tail", "b"), ("lowest", "c")])
async def test_the_part_says_which_confidence_counts(part: str, answer: str) -> None:
    script = [
        _sure("a", 10, 9, 9, 9, 9, 9, 9, 1, 1),  # mean 7
        _sure("b", 20, 1, 1, 1, 1, 1, 1, 9, 9),  # mean 3
        _sure("c", 30, 4, 4, 4, 4, 4, 4, 4, 4),
    ]
    assert (await _run(ScriptedSampler(script), part=part, window=2)).answer == answer


async def test_confidence_waits_for_all_and_asks_for_it_per_token() -> None:
    sampler = ScriptedSampler([_sure("a", 10 * i, 5.0) for i in range(1, 9)])
    assert (await _run(sampler)).votes == 8
    assert (sampler.decided_at_s, sampler.cancelled) == (80, {})
    assert all(generation.confidence for generation in sampler.asked)


async def test_without_log_probabilities_the_plain_vote_decides_and_says_so() -> None:
    outcome = await _run(ScriptedSampler([finishes("7", 10), finishes("8", 20), finishes("8", 30)]))
    assert (outcome.answer, outcome.note) == ("8", "no log probabilities came; the plain vote decided")


async def test_rewards_outweigh_numbers() -> None:
    script = [finishes("a", 10), finishes("a", 20), finishes("b", 30)]
    sampler = ScriptedSampler(script, scores=_rewards(a=0.2, b=0.9))
    outcome = await _run(sampler, weight="reward")
    assert (outcome.answer, outcome.ranking, outcome.note) == ("b", (2, 0, 1), None)
    assert outcome.agreement == pytest.approx(0.9 / 1.3)


async def test_a_lead_in_weight_that_cannot_be_overturned_cancels_the_rest() -> None:
    script = [finishes("a", 10 * i) for i in range(1, 6)]
    sampler = ScriptedSampler(script, scores=_rewards(a=0.9))
    assert (await _run(sampler, weight="reward")).votes == 3  # 2.7 of weight against two that are out
    assert sampler.cancelled == {3: 30, 4: 30}
    assert sum(sampler.spent.values()) == 10 + 20 + 30 + 2 * 30


async def test_a_smaller_lead_is_not_enough_nor_any_with_stop_all() -> None:
    script = [finishes("a", 10 * i) for i in range(1, 6)]
    sampler = ScriptedSampler(script, scores=_rewards(a=0.2))
    assert (await _run(sampler, weight="reward")).votes == 5
    sampler = ScriptedSampler(script, scores=_rewards(a=0.9))
    assert (await _run(sampler, weight="reward", stop="all")).votes == 5
    assert sampler.cancelled == {}


async def test_scoring_hides_behind_the_stragglers() -> None:
    sampler = ScriptedSampler([finishes("a", 10), finishes("b", 50)], scores=_rewards(a=0.5, b=0.4), score_s=5)
    assert (await _run(sampler, weight="reward")).answer == "a"
    assert sampler.now_s == 55  # not 60: the first was scored while the second ran


@pytest.mark.parametrize(("aggregate", "answer"), [("last", "a"), ("min", "b"), ("product", "c")])
async def test_step_rewards_are_aggregated(aggregate: str, answer: str) -> None:
    scores = _rewards(a=[0.1, 1.0], b=[0.6, 0.6, 0.6], c=[0.5, 0.9])
    script = [finishes("a", 10), finishes("b", 20), finishes("c", 30)]
    sampler = ScriptedSampler(script, scores=scores)
    assert (await _run(sampler, weight="process-reward", aggregate=aggregate)).answer == answer
    assert {by for by, _ in sampler.scored} == {"process-reward"}


async def test_a_failing_branch_and_one_without_an_answer_only_weaken_the_vote() -> None:
    script = [fails(5), finishes("a", 10), finishes(None, 15), finishes("b", 20)]
    sampler = ScriptedSampler(script, scores=_rewards(a=0.2, b=0.9))
    outcome = await _run(sampler, weight="reward")
    assert (outcome.answer, outcome.ranking, outcome.votes) == ("b", (3, 1, 2), 2)
    assert len(sampler.scored) == 2  # one that does not vote is not asked about


async def test_where_all_fail_nothing_is_ranked() -> None:
    assert await _run(ScriptedSampler([fails(5), fails(15)])) == Outcome(())
    assert await _run(ScriptedSampler([fails(5), fails(15)]), weight="reward") == Outcome(())


async def test_without_rewards_the_plain_vote_decides_and_says_so() -> None:
    asked = 0

    def breaks(texts: Sequence[str], by: Scorer) -> list[list[float]]:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise NoScore("it crashed")
        return [[0.9] for _ in texts]

    sampler = ScriptedSampler([finishes("a", 10), finishes("b", 20), finishes("b", 30)], scores=breaks)
    outcome = await _run(sampler, weight="reward")
    assert outcome == Outcome((1, 0, 2), 2 / 3, "b", 3, "no rewards (it crashed); the plain vote decided")
    assert asked == 2  # a scorer that failed is not asked again


async def test_a_deadline_while_it_scores_leaves_the_plain_vote() -> None:
    script = [finishes("a", 10), finishes("b", 20), finishes("b", 21), finishes("a", 99)]
    sampler = ScriptedSampler(script, scores=_rewards(a=0.9, b=0.1), score_s=8, deadline_s=30)
    outcome = await _run(sampler, weight="reward")
    assert (outcome.answer, outcome.note) == ("b", "no rewards (the deadline came first); the plain vote decided")
    assert (sampler.now_s, sampler.cancelled) == (30, {3: 30})


async def test_at_the_deadline_the_rewards_so_far_decide() -> None:
    script = [finishes("a", 10), finishes("a", 20), finishes("b", 30), finishes("a", 99)]
    sampler = ScriptedSampler(script, scores=_rewards(a=0.1, b=0.9), deadline_s=50)
    assert (await _run(sampler, weight="reward")).answer == "b"
    assert sampler.cancelled == {3: 50}


async def test_rewards_that_are_all_0_leave_the_plain_vote() -> None:
    script = [finishes("a", 10), finishes("b", 20), finishes("b", 30)]
    outcome = await _run(ScriptedSampler(script, scores=_rewards(a=0.0, b=0.0)), weight="reward")
    assert (outcome.answer, outcome.note) == ("b", "all rewards are 0; the plain vote decided")


async def test_where_no_branch_answers_it_falls_back_as_every_vote_does() -> None:
    sampler = ScriptedSampler([finishes(None, 10)] * 3, scores=lambda texts, by: [[0.1], [0.2], [0.9]])
    outcome = await _run(sampler)
    assert (outcome.ranking, outcome.note) == ((2, 1, 0), "no branch gave an answer: the reward chose")


@pytest.mark.parametrize(
    ("weight", "need"),
    [("confidence", Need.LOGPROBS), ("reward", Need.REWARD), ("process-reward", Need.PROCESS_REWARD)],
)
def test_what_it_requires_depends_on_the_weight(weight: str, need: Need) -> None:
    strategy = WeightedVote(Params.model_validate({"weight": weight}))
    assert strategy.required() == {Need.ANSWERS, Need.SAMPLING, need}


def test_its_shape_is_no_plain_vote_and_its_grid_is_cheapest_first() -> None:
    shape = WeightedVote(Params(n=5)).shape()
    assert (shape.branches, shape.stop, shape.votes) == (5, All(), False)
    branches = [WeightedVote(Params.model_validate(p.model_dump())).shape().branches for p in WeightedVote.grid()]
    assert branches == sorted(branches)


@pytest.mark.parametrize("wrong", [{"n": 0}, {"weight": "luck"}, {"floor": 0.0}, {"window": 0}, {"beams": 2}])
def test_parameters_are_bounded(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Params.model_validate(wrong)
