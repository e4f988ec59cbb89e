"""Whether a profile still holds."""

from dataclasses import replace

import pytest
from test_fit import GRID, TRUE, measured

from profiler import check, profile_file
from profiler.cells import CellSpec
from profiler.profile_file import Profile


def _profile() -> Profile:
    held_out = [replace(measured(CellSpec(b, 300, 100), noise=n), held_out=True) for b, n in ((3, 1.04), (9, 0.96))]
    mixed = replace(measured(CellSpec(1, 512, 24, beside=4)), held_up_s=0.1)
    return profile_file.make("b", {}, [*(measured(spec) for spec in GRID), *held_out, mixed], 64)


def test_a_few_quick_cells_of_every_batch_size_are_measured_again() -> None:
    specs = check.specs_to_check(_profile(), 6)
    assert len(specs) == 6
    assert {spec.batch for spec in specs} >= {1, 4, 16}
    assert not any(spec.beside for spec in specs)
    slowest = max(measured(spec).latency_s for spec in GRID)
    assert all(measured(spec).latency_s < slowest for spec in specs)


@pytest.mark.parametrize(("slower", "holds"), [(1.0, True), (1.08, True), (0.93, True), (1.25, False), (0.7, False)])
def test_it_holds_while_the_engine_is_as_quick_as_it_was(slower: float, holds: bool) -> None:
    profile = _profile()
    again = [measured(spec, truth=TRUE, noise=slower) for spec in check.specs_to_check(profile, 6)]
    found = check.compare(profile, again)
    assert found.ratio == pytest.approx(slower, rel=0.02)
    assert found.holds == holds


def test_one_slow_cell_is_told_but_does_not_condemn_the_profile() -> None:
    profile = _profile()
    again = [measured(spec) for spec in check.specs_to_check(profile, 6)]
    found = check.compare(profile, [*again[:-1], replace(again[-1], latency_s=3 * again[-1].latency_s)])
    assert found.holds
    assert found.worst == pytest.approx(3, rel=0.02)
