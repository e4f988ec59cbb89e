"""The step-time fit finds the coefficients that made the measurements."""

import numpy as np
import pytest

from profiler.steptime import Cell, FitError, StepTime, fit, predict_cell_s

TRUE = StepTime(c0_s=6e-3, c_tok_s=4e-5, c_kv_s=3e-8, p0_s=1e-2, p_tok_s=2e-5)


def _cell(batch: int, prompt: int, output: int, *, shared: bool = False, noise: float = 1.0) -> Cell:
    prefill = TRUE.prefill_s(prompt, batch) if shared else TRUE.p0_s + TRUE.p_tok_s * batch * prompt
    tpot = TRUE.decode_s(batch, batch * (prompt + output / 2))
    return Cell(batch, prompt, output, shared, prefill * noise, tpot * noise, (prefill + (output - 1) * tpot) * noise)


GRID = [(batch, prompt, output) for batch in (1, 4, 16, 64) for prompt in (64, 1024) for output in (32, 256)]


@pytest.mark.parametrize("shared", [False, True])
def test_exact_measurements_give_back_the_coefficients(shared: bool) -> None:
    model, residuals = fit([_cell(*point, shared=shared) for point in GRID])
    for name in ("c0_s", "c_tok_s", "c_kv_s", "p0_s", "p_tok_s"):
        assert getattr(model, name) == pytest.approx(getattr(TRUE, name), rel=1e-6), name
    assert residuals == pytest.approx(np.zeros(len(GRID)), abs=1e-9)


def test_noise_is_told_in_the_residuals() -> None:
    rng = np.random.default_rng(0)
    cells = [_cell(*point, noise=float(np.exp(rng.normal(0, 0.1)))) for point in GRID * 8]
    model, residuals = fit(cells)
    assert model.decode_s(16, 8000) == pytest.approx(TRUE.decode_s(16, 8000), rel=0.05)
    assert np.std(residuals) == pytest.approx(0.1, rel=0.2)


def test_coefficients_are_never_negative() -> None:
    falling = [Cell(b, 64, 32, False, 0.1 / b, 0.02 / b, 0.7 / b) for b in (1, 2, 4, 8)]
    model, _ = fit(falling)
    assert min(model.c0_s, model.c_tok_s, model.c_kv_s, model.p0_s, model.p_tok_s) >= 0


def test_the_first_of_a_cells_tokens_comes_with_the_prefill() -> None:
    cell = _cell(4, 100, 1)
    assert predict_cell_s(TRUE, cell) == pytest.approx(1e-2 + 2e-5 * 400)


def test_a_shared_prompt_is_read_once_and_its_last_block_by_each() -> None:
    assert TRUE.prefill_s(1000, branches=5) == pytest.approx(1e-2 + 2e-5 * (1000 + 4 * 16))


@pytest.mark.parametrize(
    "cells",
    [
        [_cell(1, 64, 32), _cell(2, 64, 32), _cell(4, 64, 32)],
        [_cell(4, prompt, 32) for prompt in (64, 128, 256, 512)],
        [*(_cell(b, 64, 32) for b in (1, 2, 4)), Cell(8, 64, 1, False, 0.1, 0.0, 0.1)],
    ],
)
def test_too_little_to_fit_is_an_error(cells: list[Cell]) -> None:
    with pytest.raises(FitError):
        fit(cells)
