"""Prediction and execution stay honest: a replay decides, runs and spends as the strategy does on the same samples."""

import asyncio
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.replay import replay
from profiler.votes import Sample
from strategies.base import Shape, Strategy
from strategies.first_finish import FirstFinish
from strategies.first_finish import Params as FirstFinishParams
from strategies.self_consistency import Params as SelfConsistencyParams
from strategies.self_consistency import SelfConsistency
from strategies.single import Params as SingleParams
from strategies.single import Single
from strategies.stopping import All, FirstArrivals
from strategies.testing import ScriptedSampler, finishes

RIGHT = "7"


def _samples(*drawn: tuple[str | None, int]) -> list[Sample]:
    return [Sample(answer, tokens, answer == RIGHT) for answer, tokens in drawn]


# `correct` is drawn too, so that it tells which sample of a class was taken for the answer.
SAMPLES = st.lists(
    st.builds(Sample, st.sampled_from([None, "7", "8", "9"]), st.integers(1, 30), st.booleans()), min_size=6, max_size=6
)
STRATEGIES = st.one_of(
    st.just(Single(SingleParams())),
    st.builds(
        SelfConsistencyParams,
        n=st.integers(1, 6),
        stop=st.sampled_from(["beta", "all", "esc"]),
        confidence=st.sampled_from([0.7, 0.95]),
        window=st.integers(2, 3),
    ).map(SelfConsistency),
    st.tuples(st.integers(1, 6), st.integers(1, 6)).map(
        lambda pair: FirstFinish(FirstFinishParams(n=max(pair), m=min(pair)))
    ),
)


@given(SAMPLES, STRATEGIES, st.integers(0, 2**32))
def test_a_replay_is_what_the_running_strategy_would_have_done(
    samples: list[Sample], strategy: Strategy[Any], seed: int
) -> None:
    shape = strategy.shape()
    replays = replay([samples], shape, per_question=3, seed=seed)
    rng = np.random.default_rng(seed)
    for row in range(3):
        drawn = [samples[i] for i in rng.permutation(len(samples))[: shape.branches]]
        sampler = ScriptedSampler([finishes(sample.answer, sample.tokens) for sample in drawn])
        outcome = asyncio.run(strategy.run(sampler))
        assert replays.correct[row] == drawn[outcome.ranking[0]].correct
        waves = [replays.lengths[row], *(wave[row] for wave in replays.later)]
        assert sum(wave[-1] for wave in waves) == sampler.decided_at_s
        ran = sorted(tokens for wave in waves for tokens in wave.tolist() if tokens)
        assert ran == sorted(sampler.spent.values())


@given(SAMPLES, st.integers(1, 6), st.integers(0, 2**32))
def test_a_replay_agrees_with_a_step_by_step_simulation(samples: list[Sample], n: int, seed: int) -> None:
    replays = replay([samples], Shape(n, FirstArrivals((n + 1) // 2)), per_question=1, seed=seed)
    drawn = [samples[i] for i in np.random.default_rng(seed).permutation(len(samples))[:n]]
    step = 0
    lengths = dict.fromkeys(range(n), 0)
    arrived: list[Sample] = []
    while len(arrived) < (n + 1) // 2:
        for index, sample in enumerate(drawn):
            lengths[index] += sample.tokens > step
        step += 1
        arrived += [sample for sample in drawn if sample.tokens == step]
    assert replays.lengths[0].tolist() == sorted(lengths.values())


def test_work_is_counted_by_hand() -> None:
    replays = replay([_samples(("7", 2), ("7", 4), ("8", 10))], Shape(3, FirstArrivals(2)), per_question=1)
    assert replays.lengths[0].tolist() == [2, 4, 4]
    assert replays.correct[0]


def test_questions_keep_their_own_samples_and_draws_are_without_replacement() -> None:
    pool = [_samples(("7", 1), ("7", 2), ("8", 3)), _samples(("8", 10), ("8", 20), ("8", 30))]
    replays = replay(pool, Shape(3, All()), per_question=4)
    assert Counter(replays.question.tolist()) == {0: 4, 1: 4}
    assert replays.lengths.sum(axis=1).tolist() == [6] * 4 + [60] * 4
    assert replays.correct.tolist() == [True] * 4 + [False] * 4


def test_one_seed_gives_the_same_draws() -> None:
    pool = [_samples(*(("7", tokens) for tokens in range(1, 30)))]
    first, again, other = (replay(pool, Shape(1, All()), 20, seed).lengths.tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_where_all_abstain_the_first_arrival_is_what_counts() -> None:
    samples = [Sample(None, 30, False), Sample(None, 10, True)]
    assert replay([samples], Shape(2, All()), 1).correct[0]


def test_too_few_samples_is_an_error_that_says_so() -> None:
    with pytest.raises(ValueError, match="question 1 has 1 samples; the shape needs 2"):
        replay([_samples(("7", 1), ("7", 2)), _samples(("7", 1))], Shape(2, All()), 1)
