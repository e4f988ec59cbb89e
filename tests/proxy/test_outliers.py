"""A backend that is far off its peers is put out for a while; where all are bad, none is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planner_tables import backend

from proxy.backend import Backend
from proxy.catalog import Catalog
from proxy.correction import Forecast
from proxy.reliability.outliers import Outliers, bounds
from proxy.reliability.settings import OutliersConfig

NOBODY = Catalog({}, {}, ())


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def fleet(clock: Clock, *failures: int, of: int = 100) -> list[Backend]:
    """So many of the last requests of each failed."""
    backends = [backend(name, clock=clock) for name in "abcdef"[: len(failures)]]
    for each, failed in zip(backends, failures, strict=True):
        for number in range(of):
            each.health.failed(each.health.begin(), clock.now, "500", in_a_row=False) if number < failed else (
                each.health.answered(each.health.begin(), clock.now)
            )
    return backends


def out(backends: list[Backend]) -> list[str]:
    return [each.name for each in backends if not each.health.serving]


def outliers(clock: Clock, **config: float) -> Outliers:
    return Outliers(OutliersConfig(**config), NOBODY, clock)  # type: ignore[arg-type]


def test_the_one_whose_requests_fail_is_ejected_and_the_reason_says_so(clock: Clock) -> None:
    backends = fleet(clock, 60, 1, 0)
    outliers(clock).look(backends)
    assert out(backends) == ["a"]
    assert backends[0].health.cause == "outlier"
    assert backends[0].health.problem == "60 of its last 100 requests failed, 1 of its peers' 200"


def test_where_all_fail_alike_none_is_an_outlier(clock: Clock) -> None:
    backends = fleet(clock, 60, 55, 65)
    outliers(clock).look(backends)
    assert out(backends) == []


def test_few_requests_say_nothing(clock: Clock) -> None:
    backends = fleet(clock, 10, 0, 0, of=10)
    outliers(clock).look(backends)
    assert out(backends) == []


def test_the_time_grows_and_a_good_trial_brings_it_back(clock: Clock) -> None:
    backends = fleet(clock, 60, 0, 0)
    watch = outliers(clock)
    watch.look(backends)
    sick = backends[0].health
    assert sick.retry_after_s == 30
    clock.now += 30
    sick.probed(None)
    sick.alive(sick.begin())
    assert sick.state == "closed"
    watch.look(backends)
    assert sick.state == "closed", "what it was ejected for is no news"
    for each, failed in zip(backends, (60, 0, 0), strict=True):
        for number in range(100):
            mark = each.health.begin()
            if number < failed:
                each.health.failed(mark, clock.now, "500", in_a_row=False)
            else:
                each.health.answered(mark, clock.now)
    watch.look(backends)
    assert sick.retry_after_s == 60


def slow(one: Backend, factor: float, times: int) -> None:
    for _ in range(times):
        one.correction.observe(factor, Forecast(1.0, 1.3, 0.95))


def test_the_one_that_is_much_slower_than_predicted_is_ejected(clock: Clock) -> None:
    backends = fleet(clock, 0, 0, 0)
    for each, factor in zip(backends, (4.2, 1.0, 1.1), strict=True):
        slow(each, factor, 60)
    watch = outliers(clock)
    watch.look(backends)
    assert out(backends) == ["a"]
    assert "times as long against its prediction as its peers" in (backends[0].health.problem or "")
    clock.now += 30
    backends[0].health.probed(None)
    backends[0].health.alive(backends[0].health.begin())
    watch.look(backends)
    assert out(backends) == [], "its correction is old news, and may be so no more"


def test_all_slower_than_predicted_is_the_load_and_no_outlier(clock: Clock) -> None:
    backends = fleet(clock, 0, 0, 0)
    for each in backends:
        slow(each, 4.2, 60)
    outliers(clock).look(backends)
    assert out(backends) == []


@given(
    st.lists(st.integers(0, 100), min_size=1, max_size=6),
    st.floats(0, 0.99),
    st.lists(st.integers(0, 5), max_size=3),
)
def test_never_the_last_one_and_never_more_than_the_share(failures: list[int], share: float, down: list[int]) -> None:
    clock = Clock()
    backends = fleet(clock, *failures)
    for index in down:
        backends[index % len(backends)].health.probed("/health answered 503")
    before = len(out(backends))
    watch = outliers(clock, max_ejected=share)
    for _ in range(10):
        watch.look(backends)
    ejected = [each for each in backends if each.health.cause == "outlier"]
    assert len(ejected) <= share * len(backends)
    assert before == len(backends) or len(out(backends)) < len(backends)


@given(st.integers(1, 500), st.data())
def test_an_interval_holds_its_share(total: int, data: st.DataObject) -> None:
    failures = data.draw(st.integers(0, total))
    low, high = bounds(failures, total)
    assert 0 <= low <= failures / total + 1e-9 and failures / total - 1e-9 <= high <= 1
