"""The profile file: made from cells, stored, read back."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from profiler import profile_file
from profiler.profile_file import Profile, ProfileError, Range, wide_prior
from profiler.steptime import Cell, FitError, StepTime

STEP = StepTime(6e-3, 4e-5, 3e-8, 1e-2, 2e-5)


def _cells(sigma: float = 0.0) -> list[Cell]:
    rng = np.random.default_rng(0)
    cells = []
    for batch in (1, 4, 16):
        for prompt in (64, 512):
            noise = float(np.exp(rng.normal(0, sigma)))
            ttft, tpot = STEP.p0_s + STEP.p_tok_s * batch * prompt, STEP.decode_s(batch, batch * (prompt + 50))
            cells.append(Cell(batch, prompt, 100, False, ttft, tpot, (ttft + 99 * tpot) * noise))
    return cells


def _profile(sigma: float = 0.0) -> Profile:
    return profile_file.make("tp1", {"vllm": "0.26", "gpu": "H200"}, _cells(sigma), max_num_seqs=64)


def test_a_profile_keeps_its_cells_its_fit_its_spread_and_its_range() -> None:
    profile = _profile(sigma=0.3)
    assert profile.cells == _cells(0.3)
    assert profile.step_time.c0_s == pytest.approx(STEP.c0_s, rel=0.1)
    assert profile.range == Range(max_batch=16, max_prompt=512, max_output=100)
    assert 0.1 < profile.residual_sigma < 0.5
    quantiles = profile.residual_quantiles
    assert list(quantiles) == ["p5", "p50", "p95"]
    assert quantiles["p5"] < quantiles["p50"] < quantiles["p95"]


def test_a_perfect_fit_still_admits_three_percent() -> None:
    assert _profile().residual_sigma == 0.03


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
    profile_file.write(msgspec.structs.replace(_profile(), schema=2), path)
    with pytest.raises(ProfileError, match="has schema 2, this version reads 1"):
        profile_file.read(path)


def test_without_a_profile_a_wide_prior_says_that_it_is_one() -> None:
    prior = wide_prior("b")
    assert (prior.environment, prior.cells, prior.residual_sigma) == (
        {"prior": True},
        [],
        pytest.approx(np.log(2), rel=0.02),
    )
