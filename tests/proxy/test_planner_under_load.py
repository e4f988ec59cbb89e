"""The choice as the fleet fills, in virtual time: real decisions over real ledgers, on engines that only step.

What is counted as swinging: the mean N of each second, and each engine's share of the running branches.
"""

from dataclasses import replace
from itertools import pairwise
from math import sqrt
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from planner_tables import ask, backend, served, setting
from simulated_fleet import Asked, Fleet

from profiler.prediction import Setting
from proxy.catalog import Served
from proxy.controls import Slo
from proxy.errors import SloInfeasible
from proxy.exchange import Exchange
from proxy.planner import QUALITY_TIE, choose, rank
from proxy.plans import Ask, Decision, Plan
from proxy.scale import _decide
from proxy.service import Service
from proxy.ties import LATENCY_TIE
from proxy.trace import Trace


def scattered(median_steps: float, seed: int = 1) -> tuple[Setting, ...]:
    """Votes of 1 to 16, each more accurate, with branches of lognormal length (σ = 0.4)."""
    rng = np.random.default_rng(seed)
    plain = [
        ("none" if n == 1 else "self-consistency", n, lower)
        for n, lower in ((1, 0.60), (2, 0.64), (4, 0.70), (8, 0.76), (16, 0.80))
    ]
    drawn = [np.sort(2 + rng.lognormal(np.log(median_steps), 0.4, (128, n)).round(), axis=1) for _, n, _ in plain]
    return tuple(
        Setting(name, {} if n == 1 else {"n": n}, n, False, lower + 0.02, lower, False, lengths)
        for (name, n, lower), lengths in zip(plain, drawn, strict=True)
    )


# -- a step in load --

DEADLINE_MS = 4000
SLO = Slo(latency_ms=DEADLINE_MS)
LOW_PER_S, HIGH_PER_S = 1.5, 12.0
STEP_UP_S, STEP_DOWN_S, END_S = 20, 60, 90


def stepped(seed: int, **pins: Any) -> Fleet:
    fleet = Fleet(3, 1, scattered(90), seed=seed)
    asked = ask(SLO, **pins)
    fleet.arrive(asked, LOW_PER_S, 0, STEP_UP_S)
    fleet.arrive(asked, HIGH_PER_S, STEP_UP_S, STEP_DOWN_S)
    fleet.arrive(asked, LOW_PER_S, STEP_DOWN_S, END_S)
    fleet.clock.run(END_S + 60)
    return fleet


def between(fleet: Fleet, from_s: float, to_s: float) -> list[Asked]:
    return [one for one in fleet.asked if from_s <= one.at_s < to_s]


def mean_n(fleet: Fleet, from_s: float, to_s: float) -> float:
    return float(np.mean([one.decision.plan.branches for one in between(fleet, from_s, to_s)]))


def attainment(asked: list[Asked]) -> float:
    """Share of the requests with a feasible plan that were in time."""
    feasible = [one for one in asked if one.decision.feasible]
    assert feasible
    return float(np.mean([one.latency_s is not None and one.latency_s * 1e3 <= DEADLINE_MS for one in feasible]))


def turning_points(series: list[float]) -> int:
    moves = [b - a for a, b in pairwise(series) if b != a]
    return sum(a * b < 0 for a, b in pairwise(moves))


@pytest.fixture(scope="module", params=[1, 2, 3])
def free(request: pytest.FixtureRequest) -> Fleet:
    return stepped(request.param)


def test_n_falls_before_deadlines_are_missed_and_comes_back(free: Fleet) -> None:
    before, full = mean_n(free, 5, STEP_UP_S), mean_n(free, STEP_UP_S + 5, STEP_DOWN_S)
    after = mean_n(free, STEP_DOWN_S + 10, END_S)
    assert before > 3 * full
    assert after > 2 * full
    assert attainment(free.asked) >= 0.95
    assert attainment(between(free, STEP_UP_S, STEP_DOWN_S)) >= 0.95


def test_a_fixed_n_of_the_quiet_hours_would_have_missed_them() -> None:
    fixed = stepped(1, pinned=("self-consistency", {"n": 8}))
    missed = [one for one in between(fixed, STEP_UP_S + 5, STEP_DOWN_S) if (one.latency_s or 0) * 1e3 > DEADLINE_MS]
    assert len(missed) > 0.5 * len(between(fixed, STEP_UP_S + 5, STEP_DOWN_S))


