"""What votes tell of accuracy without labels: expected accuracy, drift, and how rarely the alarm is false."""

import logging
import random

import numpy as np
import pytest

from profiler.prior import prior_pool
from profiler.quality_file import drawn
from profiler.quality_sections import AgreementCurve
from profiler.solve_rates import rate_model
from profiler.vote_agreement import agreement_curve
from profiler.votes import vote
from proxy.quality_watch import Drift, PriorWatch, Recent, TableWatch, Voted
from strategies.base import Shape
from strategies.registry import Registry
from strategies.stopping import BetaLead

CURVE = AgreementCurve("vote", {"n": 4}, 4, 4.0, [0.0, 0.5, 1.0], [0.0, 0.4, 0.9], 0.65, 0.25)
FEW = AgreementCurve("first", {"n": 4, "m": 2}, 4, 2.0, [0.0, 1.0], [0.0, 0.6], 0.5, 0.2)
BLIND = AgreementCurve("first", {"n": 4, "m": 1}, 4, 1.0, [0.0, 1.0], [0.0, 0.6], 0.6, 0.0)
MODEL = rate_model(Registry.installed())


def _voted(agreement: float, votes: int = 4, *, strategy: str = "vote", cut: bool = False) -> Voted:
    return Voted(strategy, {"n": 4}, 4, votes, agreement, cut)


def _watch() -> TableWatch:
    return TableWatch("m", "math", [CURVE, FEW, BLIND], questions=200)


def _true_scores() -> np.ndarray:
    """Standardised expected accuracies of votes of eight on the very questions that the curve is of: skewed, as real
    ones are."""
    shape, pool = Shape(8, BetaLead()), prior_pool()
    curve = agreement_curve("s", {}, shape, pool)
    agreement = vote(drawn(pool, shape, seed=9), shape).agreement
    return (np.interp(agreement, curve.agreement, curve.accuracy) - curve.mean) / curve.deviation


def _first_alarm(drift: Drift, scores: list[float]) -> int | None:
    return next((number for number, score in enumerate(scores, 1) if drift.add(score) and drift.alarm), None)


# -- the test itself --


def test_a_false_alarm_is_rarer_than_one_in_ten_thousand() -> None:
    rng, scores = np.random.default_rng(0), _true_scores()
    alarms = 0
    for _ in range(20):
        drift = Drift()
        alarms += sum(drift.add(score) and drift.alarm != 0 for score in rng.choice(scores, 10_000).tolist())
    assert alarms <= 20


@pytest.mark.parametrize(("shift", "within"), [(1.0, 25), (0.5, 100)])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_lasting_shift_is_told_soon(shift: float, within: int, sign: int) -> None:
    rng, scores = np.random.default_rng(1), _true_scores()
    times = []
    for _ in range(40):
        drift = Drift(0.07)  # of a table of 200 questions
        for score in rng.choice(scores, 200).tolist():
            drift.add(score)
        times.append(_first_alarm(drift, (rng.choice(scores, 1000) + sign * shift).tolist()))
    assert np.median([time for time in times if time is not None]) <= within
    assert None not in times


def test_an_alarm_ends_when_the_shift_does() -> None:
    drift = Drift()
    for _ in range(100):
        drift.add(-1.0)
    assert drift.alarm == -1
    rng = random.Random(0)
    for _ in range(150):
        drift.add(rng.gauss(0, 1))
    assert drift.alarm == 0


def test_what_the_table_does_not_know_exactly_is_no_drift() -> None:
    """Of 16 questions the mean itself is known to a quarter of a deviation."""
    shifted = [0.4] * 2000
    assert _first_alarm(Drift(1 / 4), shifted) is None
    assert _first_alarm(Drift(1 / 40), shifted) is not None


# -- with a table --


def test_expected_accuracy_follows_the_map() -> None:
    watch = _watch()
    assert watch.expected is None
    for _ in range(10):
        watch.observe(_voted(0.5))
        watch.observe(_voted(1.0))
    assert watch.expected == pytest.approx((0.4 + 0.9) / 2)
    for _ in range(300):
        watch.observe(_voted(1.0))
    assert watch.expected == pytest.approx(0.9, abs=0.01)


def test_drift_is_told_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    watch = _watch()
    with caplog.at_level(logging.WARNING, logger="paretoproxy"):
        for _ in range(100):
            watch.observe(_voted(0.25))
        assert watch.drift == -1
        for _ in range(20):
            watch.observe(_voted(1.0))
    assert watch.drift == 0
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert "model m, task math: votes agree less than on the labelled questions" in told[0]
    assert "accuracy were 0.20 instead of 0.65" in told[0]
    assert "as the quality table expects again" in told[1]


def test_no_vote_at_all_is_a_wrong_answer() -> None:
    watch = _watch()
    watch.observe(_voted(0.0, votes=0))
    assert watch.expected == 0.0


def test_strategies_that_do_not_vote_and_votes_that_always_agree_tell_nothing() -> None:
    watch = TableWatch("m", "math", [CURVE, BLIND], 200)
    watch.observe(_voted(0.0, strategy="none"))
    watch.observe(_voted(1.0, strategy="first"))
    assert watch.expected is None


def test_a_vote_that_the_deadline_cut_is_read_as_one_over_as_few() -> None:
    watch = _watch()
    watch.observe(_voted(1.0, votes=2, cut=True))
    assert watch.expected == 0.6
    for votes in (0, 1):
        watch.observe(_voted(float(votes), votes=votes, cut=True))
    assert watch.expected == 0.6


def test_recent_is_a_plain_mean_at_first() -> None:
    recent = Recent()
    for value in (1.0, 0.0, 0.5):
        recent.add(value)
    assert recent.mean == pytest.approx(0.5)


# -- on the prior --


def test_the_prior_is_replaced_every_few_votes() -> None:
    told: list[np.ndarray] = []
    watch = PriorWatch(MODEL, lambda accuracy, lower: told.append(accuracy - lower))
    for _ in range(3 * PriorWatch.EVERY):
        watch.observe(Voted("self-consistency", {"n": 8}, 8, 8, 1.0))
    assert len(told) == 3
    assert np.all(told[2] <= told[0] + 1e-9)  # surer and surer
    assert watch.expected is not None and watch.expected > 0.7


def test_what_is_no_vote_teaches_the_prior_nothing() -> None:
    watch = PriorWatch(MODEL, lambda accuracy, lower: pytest.fail("nothing was learned"))
    for voted in (
        Voted("none", {}, 1, 0, 0.0),
        Voted("self-consistency", {"n": 8}, 8, 0, 0.0),
        Voted("self-consistency", {"n": 8}, 8, 1, 1.0, cut=True),
    ):
        for _ in range(PriorWatch.EVERY):
            watch.observe(voted)
    assert watch.expected is None
