"""Votes over many draws at once: the strategies' own agreement. What they answer and take: `test_replay.py`."""

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.votes import Sample, draw, vote
from strategies.base import Shape, Strategy
from strategies.first_finish import FirstFinish
from strategies.first_finish import Params as FirstFinishParams
from strategies.self_consistency import Params as SelfConsistencyParams
from strategies.self_consistency import SelfConsistency
from strategies.stopping import All
from strategies.testing import ScriptedSampler, finishes

SAMPLE = st.builds(Sample, st.sampled_from([None, "7", "8", "9"]), st.integers(1, 12), st.booleans())
VOTING = st.one_of(
    st.builds(
        SelfConsistencyParams,
        n=st.integers(1, 8),
        stop=st.sampled_from(["beta", "all", "esc"]),
        confidence=st.sampled_from([0.7, 0.95]),
        window=st.sampled_from([None, 2, 3, 5]),
    ).map(SelfConsistency),
    st.tuples(st.integers(1, 8), st.integers(1, 8)).map(
        lambda pair: FirstFinish(FirstFinishParams(n=max(pair), m=min(pair)))
    ),
)


@given(st.lists(SAMPLE, min_size=8, max_size=8), VOTING)
def test_agreement_is_the_running_strategys_own(samples: list[Sample], strategy: Strategy[Any]) -> None:
    shape = strategy.shape()
    drawn = draw([samples], shape.branches, 1, seed=1)
    order = [samples[i] for i in np.random.default_rng(1).permutation(len(samples))[: shape.branches]]
    sampler = ScriptedSampler([finishes(sample.answer, sample.tokens) for sample in order])

    outcome = asyncio.run(strategy.run(sampler))

    found = vote(drawn, shape)
    assert found.votes[0] == outcome.votes
    assert found.agreement[0] == pytest.approx(outcome.agreement or 0.0)


def test_what_is_cut_abstains_and_the_others_decide() -> None:
    samples = [Sample("7", 30, True), Sample("8", 10, False), Sample("7", 40, True)]
    drawn = draw([samples], 3, 1)
    assert vote(drawn, Shape(3, All())).correct.tolist() == [True]
    cut = vote(drawn.cut(20), Shape(3, All()))
    assert (cut.correct.tolist(), cut.votes.tolist(), cut.agreement.tolist()) == ([False], [1], [1.0])
    none = vote(drawn.cut(5), Shape(3, All()))
    assert (none.correct.tolist(), none.votes.tolist(), none.agreement.tolist()) == ([False], [0], [0.0])


def test_many_branches_with_many_classes_are_told_apart() -> None:
    """More than fit one machine word: 60 classes, of which one has two votes."""
    samples = [Sample(str(min(i, 59)), i + 1, i >= 59) for i in range(61)]
    assert vote(draw([samples], 61, 2), Shape(61, All())).correct.tolist() == [True, True]


@given(st.lists(SAMPLE, min_size=8, max_size=8), SAMPLE, st.integers(1, 6), st.sampled_from([None, 2, 3]))
def test_a_vote_that_begins_greedily_is_the_running_strategys_own(
    samples: list[Sample], greedy: Sample, n: int, window: int | None
) -> None:
    """The greedy answer is always the first branch, the others are drawn."""
    strategy = SelfConsistency(SelfConsistencyParams(n=n, window=window, confidence=0.8, greedy=True))
    drawn = draw([samples], n, 1, 1, [greedy])
    order = [greedy, *(samples[i] for i in np.random.default_rng(1).permutation(len(samples))[: n - 1])]
    outcome = asyncio.run(strategy.run(ScriptedSampler([finishes(s.answer, s.tokens) for s in order])))
    found = vote(drawn, strategy.shape())
    assert found.votes[0] == outcome.votes
    assert found.correct[0] == order[outcome.ranking[0]].correct
