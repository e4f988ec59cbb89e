"""From agreement to correctness, on labelled votes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.prior import prior_pool
from profiler.quality_file import StoredQuestion, StoredSample, curve
from profiler.quality_sections import AgreementCurve
from profiler.vote_agreement import accuracy_at, agreement_curve, nearest
from strategies.base import Shape
from strategies.stopping import All, BetaLead, FirstArrivals

POOL = prior_pool()


@pytest.mark.parametrize("shape", [Shape(4, All()), Shape(8, BetaLead()), Shape(16, FirstArrivals(5))])
def test_more_agreement_is_never_worse_and_the_mean_is_the_accuracy(shape: Shape) -> None:
    found = agreement_curve("s", {}, shape, POOL)
    assert found.agreement == sorted(found.agreement) and found.agreement[0] == 0
    assert found.accuracy == sorted(found.accuracy)
    assert found.mean == pytest.approx(curve("s", {}, shape, POOL, greedy=False).accuracy, abs=1e-3)
    assert 0 < found.deviation < 0.5


def test_it_is_the_share_that_was_right_at_each_agreement() -> None:
    """Two samples a question: they agree on the right answer, on a wrong one, or not at all (the shorter wins)."""
    pairs = [("7", "7")] * 6 + [("8", "8")] * 2 + [("7", "8")] + [("8", "7")] * 3
    pool = [
        StoredQuestion("q", "7", "all", 5, StoredSample("7", 9, "stop", True), [_sample(a, 10), _sample(b, 20)])
        for a, b in pairs
    ]
    found = agreement_curve("vote", {"n": 2}, Shape(2, All()), pool)
    assert accuracy_at(found, 1.0) == pytest.approx(6 / 8)
    assert accuracy_at(found, 0.5) == pytest.approx(1 / 4)
    assert (accuracy_at(found, 0.0), found.votes) == (0.0, 2.0)


def _sample(answer: str, tokens: int) -> StoredSample:
    return StoredSample(answer, tokens, "stop", answer == "7")


def test_agreement_is_calibrated_on_votes_it_has_not_seen() -> None:
    known, fresh = prior_pool(seed=0), prior_pool(seed=1)
    found = agreement_curve("s", {}, Shape(8, All()), known)
    again = agreement_curve("s", {}, Shape(8, All()), fresh)
    assert np.interp([0.3, 0.6, 1.0], found.agreement, found.accuracy) == pytest.approx(
        np.interp([0.3, 0.6, 1.0], again.agreement, again.accuracy), abs=0.1
    )


@given(st.floats(0, 1))
def test_between_knots_it_is_a_straight_line(agreement: float) -> None:
    curve = AgreementCurve("s", {}, 4, 4.0, [0.0, 0.25, 0.5, 1.0], [0.0, 0.1, 0.1, 0.9], 0.5, 0.2)
    assert accuracy_at(curve, agreement) == pytest.approx(np.interp(agreement, curve.agreement, curve.accuracy))


def _curve(strategy: str, **params: object) -> AgreementCurve:
    return AgreementCurve(strategy, params, 1, 1.0, [0.0, 1.0], [0.0, 1.0], 0.5, 0.1)


def test_a_setting_without_a_curve_takes_the_nearest_of_its_strategy() -> None:
    curves = [_curve("vote", n=4, stop="beta"), _curve("vote", n=8, stop="beta"), _curve("first", n=8, m=3)]
    assert nearest(curves, "vote", {"n": 7, "stop": "beta"}) is curves[1]
    assert nearest(curves, "vote", {"n": 5, "stop": "all"}) is curves[0]
    assert nearest(curves, "first", {"n": 16, "m": 5}) is curves[2]
    assert nearest(curves, "none", {}) is None
