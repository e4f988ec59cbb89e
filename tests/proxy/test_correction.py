"""Predictions corrected online: unbiased under deadlines, quick to see a change, calibrated."""

from __future__ import annotations

import random
from math import exp, log
from statistics import mean, median, stdev

import pytest

from proxy.correction import QUANTILES, Correction, Forecast

SIGMA = 0.5
TAIL = exp(SIGMA * 1.6449)


def _forecast(correction: Correction) -> Forecast:
    """Where the profile says 1 s and σ = 0.5, as corrected now."""
    bias, spread = correction.bias, correction.spread
    return Forecast(bias, bias * TAIL**spread, 0.95, bias, spread)


def _run(
    correction: Correction,
    requests: int,
    *,
    truth: float,
    sigma: float = SIGMA,
    deadline_s: float | None = None,
    seed: int = 0,
) -> None:
    """Requests that truly take a lognormal time of median `truth`, where the profile says 1 s and σ = 0.5."""
    rng = random.Random(seed)
    for _ in range(requests):
        took = truth * exp(rng.gauss(0, sigma))
        forecast = _forecast(correction)
        cut = deadline_s is not None and took > deadline_s
        correction.observe(min(took, deadline_s or took), forecast, cut=cut)


def test_right_predictions_stay_right() -> None:
    biases = []
    for seed in range(20):
        correction = Correction()
        _run(correction, 300, truth=1.0, seed=seed)
        biases.append(log(correction.bias))
        assert correction.spread == pytest.approx(1.0, abs=0.5)
    assert mean(biases) == pytest.approx(0, abs=0.05)
    assert stdev(biases) < 0.13


@pytest.mark.parametrize("deadline_s", [2.5, 1.2, 0.8])
def test_cut_requests_do_not_make_the_engine_look_quick(deadline_s: float) -> None:
    """Without the cut ones, a deadline at 0.8 s would leave requests with a median near 0.55 s."""
    correction = Correction()
    _run(correction, 2000, truth=1.0, deadline_s=deadline_s)
    assert correction.bias == pytest.approx(1.0, abs=0.17)


@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_a_throttled_or_mended_engine_is_noticed_within_20_requests(factor: float) -> None:
    """By then most of the change is believed, though the latencies themselves scatter by half."""
    moved = []
    for seed in range(20):
        correction = Correction()
        _run(correction, 200, truth=1.0, seed=seed)
        _run(correction, 20, truth=factor, seed=seed + 100)
        moved.append(log(correction.bias) / log(factor))
    assert median(moved) > 0.7
    assert min(moved) > 0.2


def test_wider_than_the_profile_says_is_learned_until_the_tail_covers() -> None:
    correction = Correction()
    _run(correction, 1500, truth=1.0, sigma=0.9)
    assert correction.spread > 1.4
    before = correction.within[0.95], correction.known[0.95]
    _run(correction, 3000, truth=1.0, sigma=0.9, seed=1)
    covered = (correction.within[0.95] - before[0]) / (correction.known[0.95] - before[1])
    assert covered == pytest.approx(0.95, abs=0.02)


def test_requests_that_ran_together_do_not_correct_one_thing_many_times() -> None:
    """All forty were forecast before the first one ended: what is learned is that the engine takes twice as long."""
    correction, rng = Correction(), random.Random(0)
    before = _forecast(correction)
    for _ in range(40):
        correction.observe(2 * exp(rng.gauss(0, SIGMA)), before)
    assert correction.bias == pytest.approx(2.0, rel=0.25)
    assert correction.spread == pytest.approx(1.0, abs=0.5)


def test_calibration_counts_only_what_is_known() -> None:
    correction = Correction()
    forecast = Forecast(1.0, 2.0, 0.95)
    correction.observe(0.9, forecast)  # inside all
    correction.observe(1.5, forecast, cut=True)  # beyond the median; where it would have ended is unknown
    assert correction.known == {0.5: 2, 0.9: 1, 0.95: 1}
    assert correction.within == {0.5: 1, 0.9: 1, 0.95: 1}
    assert tuple(correction.within) == QUANTILES


def test_nonsense_is_ignored() -> None:
    correction = Correction()
    correction.observe(0.0, Forecast(1.0, 2.0, 0.95), pace=2.0)
    correction.observe(1.0, Forecast(0.0, 2.0, 0.95))
    assert (correction.seen, correction.bias) == (0, 1.0)


def test_of_plans_that_the_deadline_cuts_the_pace_tells_the_bias() -> None:
    """A backend half as fast as its profile; every vote is cut long before its median, which tells nothing."""
    correction = Correction()
    for _ in range(20):
        median_s = 7.0 * correction.bias
        forecast = Forecast(median_s, 3 * median_s, 0.95, correction.bias, correction.spread)
        correction.observe(5.0, forecast, cut=True, pace=2.0 / correction.bias)
    assert 1.7 < correction.bias < 2.1


def test_a_pace_as_forecast_moves_nothing() -> None:
    correction = Correction()
    for _ in range(20):
        correction.observe(5.0, Forecast(7.0, 20.0, 0.95), cut=True, pace=1.0)
    assert abs(correction.bias - 1) < 1e-9
