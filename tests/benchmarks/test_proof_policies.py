"""The proof's policies, its clairvoyant's foresight and its bars, on small cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any, cast

import proof_fleet as fleets
import proof_policies as policies
import proof_run as runs
import pytest
from proof_clairvoyant import Foresight
from proof_measures import Measured, bars, good
from proof_run import Row

from profiler.loadtest.schedule import schedule
from proxy.backend import Backend
from strategies.registry import Registry

ROW = Row(0, "interactive", 0.0, 5_000.0, 1, True, "none", 1, "large-tp1", True, 1.0, 100, 6_000.0, "")


def engines(**loads: int) -> list[Backend]:
    return [cast(Backend, SimpleNamespace(name=name, branches_running=load)) for name, load in loads.items()]


def picked(routing: str, backends: list[Backend], *questions: str) -> list[str]:
    router = policies.Router(routing)
    return [router.pick(backends, policies.Request(i, question, i)).name for i, question in enumerate(questions)]


def test_round_robin_takes_turns_whatever_the_load() -> None:
    assert picked("round-robin", engines(a=9, b=0), "q", "q", "q") == ["a", "b", "a"]


def test_least_loaded_takes_the_fewest_branches_and_equal_ones_in_turn() -> None:
    assert picked("least-loaded", engines(a=9, b=1, c=4), "q", "q") == ["b", "b"]
    assert set(picked("least-loaded", engines(a=0, b=0), "q", "q")) == {"a", "b"}


def test_a_question_keeps_its_engine_until_that_has_more_than_its_share() -> None:
    idle = engines(a=0, b=0, c=0)
    homes = picked("prefix-affine", idle, "one", "one", "two", "three", "four", "five")
    assert homes[0] == homes[1] and len(set(homes)) > 1
    busy = engines(**{backend.name: 50 if backend.name == homes[0] else 1 for backend in idle})
    assert picked("prefix-affine", busy, "one")[0] != homes[0]


def test_every_fixed_policy_has_a_name_of_its_own() -> None:
    assert len(runs.FIXED) == len(policies.FIXED) == 3 * 3 * len(policies.SETTINGS)


Run = Callable[[str], list[Row]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> runs.World:
    folder = tmp_path_factory.mktemp("proof")
    return runs.World(folder, fleets.write_fleet(folder), fleets.Load(low=2, high=14, low_s=4, high_s=5))


@pytest.fixture(scope="module")
def run(world: runs.World) -> Run:
    """Each policy's rows under Poisson arrivals, made once."""
    return cache(lambda policy: runs.run_policy(world, policy, "poisson").rows)


def test_the_fleet_is_what_the_proof_claims() -> None:
    assert len(fleets.ENGINES) >= 8
    for model in (fleets.LARGE, fleets.SMALL):
        own = [kind for kind in fleets.ENGINES if kind.model == model]
        assert {kind.gpus for kind in own} == {1, 2, 4}
        assert {"ngram" in kind.name for kind in own} == {True, False}


def test_all_policies_get_the_same_arrivals_and_the_same_samples(run: Run) -> None:
    """One branch on the large model: the same answer in the same number of tokens, wherever and when it ran."""
    one, other = (run(f"{routing} large none") for routing in policies.ROUTINGS[:2])
    assert [(row.index, row.at_s, row.slo_class) for row in one] == [(r.index, r.at_s, r.slo_class) for r in other]
    whole = [(a, b) for a, b in zip(one, other, strict=True) if a.done and b.done]
    assert len(whole) > 10
    assert all((a.tokens, a.correct) == (b.tokens, b.correct) for a, b in whole)
    assert any(a.backend != b.backend for a, b in whole)


def test_the_clairvoyant_knows_what_a_branch_will_say(world: runs.World, run: Run) -> None:
    pools = {model: fleets.read_pool(world.folder, model) for model in fleets.POOL_OF}
    foresight = Foresight(pools, Registry.installed())
    asked = {p.index: p.prompt for p in schedule(fleets.workload("poisson", world.load)).requests}
    ran = [row for row in run("least-loaded small none") if row.done]
    for row in ran:
        request = policies.Request(row.index, asked[row.index], row.index * runs.SEED_STEP)
        drawn = foresight.drawn(fleets.SMALL, request, 1)
        assert (int(drawn.tokens[0, 0]), bool(drawn.correct[0, 0])) == (row.tokens, row.correct)


def test_the_clairvoyant_is_righter_than_the_planner(run: Run) -> None:
    right = {
        policy: sum(good(row) and row.correct for row in run(policy)) for policy in (runs.PARETOPROXY, runs.CLAIRVOYANT)
    }
    assert right[runs.CLAIRVOYANT] > right[runs.PARETOPROXY]


@pytest.mark.parametrize("policy", runs.ABLATIONS)
def test_every_ablation_decides_otherwise_than_the_planner(run: Run, policy: str) -> None:
    whole, without = (run(name) for name in (runs.PARETOPROXY, policy))
    assert [(r.backend, r.strategy, r.n, r.latency_ms) for r in whole] != [
        (r.backend, r.strategy, r.n, r.latency_ms) for r in without
    ]


def test_a_fragment_and_a_late_answer_are_not_good() -> None:
    late = runs.Row(*[*_fields(ROW)[:3], 12_001.0, *_fields(ROW)[4:]])
    fragment = runs.Row(*[*_fields(ROW)[:4], 0, *_fields(ROW)[5:]])
    assert [good(ROW), good(late), good(fragment)] == [True, False, False]


def _fields(row: Row) -> list[Any]:
    return [getattr(row, name) for name in Row.__struct_fields__]


PLAIN = Measured(10.0, 10.0, 0.8, 0.01, 8.0, {}, {"interactive": 0.96, "batch": 0.97}, {}, 1.0, 1.0, 1.0)
RIVALS = ("least-loaded large none", "least-loaded any none")


def _bars(first: tuple[float, float], second: tuple[float, float], **ours: Any) -> Any:
    measured: Mapping[str, Measured] = {
        runs.PARETOPROXY: replace(PLAIN, **ours),
        runs.CLAIRVOYANT: replace(PLAIN, goodput=11.0),
        RIVALS[0]: replace(PLAIN, goodput=first[0], accuracy=first[1]),
        RIVALS[1]: replace(PLAIN, goodput=second[0], accuracy=second[1]),
    }
    return bars(measured)


def test_rivals_are_the_best_of_those_that_are_equal() -> None:
    found = _bars((4.0, 0.82), (9.9, 0.70))
    assert (found.as_accurate, found.goodput_ratio) == (RIVALS[0], 2.5)
    assert found.as_good == RIVALS[1] and found.accuracy_gain == pytest.approx(0.1)
    assert found.beats_fixed and found.met


def test_a_bar_is_missed_where_a_fixed_policy_is_as_good_in_both() -> None:
    found = _bars((9.8, 0.795), (3.0, 0.9))
    assert found.goodput_ratio == pytest.approx(10 / 9.8)
    assert found.accuracy_gain == pytest.approx(0.005)
    assert not found.beats_fixed


def test_the_worst_class_and_the_clairvoyant_count_too() -> None:
    assert not _bars((4.0, 0.82), (9.9, 0.7), of_feasible={"interactive": 0.94, "batch": 1.0}).met
    assert not _bars((4.0, 0.82), (9.9, 0.7), goodput=8.7).met
