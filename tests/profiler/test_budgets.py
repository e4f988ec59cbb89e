"""Accuracy within a token budget, from samples that are cut at it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.budgets import accuracy_within, budget_curve, budget_grid, find
from profiler.prior import prior_pool
from profiler.quality_file import StoredQuestion, StoredSample, curve
from profiler.quality_sections import BudgetCurve
from strategies.base import Shape
from strategies.stopping import All, BetaLead, FirstArrivals

POOL = prior_pool()
GRID = budget_grid(POOL)


@pytest.mark.parametrize("shape", [Shape(1, All()), Shape(8, BetaLead()), Shape(8, FirstArrivals(3))])
def test_without_a_cut_it_is_the_curve_itself(shape: Shape) -> None:
    whole = curve("s", {}, shape, POOL, greedy=False)
    within = budget_curve("s", {}, shape, POOL, GRID, greedy=False)
    assert within.tokens == GRID and GRID[-1] == max(s.tokens for q in POOL for s in q.samples)
    assert (within.accuracy[-1], within.accuracy_lower[-1]) == (whole.accuracy, whole.accuracy_lower)


def test_a_cut_single_answer_is_wrong_and_a_cut_branch_only_abstains() -> None:
    """Half the samples are short: alone half are lost, of eight votes there are always enough left."""
    samples = [StoredSample("7", 10 if number % 2 else 1000, "stop", True) for number in range(24)]
    pool = [StoredQuestion("q", "7", "all", 5, samples[1], samples)]
    single = budget_curve("none", {}, Shape(1, All()), pool, [10, 1000], greedy=False)
    voted = budget_curve("vote", {}, Shape(8, All()), pool, [10, 1000], greedy=False)
    assert single.accuracy[0] == pytest.approx(0.5, abs=0.2)
    assert voted.accuracy == [1.0, 1.0]
    assert single.accuracy[-1] == 1.0


CURVE = BudgetCurve("s", {"n": 4}, False, [100, 200, 400], [0.2, 0.6, 0.5], [0.1, 0.5, 0.45])


@pytest.mark.parametrize(
    ("max_tokens", "expected"),
    [
        (None, (0.5, 0.45)),
        (400, (0.5, 0.45)),
        (5000, (0.5, 0.45)),
        (200, (0.6, 0.45)),
        (150, (0.4, 0.1)),
        (100, (0.2, 0.1)),
        (50, (0.1, 0.0)),
        (0, (0.0, 0.0)),
    ],
)
def test_between_budgets_accuracy_is_interpolated_and_the_bound_is_the_worse(
    max_tokens: int | None, expected: tuple[float, float]
) -> None:
    assert accuracy_within(CURVE, max_tokens) == pytest.approx(expected)


@given(st.integers(0, 600))
def test_the_bound_is_never_above_the_accuracy(max_tokens: int) -> None:
    accuracy, lower = accuracy_within(CURVE, max_tokens)
    assert 0 <= lower <= accuracy <= 0.6


def test_more_tokens_never_hurt_a_single_answer() -> None:
    single = budget_curve("none", {}, Shape(1, All()), POOL, GRID, greedy=False)
    assert single.accuracy == sorted(single.accuracy)
    assert np.all(np.array(single.accuracy_lower) <= single.accuracy)


def test_a_setting_finds_its_own_curve() -> None:
    assert find([CURVE], "s", {"n": 4}, greedy=False) is CURVE
    assert find([CURVE], "s", {"n": 4}, greedy=True) is None
    assert find([], "s", {"n": 4}, greedy=False) is None
