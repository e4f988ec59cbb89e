"""The fit finds the model that made the measurements, and says how far off it is on cells that it never saw."""

from dataclasses import replace

import numpy as np
import pytest

from profiler.cells import Cell, CellSpec
from profiler.fit import FitError, fit, log_errors, predict_latency_s, predict_tpot_s, predict_ttft_s
from profiler.steptime import StepTime

TRUE = StepTime(
    batches=(1, 4, 16, 64),
    step_s=(6e-3, 6.2e-3, 7e-3, 14e-3),
    c_kv_s=3e-8,
    c_shared_s=1e-8,
    p0_s=1e-2,
    p_tok_s=2e-5,
    p_tok2_s=1e-9,
    p_branch_s=1e-3,
    p_cached_s=2e-6,
)
GRID = [
    CellSpec(batch, prompt, output, shared)
    for batch in (1, 4, 16, 64)
    for prompt in (64, 2048)
    for output in (32, 256)
    for shared in (False, True)
]


def measured(spec: CellSpec, *, truth: StepTime = TRUE, noise: float = 1.0, acceptance: float = 1.0) -> Cell:
    """What a perfect engine of `truth` would show, times `noise`."""
    plain = Cell(spec, 1.0, 1.0, 1.0, acceptance_length=acceptance)
    times = predict_ttft_s(truth, spec), predict_tpot_s(truth, plain), predict_latency_s(truth, plain)
    return Cell(spec, *(seconds * noise for seconds in times), acceptance_length=acceptance)


def test_exact_measurements_give_back_the_model() -> None:
    model = fit([measured(spec) for spec in GRID])
    assert model.batches == TRUE.batches
    assert model.step_s == pytest.approx(TRUE.step_s, rel=1e-3)
    for name in ("c_kv_s", "c_shared_s", "p0_s", "p_tok_s", "p_tok2_s", "p_branch_s", "p_cached_s"):
        assert getattr(model, name) == pytest.approx(getattr(TRUE, name), rel=1e-2), name


def test_held_out_cells_do_not_touch_the_fit() -> None:
    cells = [measured(spec) for spec in GRID]
    wild = [replace(measured(CellSpec(16, 500, 90), noise=5.0), held_out=True)]
    assert fit(cells + wild) == fit(cells)


def test_errors_are_told_per_quantity_as_log_ratios() -> None:
    cells = [measured(CellSpec(8, 300, 100), noise=noise) for noise in (1.0, 1.1, 0.8)]
    errors = log_errors(TRUE, cells)
    assert list(errors) == ["latency", "ttft", "tpot"]
    for logs in errors.values():
        assert logs == pytest.approx(np.log([1.0, 1.1, 0.8]))


def test_one_hiccup_does_not_bend_the_fit_of_the_others() -> None:
    cells = [measured(spec) for spec in GRID]
    cells[5] = measured(GRID[5], noise=4.0)
    assert fit(cells).step_of(16, 8000) == pytest.approx(TRUE.step_of(16, 8000), rel=0.03)


def test_noise_of_ten_percent_leaves_the_step_within_five() -> None:
    rng = np.random.default_rng(0)
    cells = [measured(spec, noise=float(np.exp(rng.normal(0, 0.1)))) for spec in GRID * 8]
    assert fit(cells).step_of(16, 8000) == pytest.approx(TRUE.step_of(16, 8000), rel=0.05)


def test_a_speculating_engine_is_fitted_per_step_whatever_each_cell_accepted() -> None:
    rng = np.random.default_rng(0)
    cells = [measured(spec, acceptance=float(rng.uniform(1, 4))) for spec in GRID]
    assert fit(cells).step_s == pytest.approx(TRUE.step_s, rel=1e-3)


def test_where_measurements_fall_with_the_batch_the_step_stays_level() -> None:
    falling = [Cell(CellSpec(b, 64, 32), 0.1 / b, 0.02 / b, 0.7 / b) for b in (1, 2, 4, 8)]
    model = fit(falling)
    assert min(model.c_kv_s, model.p0_s, model.p_tok_s, *model.step_s) >= 0
    assert all(low <= high for low, high in zip(model.step_s, model.step_s[1:], strict=False))


def test_short_prompts_say_nothing_of_the_attention_term() -> None:
    cells = [measured(CellSpec(b, prompt, 64)) for b in (1, 4, 16) for prompt in (32, 512)]
    assert fit(cells).p_tok2_s == 0.0


def test_the_stall_is_what_running_branches_lose_to_a_prompt() -> None:
    """Eight branches beside are held up for 0.7 of the time that the prompt is computed, besides decoding in a larger
    batch."""
    spec = CellSpec(1, 2048, 24, beside=8)
    prompt_s = float(TRUE.computing_s(2048))
    slowed_s = float(TRUE.g_s(9) - TRUE.g_s(8)) * 23
    mixed = replace(measured(spec), held_up_s=0.7 * prompt_s + slowed_s)
    assert fit([measured(spec) for spec in GRID] + [mixed]).stall == pytest.approx(0.7, rel=0.02)


@pytest.mark.parametrize(
    "cells",
    [
        [measured(CellSpec(b, 64, 32)) for b in (1, 2, 4)],
        [measured(CellSpec(4, prompt, 32)) for prompt in (64, 128, 256, 512)],
        [*(measured(CellSpec(b, 64, 32)) for b in (1, 2, 4)), Cell(CellSpec(8, 64, 1), 0.1, 0.0, 0.1)],
        [*(measured(CellSpec(b, 64, 32)) for b in (1, 2, 4)), Cell(CellSpec(8, 64, 9), 0.0, 0.0, 0.1)],
    ],
)
def test_too_little_to_fit_is_an_error(cells: list[Cell]) -> None:
    with pytest.raises(FitError):
        fit(cells)
