"""Arrivals have the rate and the burstiness that were asked for, whatever the rate does meanwhile."""

from itertools import pairwise

import numpy as np
import pytest

from profiler.loadtest.arrivals import Phase, Process, arrival_times

STEADY = [Phase(for_s=2000, rate=5, to_rate=5)]


def times(phases: list[Phase], process: Process, cv: float = 1.0, seed: int = 1) -> np.ndarray:
    return np.array(list(arrival_times(phases, process, np.random.default_rng(seed), cv)))


@pytest.mark.parametrize(("process", "cv"), [("poisson", 1.0), ("gamma", 0.5), ("gamma", 3.0)])
def test_rate_and_coefficient_of_variation(process: Process, cv: float) -> None:
    found = times(STEADY, process, cv)
    gaps = np.diff(found)
    assert len(found) == pytest.approx(10_000, rel=4 * cv / 100)  # four standard deviations of a renewal count
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.1)
    assert found[0] > 0 and found[-1] < 2000


def test_poisson_gaps_are_exponential() -> None:
    gaps = np.diff(times(STEADY, "poisson"))
    assert np.mean(gaps > 0.2) == pytest.approx(np.exp(-1), abs=0.02)
    assert np.mean(gaps > 0.6) == pytest.approx(np.exp(-3), abs=0.01)


def test_constant_is_exact() -> None:
    assert times([Phase(2, 4, 4)], "constant").tolist() == [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75]


def test_steps_change_the_rate_and_keep_the_process() -> None:
    found = times([Phase(1000, 2, 2), Phase(500, 0, 0), Phase(1000, 8, 8)], "gamma", 2.0)
    slow, pause, quick = (found[(found >= a) & (found < b)] for a, b in ((0, 1000), (1000, 1500), (1500, 2500)))
    assert len(slow) == pytest.approx(2000, rel=0.15)
    assert len(pause) == 0
    assert len(quick) == pytest.approx(8000, rel=0.1)
    assert np.diff(quick).std() / np.diff(quick).mean() == pytest.approx(2.0, rel=0.15)


def test_a_ramp_from_nothing_has_a_quarter_of_its_requests_in_its_first_half() -> None:
    found = times([Phase(100, 0, 20)], "constant")
    assert len(found) == 1000
    assert np.sum(found < 50) == 250
    assert all(later > earlier for earlier, later in pairwise(found))


def test_a_ramp_down_ends_within_its_time() -> None:
    found = times([Phase(100, 20, 0)], "constant")
    assert len(found) == 1000 and found[-1] < 100
    assert np.sum(found < 50) == pytest.approx(750, abs=1)


def test_the_same_seed_gives_the_same_times() -> None:
    assert times(STEADY, "poisson", seed=3).tolist() == times(STEADY, "poisson", seed=3).tolist()
    assert times(STEADY, "poisson", seed=3).tolist() != times(STEADY, "poisson", seed=4).tolist()