def test_n_does_not_swing_under_a_steady_load(free: Fleet) -> None:
    """Independent random numbers turn 2/3 (n − 2) times, with a variance of (16 n − 29) / 90 (Kendall): arrivals are
    random, so N moves, but it may not turn more often than that by three standard deviations, as it would if one second
    paid for the last; nor may slower swings show in windows of five seconds."""
    per_second = [mean_n(free, s, s + 1) for s in range(STEP_UP_S + 5, STEP_DOWN_S)]
    n = len(per_second)
    assert turning_points(per_second) <= 2 / 3 * (n - 2) + 3 * sqrt((16 * n - 29) / 90)
    windows = np.array(per_second).reshape(-1, 5).mean(axis=1)
    assert windows.max() / windows.min() < 2


def test_traffic_does_not_swing_between_engines(free: Fleet) -> None:
    """In every window of five seconds each engine has its third, within half of it."""
    loads = np.array(free.loads[(STEP_UP_S + 5) * 10 : STEP_DOWN_S * 10], float)
    windows = loads.reshape(-1, 50, 3).sum(axis=1)
    shares = windows / windows.sum(axis=1, keepdims=True)
    assert (abs(shares - 1 / 3) < 1 / 6).all()


# -- several replicas on one fleet --


SHORT = (ask(Slo(objective="latency")), 300.0, scattered(7.4))  # 75 a second for each engine, 0.2 s each
VOTES = (ask(pinned=("self-consistency", {"n": 4})), 40.0, scattered(15))


def crowd(traffic: tuple[Ask, float, tuple[Setting, ...]], proxies: int, *, naive: bool = False) -> tuple[float, float]:
    """The mean over time of the fullest engine's branches over the average one's, and the p95 latency in seconds.
    Branches are short: the load is renewed while nobody looks."""
    asked, per_s, table = traffic
    fleet = Fleet(4, proxies, table, seed=1, naive=naive)
    fleet.arrive(asked, per_s, 0, 12)
    fleet.clock.run(12)
    loads = np.array(fleet.loads[20:], float)
    latencies = [one.latency_s for one in fleet.asked if one.latency_s is not None]
    return float((loads.max(axis=1) / loads.mean(axis=1)).mean()), float(np.quantile(latencies, 0.95))


@pytest.mark.parametrize("traffic", [SHORT, VOTES], ids=["short requests", "votes"])
def test_replicas_that_see_old_counts_balance_like_one_that_sees_all(traffic: Any) -> None:
    alone = crowd(traffic, 1)
    for proxies in (2, 4):
        imbalance, p95_s = crowd(traffic, proxies)
        assert imbalance <= 1.15 * alone[0]
        assert p95_s <= 1.15 * alone[1]


@pytest.mark.parametrize(("traffic", "proxies"), [(VOTES, 4), (SHORT, 8)], ids=["votes, four", "short requests, eight"])
def test_without_chance_and_patience_they_would_herd(traffic: Any, proxies: int) -> None:
    ours, herd = crowd(traffic, proxies), crowd(traffic, proxies, naive=True)
    assert herd[0] > 1.15 * ours[0]


def test_replicas_of_an_idle_fleet_do_not_all_take_the_first_engine() -> None:
    taken = []
    for seed in range(40):
        decision = choose(ask(), served(backend("a"), backend("b"), backend("c")), Random(seed))
        assert isinstance(decision, Decision)
        taken.append(decision.plan.backend.name)
    assert min(taken.count(name) for name in "abc") >= 5


# -- whatever the fleet, the load and the demand --

BACKENDS = st.lists(
    st.tuples(st.integers(0, 40), st.sampled_from([8, 16, 64]), st.sampled_from([None, 1800.0, 3600.0, 3650.0])),
    min_size=1,
    max_size=4,
)
TABLE = (
    setting("none", 1, 0.60),
    setting("self-consistency", 4, 0.70),
    setting("self-consistency", 8, 0.76),
    setting("first-finish", 8, 0.763, steps=90),
    setting("self-consistency", 16, 0.80),
)
SLOS = st.builds(
    Slo,
    latency_ms=st.none() | st.floats(300, 4000),
    cost_usd=st.none() | st.floats(0.5, 5),
    quality=st.none() | st.floats(0, 1),
    objective=st.sampled_from(["quality", "cost", "latency"]),
)
PINS = st.sampled_from([None, ("self-consistency", {"n": 16}), ("self-consistency", {"n": 4})])


