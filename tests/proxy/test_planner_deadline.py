"""A vote that the deadline will cut is a plan like any other: what it is worth within the time is known.

n branches take 1.02 + 0.05 n seconds here (`planner_tables`), one token each 10 ms and 0.5 ms a branch.
"""

from dataclasses import replace

import pytest
from planner_tables import SETTINGS, ask, backend, decide

from profiler.quality_sections import BudgetCurve
from proxy.controls import Slo

GRID, WITHIN = [20, 60, 101], [0.1, 0.72, 0.80]
SIXTEEN = next(setting for setting in SETTINGS if setting.branches == 16)
CUT = replace(SIXTEEN, budget=BudgetCurve("self-consistency", {"n": 16}, False, GRID, WITHIN, WITHIN))
TABLE = tuple(CUT if setting is SIXTEEN else setting for setting in SETTINGS)


def test_a_vote_whose_stragglers_are_cut_beats_a_smaller_one_that_ends() -> None:
    """1.3 s are enough for 4 branches (0.70), and for about 69 tokens of each of 16: 0.72 at 60, 0.80 at 101."""
    plan = decide(ask(Slo(latency_ms=1300)), table=TABLE).plan
    assert (plan.branches, plan.predicted.cut) == (16, True)
    assert plan.predicted.accuracy_lower == pytest.approx(0.72 + 0.08 * 9 / 41, abs=0.005)
    assert plan.predicted.latency_ms == pytest.approx(1300)
    assert plan.predicted.uncut_ms == pytest.approx(1820)


def test_with_time_for_all_nothing_is_cut() -> None:
    plan = decide(ask(Slo(latency_ms=2000)), table=TABLE).plan
    assert (plan.branches, plan.predicted.cut, plan.predicted.accuracy_lower) == (16, False, 0.80)


def test_others_load_leaves_fewer_tokens_and_a_lower_bound() -> None:
    """0.9 s beside forty others are about 24 tokens of each of sixteen: the bound is 0.1 at 20, 0.72 at 60."""
    plan = decide(ask(Slo(latency_ms=900)), backend(others=40), table=TABLE).plan
    assert (plan.branches, plan.predicted.cut) == (16, True)
    assert plan.predicted.accuracy_lower == pytest.approx(0.1 + 0.62 * 4 / 40, abs=0.03)


def test_where_nothing_is_known_of_cut_votes_they_are_too_late() -> None:
    decision = decide(ask(Slo(latency_ms=1300)))
    assert (decision.plan.branches, decision.plan.predicted.cut) == (4, False)
    assert decision.dropped["latency"] == 2


def test_a_demanded_quality_holds_for_what_the_cut_leaves() -> None:
    met = decide(ask(Slo(latency_ms=1300, quality=0.71)), table=TABLE)
    missed = decide(ask(Slo(latency_ms=1300, quality=0.75)), table=TABLE)
    assert (met.feasible, missed.feasible) == (True, False)
    assert missed.gave_up == ("quality",)


def test_a_strategy_that_was_never_measured_does_not_inherit_what_a_cut_leaves_of_a_vote() -> None:
    decision = decide(ask(Slo(latency_ms=1300), pinned=("theirs", {"n": 16})), table=TABLE)
    assert (decision.feasible, decision.plan.predicted.cut) == (False, False)
