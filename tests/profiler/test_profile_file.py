"""The profile file: made from cells, stored, read back."""

from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY

import msgspec
import numpy as np
import pytest

from profiler import profile_file
from profiler.cells import Cell, CellSpec
from profiler.fit import FitError
from profiler.profile_file import Errors, Profile, ProfileError, Range, wide_prior
from profiler.steptime import StepTime

STEP = StepTime.linear(6e-3, 4e-5, 3e-8, 1e-2, 2e-5)


def _cells(sigma: float = 0.0) -> list[Cell]:
    rng = np.random.default_rng(0)
    cells = []
    for batch in (1, 4, 16):
        for prompt in (64, 512):
            noise = float(np.exp(rng.normal(0, sigma)))
            ttft, tpot = STEP.p0_s + STEP.p_tok_s * batch * prompt, STEP.step_of(batch, batch * (prompt + 50))
            cells.append(Cell(CellSpec(batch, prompt, 100), ttft, tpot, (ttft + 99 * tpot) * noise))
    return cells


def _profile(sigma: float = 0.0) -> Profile:
    return profile_file.make("tp1", {"vllm": "0.26", "gpu": "H200"}, _cells(sigma), max_num_seqs=64)


def test_a_profile_keeps_its_cells_its_fit_its_spread_and_its_range() -> None:
    profile = _profile(sigma=0.3)
    assert profile.cells == _cells(0.3)
    assert profile.step_time.step_of(4, 1000) == pytest.approx(STEP.step_of(4, 1000), rel=0.2)
    assert profile.range == Range(max_batch=16, max_prompt=512, max_output=100)
    assert 0.05 < profile.residual_sigma < 0.5
    quantiles = profile.residual_quantiles
    assert list(quantiles) == ["p5", "p50", "p95"]
    assert quantiles["p5"] < quantiles["p50"] < quantiles["p95"]


def test_a_perfect_fit_of_few_cells_still_admits_a_few_percent() -> None:
    assert _profile().residual_sigma == pytest.approx(0.05, rel=0.01)
    known = _cells()[:1] * 100
    many = [replace(cell, spec=replace(cell.spec, prompt=64 + n), held_out=True) for n, cell in enumerate(known)]
    assert profile_file.make("tp1", {}, [*_cells(), *many], 64).residual_sigma == 0.03


def test_visits_of_one_held_out_cell_are_one_cell_with_their_median() -> None:
    (cell, *_) = _cells()
    visits = [replace(cell, latency_s=cell.latency_s * slow, held_out=True) for slow in (1.0, 1.5, 1.1)]
    (made,) = [one for one in profile_file.make("tp1", {}, [*_cells(), *visits], 64).cells if one.held_out]
    assert (made.latency_s, made.repeats) == (pytest.approx(cell.latency_s * 1.1), 3)


def test_errors_are_of_the_held_out_cells_where_there_are_any() -> None:
    on_its_own = _profile(sigma=0.1).errors["latency"]
    assert (on_its_own.held_out, on_its_own.cells) == (False, 6)
    off = replace(_cells()[3], latency_s=_cells()[3].latency_s * 1.25, held_out=True)
    held_out = profile_file.make("tp1", {}, [*_cells(), off], 64).errors
    assert held_out["latency"] == Errors(median=pytest.approx(0.2, abs=0.01), worst=ANY, cells=1, held_out=True)
    assert held_out["tpot"].worst < 0.05


def test_a_speculating_engine_is_told_per_token_of_its_task() -> None:
    cells = [replace(cell, acceptance_length=2.0) for cell in _cells()]
    assert profile_file.make("spec", {}, cells, 64).acceptance_length == 2.0
    on_task = profile_file.make("spec", {}, cells, 64, acceptance_length=3.0)
    assert on_task.token_time.step_of(4, 0) == pytest.approx(on_task.step_time.step_of(4, 0) / 3)


def test_too_few_cells_make_no_profile() -> None:
    with pytest.raises(FitError):
        profile_file.make("tp1", {}, _cells()[:3], 64)


def test_a_profile_is_read_back_as_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "h200-tp1.json"
    profile_file.write(_profile(), path)
    profile_file.write(_profile(0.1), path)  # in place of the first
    assert profile_file.read(path) == _profile(0.1)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_file_that_is_no_profile_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    with pytest.raises(ProfileError, match=r"cannot read the profile .*p.json: No such file"):
        profile_file.read(path)
    for content in (b"", b"{}", b"[]", b'{"backend":"\xff"}', msgspec.json.encode(_profile())[:-9]):
        path.write_bytes(content)
        with pytest.raises(ProfileError, match=r"p.json is not a profile .*paretoproxy profile"):
            profile_file.read(path)
    profile_file.write(msgspec.structs.replace(_profile(), schema=1), path)
    with pytest.raises(ProfileError, match="has schema 1, this version reads 2"):
        profile_file.read(path)


def test_without_a_profile_a_wide_prior_says_that_it_is_one() -> None:
    prior = wide_prior("b")
    assert (prior.environment, prior.cells, prior.residual_sigma) == (
        {"prior": True},
        [],
        pytest.approx(np.log(2), rel=0.02),
    )
