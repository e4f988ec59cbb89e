"""The step-time model: how long one engine step takes for a batch, and its fit.

    t_decode = c0 + c_tok·B + c_kv·K          seconds; B running branches, K tokens of KV cache read
    t_prefill = p0 + p_tok·L                  seconds until the first token of L new prompt tokens, on an idle engine

c0 is the weight read plus host work, c_tok the compute of one more branch, c_kv the attention read. A branch's first
token costs one prefill; n branches with a shared prompt cost one prefill of the prompt and (n−1) of the uncached last
block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

# When a first chunk is seen depends on who gets the CPU, and a late one makes the others look quick: what a whole
# request took is what tells. An engine that hiccups in one cell must not bend the fit of the others.
TTFT_WEIGHT = 0.1
HUBER_AT = 0.05
KV_BLOCK_TOKENS = 16  # vLLM caches prefixes in whole blocks; a repeated prompt recomputes at most one


@dataclass(frozen=True, slots=True)
class StepTime:
    """Coefficients in seconds (per step, per branch, per KV token, per prompt token)."""

    c0_s: float
    c_tok_s: float
    c_kv_s: float
    p0_s: float
    p_tok_s: float

    def decode_s(self, batch: float, kv_tokens: float) -> float:
        return self.c0_s + self.c_tok_s * batch + self.c_kv_s * kv_tokens

    def prefill_s(self, prompt_tokens: float, branches: int = 1) -> float:
        """Time to the first token of all of `branches` that share one prompt, on an idle engine."""
        return self.p0_s + self.p_tok_s * (prompt_tokens + (branches - 1) * KV_BLOCK_TOKENS)


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement: `batch` branches together, each `prompt` tokens in and `output` out, distinct or shared prompt.

    `ttft_s`: median over branches of the time to the first token; `tpot_s`: median time per later token;
    `latency_s`: time until the last branch ended.
    """

    batch: int
    prompt: int
    output: int
    shared: bool
    ttft_s: float
    tpot_s: float
    latency_s: float

    @property
    def mean_kv_tokens(self) -> float:
        return self.batch * (self.prompt + self.output / 2)


class FitError(ValueError):
    """Too few cells to fit."""


def fit(cells: Sequence[Cell]) -> tuple[StepTime, np.ndarray]:
    """Robust least squares on relative errors with coefficients ≥ 0, and the log residuals of latency, (cells,).

    Raises FitError for fewer than four cells or two batch sizes, or a time that is not above 0.
    """
    if len(cells) < 4 or len({cell.batch for cell in cells}) < 2:
        raise FitError("the fit needs at least four cells and two batch sizes")
    if any(min(cell.ttft_s, cell.tpot_s, cell.latency_s) <= 0 for cell in cells):
        raise FitError("every cell needs times above 0; measure at least two output tokens")
    prefill = np.array([[1.0, _prefilled_tokens(cell), 0.0, 0.0, 0.0] for cell in cells])
    decode = np.array([[0.0, 0.0, 1.0, cell.batch, cell.mean_kv_tokens] for cell in cells])
    after_first = np.array([cell.output - 1 for cell in cells])[:, None]
    latency = np.array([cell.latency_s for cell in cells])
    ttft = np.array([cell.ttft_s for cell in cells])
    rows = np.vstack([(prefill + decode * after_first) / latency[:, None], prefill / ttft[:, None]])
    p0, p_tok, c0, c_tok, c_kv = _robust_nnls(rows, np.repeat([1.0, TTFT_WEIGHT], len(cells)))
    model = StepTime(c0, c_tok, c_kv, p0, p_tok)
    predicted = np.array([predict_cell_s(model, cell) for cell in cells])
    return model, np.log(latency / predicted)


def _robust_nnls(rows: np.ndarray, weights: np.ndarray) -> list[float]:
    """Coefficients ≥ 0 for which rows · coefficients is near 1, by Huber's loss through reweighting."""
    ones, w = np.ones(len(rows)), weights
    for _ in range(20):
        root = np.sqrt(w)
        coefficients, _ = nnls(rows * root[:, None], root)
        off = np.abs(rows @ coefficients - ones)
        w = weights * np.minimum(1.0, HUBER_AT / np.maximum(off, 1e-12))
    return [float(value) for value in coefficients]


def predict_cell_s(model: StepTime, cell: Cell) -> float:
    """End-to-end seconds of a cell: prefill, then output−1 steps of the full batch."""
    prefill = model.p0_s + model.p_tok_s * _prefilled_tokens(cell)
    return prefill + (cell.output - 1) * model.decode_s(cell.batch, cell.mean_kv_tokens)


def _prefilled_tokens(cell: Cell) -> float:
    if cell.shared:
        return cell.prompt + (cell.batch - 1) * KV_BLOCK_TOKENS
    return cell.batch * cell.prompt
