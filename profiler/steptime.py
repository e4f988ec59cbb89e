"""The step-time model: how long one step of an engine takes, and a prompt.

    step(B, K, S) = g(B) + c_kv·K + c_shared·S              seconds; B running branches, K tokens of KV cache of their
                                                            own, S of a prompt that they share, counted for each
    prefill(L, n) = p0 + p_branch·(n−1) + p_tok·computed    seconds until all of n branches that share a prompt of L
                       + p_cached·(n−1)·L + p_tok2·L²       tokens have a first token
    finish                                                  seconds from the last step until the client knows

g is piecewise linear between batch sizes that were measured and never falls: a GPU goes from waiting for its weights to
computing, and a speculating engine verifies more at once, which no formula foresees. A shared prompt is computed once,
and its uncached last block by each further branch; the rest is looked up, which costs the host something, too. While
prompts are computed, running branches are held up by `stall` × the time that this takes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

KV_BLOCK_TOKENS = 16  # vLLM caches prefixes in whole blocks; a repeated prompt recomputes at most one
Seconds = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class StepTime:
    """`batches`, `step_s`: the knots of g. The other coefficients in seconds, as above; `stall` is a ratio."""

    batches: tuple[float, ...]
    step_s: tuple[float, ...]
    c_kv_s: float
    p0_s: float
    p_tok_s: float
    p_tok2_s: float = 0.0
    p_branch_s: float = 0.0
    p_cached_s: float = 0.0
    c_shared_s: float = 0.0
    finish_s: float = 0.0
    stall: float = 1.0

    @classmethod
    def linear(cls, c0_s: float, c_tok_s: float, c_kv_s: float, p0_s: float, p_tok_s: float) -> StepTime:
        """g(B) = c0 + c_tok·B."""
        return cls((1.0, 2.0), (c0_s + c_tok_s, c0_s + 2 * c_tok_s), c_kv_s, p0_s, p_tok_s, c_shared_s=c_kv_s)

    @property
    def last_slope_s(self) -> float:
        """Seconds per step that one more branch costs beyond the last knot."""
        if len(self.batches) < 2:
            return 0.0
        return (self.step_s[-1] - self.step_s[-2]) / (self.batches[-1] - self.batches[-2])

    @property
    def mean_slope_s(self) -> float:
        """Seconds per step that one more branch costs, averaged over the measured batch sizes."""
        if len(self.batches) < 2:
            return 0.0
        return (self.step_s[-1] - self.step_s[0]) / (self.batches[-1] - self.batches[0])

    def g_s(self, batch: ArrayLike) -> Seconds:
        """g at each batch size; beyond the last knot, along the last segment."""
        at = np.asarray(batch, float)
        beyond = np.maximum(at - self.batches[-1], 0.0) * self.last_slope_s
        return np.asarray(np.interp(at, self.batches, self.step_s) + beyond, float)

    def step_of(self, batch: float, kv_tokens: float, shared_tokens: float = 0.0) -> float:
        """Seconds of one step of `batch` branches; KV tokens summed over branches."""
        return float(self.g_s(batch)) + self.c_kv_s * kv_tokens + self.c_shared_s * shared_tokens

    def prefill_s(self, prompt_tokens: ArrayLike, branches: ArrayLike = 1) -> Seconds:
        """Seconds to the first token of all of `branches` that share one prompt, on an idle engine."""
        prompt, further = np.asarray(prompt_tokens, float), np.asarray(branches, float) - 1
        host = self.p0_s + self.p_branch_s * further + self.p_cached_s * further * prompt
        return np.asarray(host + self.computing_s(prompt, branches), float)

    def computing_s(self, prompt_tokens: ArrayLike, branches: ArrayLike = 1) -> Seconds:
        """The part of `prefill_s` in which the engine computes: only this holds up what runs beside it."""
        prompt, further = np.asarray(prompt_tokens, float), np.asarray(branches, float) - 1
        computed = prompt + further * KV_BLOCK_TOKENS
        return np.asarray(self.p_tok_s * computed + self.p_tok2_s * prompt**2, float)

    def per_token(self, acceptance_length: float) -> StepTime:
        """The same engine told per generated token, each step giving a branch `acceptance_length` of them."""
        steps = tuple(seconds / acceptance_length for seconds in self.step_s)
        c_kv_s, c_shared_s = self.c_kv_s / acceptance_length, self.c_shared_s / acceptance_length
        return replace(self, step_s=steps, c_kv_s=c_kv_s, c_shared_s=c_shared_s)
