"""What the planner considers when the request pins or limits the strategy."""

from dataclasses import replace

import numpy as np
import pytest
from planner_tables import SETTINGS, ask, decide, served, setting

from proxy.controls import Slo
from proxy.planner import rank
from proxy.plans import Pinned


def test_a_pinned_setting_of_the_table_is_the_only_candidate() -> None:
    decision = decide(ask(Slo(latency_ms=100), pinned=("self-consistency", {"n": 8})))
    assert (decision.plan.branches, decision.considered, decision.gave_up) == (8, 1, ("latency",))
    assert decision.plan.predicted.accuracy_lower == 0.76


@pytest.mark.parametrize(("n", "accuracy_lower"), [(5, 0.70), (7, 0.76), (40, 0.80)])
def test_a_pinned_setting_that_is_not_in_the_table_is_scaled_from_the_nearest(n: int, accuracy_lower: float) -> None:
    plan = decide(ask(pinned=("self-consistency", {"n": n, "stop": "all"}))).plan
    assert (plan.branches, plan.params) == (n, {"n": n, "stop": "all"})
    assert plan.predicted.latency_ms == pytest.approx(1020 + 50 * n)
    assert plan.predicted.accuracy_lower == accuracy_lower
    assert not plan.predicted.prior


def test_windows_that_are_not_in_the_table_follow_on_each_other() -> None:
    at_once = decide(ask(pinned=("self-consistency", {"n": 6, "stop": "all"}))).plan.predicted
    pairs = Pinned("self-consistency", {"n": 6, "window": 2}, branches=6, waves=3, window=2)
    in_pairs = decide(replace(ask(), pinned=pairs)).plan
    assert (in_pairs.branches, in_pairs.predicted.tokens) == (6, pytest.approx(at_once.tokens))
    assert in_pairs.predicted.latency_ms > 2 * at_once.latency_ms


def test_a_strategy_measured_in_waves_is_the_nearest_of_its_own() -> None:
    search = replace(setting("rebase", 4, 0.69), later=(np.full((8, 4), 51.0),), params={"n": 4, "max_steps": 24})
    pinned = Pinned("rebase", {"n": 4, "max_steps": 40}, branches=4, waves=40)
    plan = decide(replace(ask(), pinned=pinned), table=(*SETTINGS, search)).plan
    assert not plan.predicted.prior
    assert (plan.predicted.accuracy_lower, plan.predicted.tokens) == (0.69, pytest.approx(4 * (101 + 51)))


def test_a_strategy_that_was_never_measured_is_estimated_and_marked_so() -> None:
    plan = decide(ask(pinned=("theirs", {"n": 4}))).plan
    assert (plan.strategy, plan.branches, plan.predicted.prior) == ("theirs", 4, True)


def test_n_without_a_strategy_leaves_the_strategy_free() -> None:
    table = (*SETTINGS, setting("first-finish", 8, 0.77, m=3), setting("first-finish", 8, 0.75, m=7))
    measured = rank(ask(n=8), served(table=table))
    assert [(plan.strategy, plan.branches) for plan, _ in measured] == [
        ("first-finish", 8),
        ("self-consistency", 8),
        ("first-finish", 8),
    ]
    scaled = rank(ask(n=6), served(table=table))
    assert sorted((plan.strategy, plan.params["n"], plan.params.get("m")) for plan, _ in scaled) == [
        ("first-finish", 6, 3),
        ("self-consistency", 6, None),
    ]
    fewer = rank(ask(n=2), served(table=table))  # m of 2 cannot be 3 or 7
    assert [(plan.strategy, plan.branches) for plan, _ in fewer] == [("self-consistency", 2)]


def test_a_request_that_may_run_one_branch_runs_none() -> None:
    decision = decide(ask(single_only="tools"))
    assert (decision.plan.strategy, decision.considered) == ("none", 1)


def test_fewer_branches_than_answers_wanted_are_no_candidates() -> None:
    decision = decide(ask(Slo(objective="latency"), at_least=5))
    assert (decision.plan.branches, decision.considered) == (8, 2)


def test_a_token_limit_cuts_time_and_what_would_have_been_cut_counts_as_wrong() -> None:
    table = (setting("none", 1, 0.6, steps=63), *SETTINGS[1:])
    limited = rank(ask(max_tokens=64), served(table=table))
    assert {plan.branches: plan.predicted.accuracy_lower for plan, _ in limited} == {1: 0.6, 4: 0, 8: 0, 16: 0}
    assert max(plan.predicted.latency_ms for plan, _ in limited) == pytest.approx(20 + 63 * (10 + 0.5 * 16))
