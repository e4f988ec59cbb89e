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
    """Least squares on relative errors with coefficients ≥ 0, and the log residuals of whole-request latency, (cells,).

    Raises FitError for fewer than four cells or two batch sizes, or a time that is not above 0.
    """
    if len(cells) < 4 or len({cell.batch for cell in cells}) < 2:
        raise FitError("the fit needs at least four cells and two batch sizes")
    if any(min(cell.ttft_s, cell.tpot_s, cell.latency_s) <= 0 for cell in cells):
        raise FitError("every cell needs times above 0; measure at least two output tokens")
    tpot = np.array([cell.tpot_s for cell in cells])
    rows = np.array([[1.0, cell.batch, cell.mean_kv_tokens] for cell in cells])
    (c0, c_tok, c_kv), _ = nnls(rows / tpot[:, None], np.ones(len(cells)))
    ttft = np.array([cell.ttft_s for cell in cells])
    prompt_rows = np.array([[1.0, _prefilled_tokens(cell)] for cell in cells])
    (p0, p_tok), _ = nnls(prompt_rows / ttft[:, None], np.ones(len(cells)))
    model = StepTime(float(c0), float(c_tok), float(c_kv), float(p0), float(p_tok))
    predicted = np.array([predict_cell_s(model, cell) for cell in cells])
    measured = np.array([cell.latency_s for cell in cells])
    return model, np.log(measured / predicted)


def predict_cell_s(model: StepTime, cell: Cell) -> float:
    """End-to-end seconds of a cell: prefill, then output−1 steps of the full batch."""
    prefill = model.p0_s + model.p_tok_s * _prefilled_tokens(cell)
    return prefill + (cell.output - 1) * model.decode_s(cell.batch, cell.mean_kv_tokens)


def _prefilled_tokens(cell: Cell) -> float:
    if cell.shared:
        return cell.prompt + (cell.batch - 1) * KV_BLOCK_TOKENS
    return cell.batch * cell.prompt
