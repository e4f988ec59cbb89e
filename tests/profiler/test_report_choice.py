"""What to run within a deadline, and what the usual advice would have named."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_builders import engine, point

from profiler.report.choice import (
    QUALITY_TIE,
    ComputeUnit,
    at,
    choose,
    compute_optimal,
    compute_unit,
    plain,
    steps,
    system_optimal,
)
from profiler.report.points import Point
from proxy import planner

TP1 = engine("tp1")
TP4 = engine("tp4", tensor_parallel_size=4, gpus=4.0)


def test_the_tie_is_the_planners() -> None:
    assert QUALITY_TIE == planner.QUALITY_TIE


def test_the_most_accurate_plan_in_time_is_system_optimal() -> None:
    one, eight, sixteen = point(TP1, 1, 0.60, 900), point(TP1, 8, 0.75, 1500), point(TP1, 16, 0.80, 2500)
    plans = [one, eight, sixteen]

    assert [system_optimal(plans, ms) for ms in (899, 900, 2000, 9999)] == [None, one, eight, sixteen]


def test_half_a_point_of_accuracy_is_not_worth_paying_for() -> None:
    dear, cheap = point(TP1, 16, 0.804, 1000, gpu_s=5), point(TP1, 8, 0.800, 1000, gpu_s=2)
    better = point(TP1, 32, 0.806, 1000, gpu_s=9)

    assert system_optimal([dear, cheap], 2000) is cheap
    assert system_optimal([dear, cheap, better], 2000) is dear


def test_near_ties_are_decided_by_dollars_and_without_a_price_by_gpu_seconds() -> None:
    dear, slow = engine("dear", gpu_hour_usd=36_000.0), engine("slow")
    unpriced = engine("unpriced", gpu_hour_usd=None)
    quick_but_dear, cheap = point(dear, 1, 0.7, 100, gpu_s=1), point(slow, 1, 0.7, 100, gpu_s=2)

    assert system_optimal([quick_but_dear, cheap], 1000) is cheap
    assert system_optimal([quick_but_dear, cheap, point(unpriced, 1, 0.7, 100, gpu_s=3)], 1000) is quick_but_dear


def test_what_a_busy_engine_shares_does_not_make_it_cheap() -> None:
    busy = point(engine("busy"), 1, 0.7, 100, gpu_s=0.1, idle_gpu_seconds=3.0)
    idle = point(engine("idle"), 1, 0.7, 100, gpu_s=2.0, idle_gpu_seconds=2.0)

    assert system_optimal([busy, idle], 1000) is idle


def test_the_usual_advice_takes_the_least_tokens_on_the_plain_engine_and_misses_the_deadline() -> None:
    on_tp1, on_tp4 = point(TP1, 8, 0.75, 3000), point(TP4, 8, 0.75, 1000)
    choice = choose([on_tp4, on_tp1, point(TP1, 1, 0.6, 900), point(TP1, 16, 0.80, 5000)], 2000)

    assert (choice.system, choice.compute) == (on_tp4, on_tp1)
    assert choice.differ and choice.compute is not None and choice.compute.tail_ms > 2000


def test_the_usual_advice_is_right_where_it_names_the_same_plan() -> None:
    assert not choose([point(TP1, 1, 0.6, 900), point(TP1, 8, 0.75, 3000)], 1000).differ


def test_where_nothing_is_in_time_there_is_no_advice_either() -> None:
    choice = choose([point(TP1, 1, 0.6, 900)], 10)
    assert (choice.system, choice.compute) == (None, None)


def test_of_equal_compute_the_more_accurate_one() -> None:
    worse, better = point(TP1, 4, 0.70, 100), point(TP1, 4, 0.75, 100, strategy="first-finish")
    assert compute_optimal([worse, better], 0.70) is better


def test_a_plain_engine_has_the_lowest_tp_and_no_speculation() -> None:
    ngram = engine("ngram", speculative={"method": "ngram"})
    everywhere = [point(on, 1, 0.6, 100) for on in (ngram, TP4, TP1)]
    speculating = [point(on, 1, 0.6, 100) for on in (engine("first", speculative={}, tensor_parallel_size=8), ngram)]

    assert [one.engine.name for one in plain(everywhere)] == ["tp1"]
    assert [one.engine.name for one in plain(speculating)] == ["first"]


def test_a_setting_that_the_plain_engine_cannot_run_is_taken_from_the_next() -> None:
    greedy, sampled = point(TP1, 1, 0.6, 100, greedy=True), point(TP4, 1, 0.6, 100)
    assert {one.engine.name for one in plain([greedy, sampled])} == {"tp1", "tp4"}


def test_sizes_count_where_all_are_known_and_otherwise_tokens_alone() -> None:
    small, large = engine("s", "small", parameters=1e9), engine("l", "large", parameters=8e9)
    unknown = engine("u", "unknown")
    voting, single = point(small, 4, 0.75, 100), point(large, 1, 0.75, 100)

    assert compute_unit([voting, single]) is ComputeUnit.TOKENS_TIMES_PARAMETERS
    assert compute_optimal([voting, single], 0.75) is voting  # 4 × 1 against 1 × 8
    with_unknown = [voting, single, point(unknown, 2, 0.1, 100)]
    assert compute_unit(with_unknown) is ComputeUnit.TOKENS
    assert compute_optimal(with_unknown, 0.75) is single
    assert compute_unit([single]) is ComputeUnit.TOKENS  # one model: its size changes nothing


@st.composite
def fleets(draw: st.DrawFn) -> list[Point]:
    """Some settings on some engines; what a setting is right about does not depend on where it runs."""
    engines = [TP1, TP4, engine("ngram", speculative={"method": "ngram"})]
    where = st.tuples(st.sampled_from(engines), st.sampled_from([1, 2, 4, 8]))
    pairs = draw(st.lists(where, min_size=1, max_size=12, unique_by=lambda pair: (pair[0].name, pair[1])))
    percents = {n: draw(st.integers(50, 90)) for n in (1, 2, 4, 8)}
    tails, costs = st.integers(1, 40), st.integers(1, 9)
    return [point(on, n, percents[n] / 100, draw(tails) * 100.0, gpu_s=float(draw(costs))) for on, n in pairs]


@given(fleets(), st.floats(1, 5000))
def test_the_steps_say_what_choosing_says(plans: list[Point], deadline_ms: float) -> None:
    step, choice = at(steps(plans), deadline_ms), choose(plans, deadline_ms)

    assert step.choice == choice
    assert step.compute_in_time == (choice.compute is not None and choice.compute.tail_ms <= deadline_ms)


@given(fleets())
def test_a_longer_deadline_never_costs_more_accuracy_than_the_tie(plans: list[Point]) -> None:
    found = [step.choice.system for step in steps(plans)]
    for earlier, later in itertools.pairwise(one for one in found if one is not None):
        assert later.accuracy_lower >= earlier.accuracy_lower - QUALITY_TIE


@given(fleets(), st.floats(1, 5000))
def test_the_usual_advice_is_as_accurate_and_computes_no_more(plans: list[Point], deadline_ms: float) -> None:
    choice = choose(plans, deadline_ms)
    if choice.system is None:
        assert min(one.tail_ms for one in plans) > deadline_ms
        return
    assert choice.compute is not None
    assert choice.compute.accuracy_lower >= choice.system.accuracy_lower - QUALITY_TIE
    assert choice.compute.mean_tokens <= choice.system.mean_tokens


@pytest.mark.parametrize("environment", [{"modelled": True}, {"prior": True}, {}])
def test_an_engine_says_whether_it_was_measured(environment: dict[str, bool]) -> None:
    one = engine(environment={"vllm": "0", **environment})
    assert (one.modelled, one.assumed) == ("modelled" in environment, "prior" in environment)
