"""The planner's choice among samples: limits, objectives, and what is given up where nothing fits."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_tables import SETTINGS, ask, backend, chosen, decide, served, setting

from proxy.controls import Slo
from proxy.planner import choose, rank
from proxy.plans import Decision, Plan


@pytest.mark.parametrize(("latency_ms", "n"), [(1100, 1), (1250, 4), (1450, 8), (1900, 16), (None, 16)])
def test_more_time_buys_more_samples(latency_ms: float | None, n: int) -> None:
    decision = decide(ask(Slo(latency_ms=latency_ms)))
    assert (decision.plan.branches, decision.feasible, decision.gave_up) == (n, True, ())
    assert decision.plan.predicted.latency_ms == pytest.approx(1020 + 50 * n)
    assert decision.plan.predicted.cost_usd == pytest.approx(1.02 + 0.05 * n)


@pytest.mark.parametrize(
    ("slo", "n", "dropped"),
    [
        (Slo(latency_ms=1300), 4, {"latency": 2}),
        (Slo(cost_usd=1.3), 4, {"cost": 2}),
        (Slo(tpot_ms=13), 4, {"tpot": 2}),
        (Slo(ttft_ms=100), 1, {"ttft": 3}),  # a scaled answer arrives whole: its first token is its last
        (Slo(quality=0.75, objective="latency"), 8, {"quality": 2}),
        (Slo(latency_ms=1500, cost_usd=1.3, quality=0.65), 4, {"latency": 1, "cost": 1, "quality": 1}),
    ],
)
def test_each_limit_drops_and_a_candidate_counts_for_the_first_it_fails(
    slo: Slo, n: int, dropped: dict[str, int]
) -> None:
    decision = decide(ask(slo))
    assert (decision.plan.branches, decision.feasible, decision.considered) == (n, True, 4)
    assert decision.dropped == dropped


@pytest.mark.parametrize(
    ("slo", "n"),
    [
        (Slo(objective="latency"), 1),
        (Slo(objective="cost"), 1),
        (Slo(objective="cost", quality=0.7), 4),
        (Slo(objective="quality", cost_usd=1.5), 8),
    ],
)
def test_among_the_feasible_the_objective_decides(slo: Slo, n: int) -> None:
    assert chosen(slo) == n


def test_where_nothing_fits_the_nearest_plan_says_what_it_gives_up() -> None:
    too_fast = decide(ask(Slo(latency_ms=500, strict=True)))
    assert (too_fast.feasible, too_fast.plan.branches, too_fast.gave_up) == (False, 1, ("latency",))
    assert too_fast.dropped == {"latency": 4}
    torn = decide(ask(Slo(latency_ms=1000, quality=0.76)))
    assert (torn.plan.branches, torn.gave_up) == (4, ("latency", "quality"))  # 20% late, 8% short: the least in all
    assert decide(ask(Slo(quality=0.9))).plan.branches == 16


def test_near_ties_in_quality_go_to_the_cheaper() -> None:
    near = (*SETTINGS, setting("self-consistency", 20, 0.804))
    better = (*SETTINGS, setting("self-consistency", 20, 0.81))
    assert decide(ask(), table=near).plan.branches == 16
    assert decide(ask(), table=better).plan.branches == 20
    cheap, dear = backend("cheap"), backend("dear", gpu_hour_usd=7200)
    assert decide(ask(), dear, cheap).plan.backend is cheap


SLOS = st.builds(
    Slo,
    latency_ms=st.none() | st.floats(300, 4000),
    ttft_ms=st.none() | st.floats(10, 2000),
    cost_usd=st.none() | st.floats(0.5, 5),
    quality=st.none() | st.floats(0, 1),
    objective=st.sampled_from(["quality", "cost", "latency"]),
)


def _key(plan: Plan) -> tuple[Any, ...]:
    return plan.backend.name, plan.strategy, str(plan.params), plan.predicted


@settings(max_examples=60, deadline=None)
@given(SLOS, st.tuples(st.integers(0, 40), st.integers(0, 40)), st.sampled_from([None, 1800.0, 3600.0]), st.booleans())
def test_choose_and_rank_agree(slo: Slo, others: tuple[int, int], price: float | None, greedy: bool) -> None:
    a = backend("a", others=others[0], max_num_seqs=32, gpu_hour_usd=price)
    models = served(a, backend("b", others=others[1], max_num_seqs=32))
    decision, ranked = choose(ask(slo, greedy=greedy), models), rank(ask(slo, greedy=greedy), models)
    assert isinstance(decision, Decision)
    assert _key(decision.plan) == _key(ranked[0][0])
    assert decision.gave_up == ranked[0][1]
    assert len({_key(plan) for plan, _ in ranked}) == len(ranked) == decision.considered
    feasible = [not limits for _, limits in ranked]
    assert feasible == sorted(feasible, reverse=True)  # feasible ones first
    assert decision.feasible == feasible[0]
    assert sum(decision.dropped.values()) == feasible.count(False)
    if decision.feasible:
        predicted = decision.plan.predicted
        assert predicted.latency_ms <= (slo.latency_ms or np.inf) * (1 + 1e-9)
        assert slo.cost_usd is None or (predicted.cost_usd or 0) <= slo.cost_usd * (1 + 1e-9)
