"""The e-values have mean 1 over every way in which the fresh samples could have been chosen: checked by trying all."""

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.exchangeability import Wealth, log_e_of_lengths, log_e_of_right, log_e_of_share

Pooled = Sequence[int]


def _mean_e(log_e: Callable[[Pooled, Pooled], np.ndarray], pooled: Pooled, fresh: int) -> np.ndarray:
    """Over all choices of the fresh ones, per bet."""
    values = []
    for chosen in combinations(range(len(pooled)), fresh):
        rest = [value for at, value in enumerate(pooled) if at not in chosen]
        values.append(np.exp(log_e(rest, [pooled[at] for at in chosen])))
    return np.mean(values, axis=0)


@given(st.lists(st.integers(1, 9), min_size=2, max_size=8), st.data())
def test_no_bet_on_lengths_gains_on_average_ties_included(pooled: list[int], data: st.DataObject) -> None:
    fresh = data.draw(st.integers(1, len(pooled) - 1))
    assert _mean_e(log_e_of_lengths, pooled, fresh) == pytest.approx(1.0)


@given(st.lists(st.booleans(), min_size=2, max_size=8), st.data())
def test_no_bet_on_being_right_gains_on_average(pooled: list[bool], data: st.DataObject) -> None:
    fresh = data.draw(st.integers(1, len(pooled) - 1))
    assert _mean_e(log_e_of_right, pooled, fresh) == pytest.approx(1.0)


def test_many_samples_do_not_overflow() -> None:
    lengths = list(range(512))
    assert np.isfinite(log_e_of_lengths(lengths[:256], lengths[256:])).all()
    assert np.isfinite(log_e_of_right([True] * 256, [False] * 256)).all()


def test_a_question_that_is_always_right_tells_nothing_of_accuracy() -> None:
    assert log_e_of_right([True] * 32, [True] * 4) == pytest.approx(0.0)


def test_the_bet_on_what_happened_wins_and_its_opposite_loses() -> None:
    wealth = Wealth()
    for _ in range(5):
        wealth.win(log_e_of_lengths([10, 11, 12, 13] * 4, [14, 14, 15, 16]))
    assert wealth.log > np.log(1000)
    assert wealth.logs.min() < 0


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2])
def test_no_bet_on_a_share_gains_on_average_up_to_the_most_that_is_allowed(share: float) -> None:
    mean = share * np.exp(log_e_of_share(True, 0.2)) + (1 - share) * np.exp(log_e_of_share(False, 0.2))
    assert (mean <= 1 + 1e-12).all()
