"""From measured cells to a step-time model, and how far off it is on cells that it never saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import nnls

from profiler.cells import Cell, CellSpec
from profiler.steptime import StepTime

# A measured time is off by this ratio and, whatever its length, by this much: who got the CPU, when a socket was read.
NOISE, JITTER_S = 0.04, 0.012
# A late first chunk makes the others look quick: what a whole request took is what tells. An engine that hiccups in one
# cell must not bend the fit of the others.
TTFT_WEIGHT = 0.2
HUBER_AT = 1.0  # standard deviations
FINISH, FINISH_S = 5, 0.005  # the column of the end of a request, and about how long it takes
LONG_PROMPT = 1024  # shorter ones say nothing of the attention term
STALL_AT_MOST = 3.0


class FitError(ValueError):
    """Too few cells to fit."""


def fit(cells: Sequence[Cell]) -> StepTime:
    """Robust least squares on relative errors with coefficients ≥ 0, from the cells that are not held out.

    Raises FitError for fewer than four cells or two batch sizes, or a time that is not above 0.
    """
    used = [cell for cell in cells if not cell.held_out and not cell.spec.beside]
    if len(used) < 4 or len({cell.spec.batch for cell in used}) < 2:
        raise FitError("the fit needs at least four cells and two batch sizes")
    if any(min(cell.ttft_s, cell.latency_s) <= 0 or cell.spec.output < 2 for cell in used):
        raise FitError("every cell needs times above 0; measure at least two output tokens")
    knots = sorted({cell.spec.batch for cell in used})
    ttft = np.array([[cell.ttft_s] for cell in used])
    latency = np.array([[cell.latency_s] for cell in used])
    steps = np.array([[steps_of(cell)] for cell in used])
    prefill = np.array([prefill_terms(cell.spec) for cell in used])
    step = np.array([step_terms(cell.spec, knots) for cell in used])
    if max(cell.spec.prompt for cell in used) < LONG_PROMPT:
        prefill[:, 4] = 0.0
    finish = np.ones_like(latency)
    whole = np.hstack([prefill, finish, step * steps]) / latency
    first = np.hstack([prefill, 0 * finish, 0 * step]) / ttft
    sigma = np.concatenate([noise(latency), noise(ttft) / np.sqrt(TTFT_WEIGHT)])
    found = _robust_nnls(np.vstack([whole, first]), sigma[:, 0], {FINISH: FINISH_S})
    p0, p_branch, p_tok, p_cached, p_tok2, finish_s, c_kv, c_shared, *rises = found
    model = StepTime(
        batches=tuple(map(float, knots)),
        step_s=tuple(np.cumsum(rises).tolist()),
        c_kv_s=c_kv,
        c_shared_s=c_shared,
        p0_s=p0,
        p_branch_s=p_branch,
        p_tok_s=p_tok,
        p_cached_s=p_cached,
        p_tok2_s=p_tok2,
        finish_s=finish_s,
    )
    return replace(model, stall=_stall(model, cells))


def prefill_terms(spec: CellSpec) -> list[float]:
    """What p0, p_branch, p_tok, p_cached and p_tok2 are multiplied by."""
    return [1.0, spec.batch - 1.0, spec.computed_tokens, spec.cached_tokens, spec.attended_tokens2]


def step_terms(spec: CellSpec, knots: Sequence[int]) -> list[float]:
    """What c_kv, c_shared and the rises of g at each knot over the one before are multiplied by, in one step."""
    batch = spec.batch + spec.beside
    pairs = pairwise(knots)
    rises = [min(1.0, max(0.0, (batch - low) / (high - low))) for low, high in pairs]
    if batch > knots[-1] and rises:
        rises[-1] = (batch - knots[-2]) / (knots[-1] - knots[-2])
    return [spec.mean_kv_tokens, spec.shared_kv_tokens, 1.0, *rises]


def steps_of(cell: Cell) -> float:
    """Engine steps after the first token."""
    return (cell.spec.output - 1) / cell.acceptance_length


def noise(seconds: ArrayLike) -> np.ndarray:
    """Relative standard deviation of a time as measured."""
    return np.asarray(np.hypot(NOISE, JITTER_S / np.asarray(seconds, float)))


def _robust_nnls(rows: np.ndarray, sigma: np.ndarray, near_zero: Mapping[int, float]) -> list[float]:
    """Coefficients ≥ 0 for which rows · coefficients is near 1 ± sigma, by Huber's loss through reweighting; those of
    `near_zero` are expected within so much of 0."""
    scale = np.maximum(np.abs(rows).max(axis=0), 1e-300)  # columns differ by nine orders of magnitude
    scaled, weights = rows / scale, 1 / sigma**2
    prior = np.zeros((len(near_zero), rows.shape[1]))
    for row, (column, size) in enumerate(near_zero.items()):
        prior[row, column] = 1 / (size * scale[column])
    coefficients = np.zeros(rows.shape[1])
    for _ in range(20):
        root = np.sqrt(weights)
        coefficients, _ = nnls(np.vstack([scaled * root[:, None], prior]), np.append(root, np.zeros(len(prior))))
        off = np.abs(scaled @ coefficients - 1.0) / sigma
        weights = np.minimum(1.0, HUBER_AT / np.maximum(off, 1e-12)) / sigma**2
    return [float(value) for value in coefficients / scale]


def _stall(model: StepTime, cells: Sequence[Cell]) -> float:
    """From the mixed cells: how long those beside were held up, over how long the prompts are computed."""
    mixed = [cell for cell in cells if cell.held_up_s is not None and not cell.held_out]
    if not mixed:
        return 1.0
    held_up_s = sum((cell.held_up_s or 0.0) - _slowed_s(model, cell) for cell in mixed)
    computing_s = sum(_computing_s(model, cell.spec) for cell in mixed)
    return float(np.clip(held_up_s / max(computing_s, 1e-9), 0.0, STALL_AT_MOST))


def _slowed_s(model: StepTime, cell: Cell) -> float:
    """What the steps of a mixed cell cost those beside, because its branches decode with them."""
    alone, together = model.g_s([cell.spec.beside, cell.spec.beside + cell.spec.batch])
    return float(together - alone) * steps_of(cell)


def _prefill_s(model: StepTime, spec: CellSpec) -> float:
    coefficients = model.p0_s, model.p_branch_s, model.p_tok_s, model.p_cached_s, model.p_tok2_s
    return float(np.dot(prefill_terms(spec), coefficients))


def _computing_s(model: StepTime, spec: CellSpec) -> float:
    return model.p_tok_s * spec.computed_tokens + model.p_tok2_s * spec.attended_tokens2


def predict_ttft_s(model: StepTime, spec: CellSpec) -> float:
    """Prefill; beside running branches it also waits for their step."""
    waits = float(model.g_s(spec.beside)) if spec.beside else 0.0
    return _prefill_s(model, spec) + waits


def predict_tpot_s(model: StepTime, cell: Cell) -> float:
    """Of the median branch: distinct prompts are read one after the other, so it waits for half of the others'."""
    spec = cell.spec
    others_s = 0.0
    if not spec.shared and spec.batch > 1:
        others_s = _computing_s(model, spec) / 2 * (spec.batch - 1) / spec.batch / (spec.output - 1)
    return _token_s(model, cell) + others_s


def predict_latency_s(model: StepTime, cell: Cell) -> float:
    """End-to-end seconds of a cell: prefill, then output−1 tokens of the full batch, and the end."""
    return predict_ttft_s(model, cell.spec) + (cell.spec.output - 1) * _token_s(model, cell) + model.finish_s


def _token_s(model: StepTime, cell: Cell) -> float:
    spec = cell.spec
    step_s = model.step_of(spec.batch + spec.beside, spec.mean_kv_tokens, spec.shared_kv_tokens)
    return step_s / cell.acceptance_length


def log_errors(model: StepTime, cells: Sequence[Cell]) -> dict[str, np.ndarray]:
    """log(measured / predicted) per quantity, each (cells,)."""
    pairs = {
        "latency": [(cell.latency_s, predict_latency_s(model, cell)) for cell in cells],
        "ttft": [(cell.ttft_s, predict_ttft_s(model, cell.spec)) for cell in cells],
        "tpot": [(cell.tpot_s, predict_tpot_s(model, cell)) for cell in cells],
    }
    return {name: np.log([max(got, 1e-9) / max(want, 1e-9) for got, want in pair]) for name, pair in pairs.items()}
