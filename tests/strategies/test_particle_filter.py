"""Particle filtering: weights, resampling, and that a seed fixes both."""

from collections import Counter
from math import log
from random import Random

import pytest
from arithmetic_steps import Adder, process_reward, scores_by
from hypothesis import given
from hypothesis import strategies as st

from strategies.base import Generation, Outcome
from strategies.particle_filter import Params, ParticleFilter, logit, softmax, systematic
from strategies.testing import Scripted, ScriptedSampler, writes


def test_a_weight_is_the_rewards_logit() -> None:
    assert logit(0.5) == 0
    assert logit(0.9) == pytest.approx(log(9))
    assert logit(0.0) == pytest.approx(-logit(1.0))  # both finite
    assert softmax([logit(0.9), logit(0.5), logit(0.5)]) == pytest.approx([9 / 11, 1 / 11, 1 / 11])


@pytest.mark.parametrize(
    ("offset", "drawn"),
    [
        (0.0, [0, 0, 1, 2]),  # points 0, .25, .5, .75
        (0.9, [0, 0, 1, 2]),  # .225, .475, .725, .975
        (0.5, [0, 0, 1, 2]),  # .125, .375, .625, .875
    ],
)
def test_whole_shares_are_drawn_exactly(offset: float, drawn: list[int]) -> None:
    assert systematic([0.5, 0.25, 0.25], 4, offset) == drawn


def test_fractions_are_drawn_by_the_offset() -> None:
    assert systematic([0.6, 0.1, 0.3], 4, 0.2) == [0, 0, 0, 2]  # points .05, .3, .55, .8
    assert systematic([0.6, 0.1, 0.3], 4, 0.6) == [0, 0, 1, 2]  # .15, .4, .65, .9


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(1, 64), st.floats(0, 1, exclude_max=True))
def test_each_share_comes_as_often_as_it_is_large(rewards: list[float], count: int, offset: float) -> None:
    shares = softmax([logit(reward) for reward in rewards])
    drawn = Counter(systematic(shares, count, offset))
    assert drawn.total() == count
    for at, share in enumerate(shares):
        assert abs(drawn[at] - count * share) < 1 + 1e-6


async def test_the_next_wave_continues_what_the_seeded_resampling_drew() -> None:
    rewards = {"a": 0.9, "b": 0.5, "c": 0.1, "d": 0.5}  # odds 9, 1, 1/9, 1

    def model(generation: Generation, index: int) -> Scripted:
        return writes("abcdefghijklmnop"[index] + ("" if generation.continues else "\n"), 1)

    sampler = ScriptedSampler(model, scores=scores_by(lambda text: rewards[text[0]]))
    await ParticleFilter(Params(n=4, seed=3)).run(sampler)
    offset = Random(3).random()  # 0.238: points .059, .309, .559, .809 of the ends .81, .90, .91, 1
    assert systematic([9 / 11.111, 1 / 11.111, 0.111 / 11.111, 1 / 11.111], 4, offset) == [0, 0, 0, 0]
    assert [generation.continues for generation in sampler.asked[4:]] == ["a\n"] * 4


async def _run(**params: object) -> tuple[Outcome, list[str]]:
    sampler = ScriptedSampler(Adder(wrong=0.6), scores=process_reward)
    outcome = await ParticleFilter(Params.model_validate({"n": 8, **params})).run(sampler)
    return outcome, [generation.continues for generation in sampler.asked]


async def test_a_seed_fixes_the_search_and_runs_share_no_state() -> None:
    strategy = ParticleFilter(Params(n=8, seed=5))
    samplers = [ScriptedSampler(Adder(wrong=0.6), scores=process_reward) for _ in range(2)]
    first, second = [await strategy.run(sampler) for sampler in samplers]
    assert first == second
    assert samplers[0].asked == samplers[1].asked
    assert len({tuple((await _run(seed=seed))[1]) for seed in range(8)}) > 1


async def test_finished_particles_are_resampled_with_the_others_and_not_continued() -> None:
    """One of four finishes with odds of 9 beside three of 1: it takes three of the four places."""

    def model(generation: Generation, index: int) -> Scripted:
        last = generation.continues.count("\n") == 1
        return writes("\\boxed{7}" if index == 0 else f"{index}" + ("" if last else "\n"), 1)

    sampler = ScriptedSampler(model, scores=scores_by(lambda text: 0.9 if "7" in text else 0.5))
    outcome = await ParticleFilter(Params(n=4, seed=0)).run(sampler)
    assert Random(0).random() == pytest.approx(0.844, abs=0.001)  # points .211, .461, .711, .961; it ends at .75
    assert [generation.continues for generation in sampler.asked[4:]] == ["3\n"]
    assert outcome.ranking[0] == 0


async def test_the_best_reward_answers_unless_a_vote_is_asked_for() -> None:
    texts = ["\\boxed{7}", "\\boxed{8}", "\\boxed{8} ", "\\boxed{9}"]
    rewards = dict(zip(texts, (0.9, 0.6, 0.5, 0.1), strict=True))

    def sampler() -> ScriptedSampler:
        return ScriptedSampler([writes(text, 5) for text in texts], scores=scores_by(rewards.__getitem__))

    assert (await ParticleFilter(Params(n=4)).run(sampler())).answer == "7"
    assert (await ParticleFilter(Params(n=4, pick="weighted-vote")).run(sampler())).answer == "8"
