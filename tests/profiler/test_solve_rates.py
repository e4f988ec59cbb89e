"""The prior, learned from how votes agree: on traffic whose true solve rates are known."""

import numpy as np
import pytest

from profiler import prior
from profiler.solve_rates import BINS, LearnedRates, RateModel, bin_of, rate_model
from profiler.votes import Drawn, vote
from strategies.base import Shape
from strategies.registry import Registry
from strategies.stopping import BetaLead

MODEL = rate_model(Registry.installed())
VOTE = next(row for row, name in MODEL.names.items() if name == "self-consistency" and MODEL.branches[row] == 8)
BIG = next(row for row, name in MODEL.names.items() if name == "self-consistency" and MODEL.branches[row] == 16)
SINGLE = next(row for (name, _), row in MODEL.row.items() if name == "none")


def _agreements(rates: np.ndarray, wrong: int = prior.WRONG_ANSWERS, seed: int = 0) -> list[float]:
    """Of votes of eight, one a question, whose wrong answers are spread over `wrong` classes."""
    rng = np.random.default_rng(seed)
    size = (len(rates), 8)
    right = rng.random(size) < rates[:, None]
    answers = np.where(right, 0, rng.integers(1, wrong + 1, size))
    shape = Shape(8, BetaLead())
    return vote(Drawn(answers, rng.integers(1, 900, size), right), shape).agreement.tolist()


def _learn(model: RateModel, agreements: list[float]) -> tuple[np.ndarray, np.ndarray, list[float]]:
    learned = LearnedRates(model)
    told = []
    for number, agreement in enumerate(agreements, 1):
        told.append(learned.observe(VOTE, agreement))
        if number % 16 == 0:
            learned.settings()
    return *learned.settings(), told


def test_before_any_vote_it_is_the_prior() -> None:
    accuracy, lower = LearnedRates(MODEL).settings()
    assert accuracy[SINGLE] == pytest.approx(0.5, abs=0.04)
    assert accuracy[SINGLE] < accuracy[VOTE] < accuracy[BIG] < 0.82
    assert np.all(lower < accuracy) and np.all(lower >= 0)


@pytest.mark.parametrize("mean", [0.25, 0.5, 0.75, 0.92])
def test_what_a_model_solves_is_learned_from_its_agreement(mean: float) -> None:
    """Nearly: the prior keeps a tenth of the weight, and where most answers are wrong agreement tells little."""
    rates = np.random.default_rng(1).beta(8 * mean, 8 * (1 - mean), 600)
    accuracy, lower, told = _learn(MODEL, _agreements(rates))
    assert accuracy[SINGLE] == pytest.approx(mean, abs=0.1)
    assert lower[SINGLE] > accuracy[SINGLE] - 0.04  # surer than the prior is
    assert np.mean(told[200:]) == pytest.approx(accuracy[VOTE], abs=0.05)


def test_a_model_that_always_agrees_gains_nothing_from_more_samples() -> None:
    """Then more samples are not worth paying for, which the prior alone does not know."""
    accuracy, lower, _ = _learn(MODEL, [1.0] * 200)
    before, _ = LearnedRates(MODEL).settings()
    assert before[BIG] - before[SINGLE] > 0.2
    assert accuracy[BIG] - accuracy[SINGLE] < 0.1
    assert lower[BIG] - lower[SINGLE] < 0.12


def test_the_past_is_forgotten() -> None:
    hard, easy = _agreements(np.full(1500, 0.2)), _agreements(np.full(1500, 0.9), seed=1)
    accuracy, _, _ = _learn(MODEL, hard + easy)
    assert accuracy[SINGLE] == pytest.approx(0.9, abs=0.08)


def test_a_setting_of_no_table_counts_as_its_strategys_nearest() -> None:
    assert MODEL.nearest("self-consistency", {"n": 9}, 9) in {VOTE, VOTE + 1}
    assert MODEL.nearest("none", {}, 1) is None
    assert MODEL.nearest("unheard-of", {}, 3) is None
    three = MODEL.nearest_vote(3)
    assert three is not None and MODEL.votes[three] == pytest.approx(3, abs=0.3)


def test_full_and_no_agreement_are_told_apart_from_nearly_so() -> None:
    assert [bin_of(value) for value in (0.0, 0.05, 1 / 3, 15 / 16, 1.0)] == [0, 1, 4, 10, BINS - 1]