def models_of(fleet: list[tuple[int, int, float | None]]) -> list[Served]:
    backends = [
        backend(f"b{i}", others=others, max_num_seqs=seqs, gpu_hour_usd=price)
        for i, (others, seqs, price) in enumerate(fleet)
    ]
    return served(*backends, table=TABLE)


def overflows(plan: Plan) -> bool:
    """One branch may wait in line; a vote may not."""
    return plan.branches > 1 and plan.backend.branches_running + plan.branches > plan.backend.profile.max_num_seqs


@examples(max_examples=80, deadline=None)
@given(BACKENDS, SLOS, PINS, st.integers(0, 99))
def test_what_holds_of_every_choice(fleet: Any, slo: Slo, pinned: Any, seed: int) -> None:
    models, asked = models_of(fleet), ask(slo, pinned=pinned)
    ranked, decision = rank(asked, models), choose(asked, models, Random(seed))
    assert isinstance(decision, Decision)
    feasible = [plan for plan, limits in ranked if not limits]
    plan = decision.plan
    assert decision.feasible == bool(feasible)
    assert sum(decision.dropped.values()) == decision.considered - len(feasible)
    # These engines' lines are first come, first served: a vote may not wait in one unless every plan does.
    assert overflows(plan) == ("queue" in decision.gave_up)
    assert not overflows(plan) or all(overflows(other) for other, _ in ranked)
    if feasible and slo.objective == "quality":
        best = max(other.predicted.accuracy_lower for other in feasible)
        assert plan.predicted.accuracy_lower >= best - QUALITY_TIE


@examples(max_examples=80, deadline=None)
@given(BACKENDS, SLOS, PINS, st.integers(0, 99))
def test_chance_only_decides_among_plans_as_good_as_the_first(fleet: Any, slo: Slo, pinned: Any, seed: int) -> None:
    models, asked = models_of(fleet), ask(slo, pinned=pinned)
    first, drawn = choose(asked, models), choose(asked, models, Random(seed))
    assert isinstance(first, Decision)
    assert isinstance(drawn, Decision)
    (best, plan) = first.plan.predicted, drawn.plan.predicted
    assert drawn.feasible == first.feasible
    assert plan.accuracy_lower >= best.accuracy_lower
    assert plan.latency_ms <= best.latency_ms * (1 + LATENCY_TIE) * (1 + 1e-9)


@examples(max_examples=40, deadline=None)
@given(BACKENDS, SLOS)
def test_strict_refuses_exactly_where_nothing_is_feasible(fleet: Any, slo: Slo) -> None:
    models, asked = models_of(fleet), ask(replace(slo, strict=True))
    service = cast(Service, SimpleNamespace(rng=Random(0), choose=choose, clock=lambda: 0.0))
    trace = Trace(id="t", received_at=0.0, path="/v1/chat/completions")
    exchange = cast(Exchange, SimpleNamespace(trace=trace, arrived_at=0.0))
    if any(not limits for _, limits in rank(asked, models)):
        assert _decide(service, asked, models, None, exchange).feasible
    else:
        with pytest.raises(SloInfeasible):
            _decide(service, asked, models, None, exchange)


# -- what the others pay --


def test_of_equal_plans_the_one_that_holds_others_up_less_is_chosen() -> None:
    """The busy engine's list price is 1% less; a vote there would hold up twenty branches of others."""
    busy, idle = backend("busy", others=20, gpu_hour_usd=3564), backend("idle")
    decision = choose(ask(pinned=("self-consistency", {"n": 8})), served(busy, idle))
    assert isinstance(decision, Decision)
    assert decision.plan.backend is idle


def test_congestion_is_what_each_step_takes_longer_at_the_others_share_and_the_request_does_not_pay_it() -> None:
    alone = choose(ask(pinned=("self-consistency", {"n": 8})), served(backend()))
    beside = choose(ask(pinned=("self-consistency", {"n": 8})), served(backend(others=8)))
    assert isinstance(alone, Decision)
    assert isinstance(beside, Decision)
    assert alone.plan.predicted.congestion_gpu_seconds == 0
    predicted = beside.plan.predicted
    assert predicted.congestion_gpu_seconds == pytest.approx(100 * 8 * 0.0005 / 2)  # 8 more in a step, half is theirs
    assert predicted.congestion_usd == pytest.approx(predicted.congestion_gpu_seconds)  # a dollar a second
    assert predicted.gpu_seconds < alone.plan.predicted.gpu_seconds
    unpriced = choose(ask(), served(backend(others=8, gpu_hour_usd=None)))
    assert isinstance(unpriced, Decision)
    assert unpriced.plan.predicted.congestion_usd is None
