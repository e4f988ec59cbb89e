"""The engine timed by a shipped profile gives the latencies that were measured on the H200."""

import re
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles

import numpy as np
import pytest
from engine_rig import run_cell
from held_out import FOLDER, MEASURED, errors, spec_of

from profiler import profile_file
from profiler.simulation import engine


def test_of_all_held_out_cells_half_are_within_7_percent_and_nine_in_ten_within_15() -> None:
    found = [error for path in MEASURED for error in errors(path)]
    assert len(found) > 80
    assert median(found) < 0.07
    assert quantiles(found, n=10)[-1] < 0.15


def test_the_page_tells_what_is_found() -> None:
    page = (Path(__file__).parents[2] / "docs/load-testing.md").read_text()
    told = re.search(
        r"(\d+) cells, off by ([\d.]+)% at the median, ([\d.]+)% at the 95th percentile and ([\d.]+)%", page
    )
    assert told is not None
    found = [error for path in MEASURED for error in errors(path)]
    assert int(told[1]) == len(found)
    assert [f"{np.quantile(found, q):.1%}" for q in (0.5, 0.95, 1)] == [f"{told[n]}%" for n in (2, 3, 4)]


def test_branches_that_run_are_held_up_while_a_burst_is_taken_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ninety-seven branches on one prompt: were they not, the first would be through before the last is taken in."""
    profile = profile_file.read(FOLDER / "h200-qwen3-8b-tp1-ngram.json")
    (cell,) = [cell for cell in profile.cells if cell.held_out and cell.spec.batch == 97 and cell.spec.shared]
    held_up_s = run_cell(spec_of(profile, cell), cell.spec)[1]
    monkeypatch.setattr(engine, "HELD_UP", 0.0)
    free_s = run_cell(spec_of(profile, cell), cell.spec)[1]
    assert free_s < 0.9 * cell.latency_s < held_up_s < 1.1 * cell.latency_s


def test_prompts_are_computed_in_chunks_of_the_engine_that_was_measured() -> None:
    """With a smaller engine's chunks, fourteen long prompts would take half as long again."""
    profile = profile_file.read(FOLDER / "h200-qwen3-1.7b-tp1-draft.json")
    (cell,) = [cell for cell in profile.cells if cell.held_out and cell.spec.batch == 14 and cell.spec.prompt > 8000]
    spec = spec_of(profile, cell)
    assert spec.max_num_batched_tokens == 8192
    assert run_cell(spec, cell.spec)[1] < 1.25 * cell.latency_s
    assert run_cell(replace(spec, max_num_batched_tokens=2048), cell.spec)[1] > 1.5 * cell.latency_s


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.stem)
def test_no_profile_is_simulated_much_worse_than_it_predicts(path: Path) -> None:
    """Its own formula, on the same cells, is the yardstick: the rest is what the hardware did."""
    told = profile_file.read(path).errors["latency"]
    assert median(errors(path)) < told.median + 0.05
