"""The profiles that are shipped are readable, say how good they are, and say so where they are modelled."""

from pathlib import Path

import pytest

from profiler import profile_file
from profiler.profiles import make_modelled

FILES = sorted(make_modelled.FOLDER.glob("*.json"))
MEASURED = [path for path in FILES if "modelled" not in path.name]


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.stem)
def test_a_measured_profile_holds_its_raw_cells_a_fifth_of_them_held_out(path: Path) -> None:
    profile = profile_file.read(path)
    held_out = [cell for cell in profile.cells if cell.held_out]
    judged = [cell for cell in profile.cells if not cell.spec.beside]  # mixed cells tell the stall, and no latency
    assert len(held_out) >= len(judged) / 5
    assert profile.errors["latency"].held_out and profile.errors["latency"].cells == len(held_out)
    assert profile.range.max_batch == 256 and profile.range.max_prompt >= 16384
    assert profile.range.max_output >= 512
    assert "dummy" in profile.environment["weights"]


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.stem)
def test_its_coefficients_are_what_its_cells_give(path: Path) -> None:
    profile = profile_file.read(path)
    again = profile_file.make(profile.backend, profile.environment, profile.cells, profile.max_num_seqs)
    assert again.step_time.step_s == pytest.approx(profile.step_time.step_s, rel=1e-6)
    for name in ("c_kv_s", "c_shared_s", "p0_s", "p_branch_s", "p_tok_s", "p_cached_s", "p_tok2_s", "stall"):
        assert getattr(again.step_time, name) == pytest.approx(getattr(profile.step_time, name), rel=1e-6), name
    assert again.errors == profile.errors


@pytest.mark.parametrize("path", [path for path in FILES if path not in MEASURED], ids=lambda path: path.stem)
def test_a_modelled_profile_says_so_and_is_less_certain(path: Path) -> None:
    profile = profile_file.read(path)
    degree = profile.environment["tensor_parallel_size"]
    source = profile_file.read(path.with_name(path.name.replace("-modelled", "").replace(f"-tp{degree}", "-tp1")))
    assert profile.environment["modelled"] and profile.environment["assumptions"]
    assert profile.residual_sigma > source.residual_sigma
    assert profile.step_time.step_of(1, 0) < source.step_time.step_of(1, 0) * 1.1


def test_there_is_a_table_row_for_each_in_the_readme() -> None:
    text = (make_modelled.FOLDER / "README.md").read_text()
    for path in MEASURED:
        error = profile_file.read(path).errors["latency"]
        assert f"| `{path.stem}` |" in text
        assert f"| {error.median:.1%} | {error.worst:.1%} |" in text
