"""Prediction: what every setting would take and cost on one backend under a given load, from precomputed tables.

For a setting's stored replays (steps X, branch-steps Y, KV-steps Z) and `load` branches of others running all along,

    T = prefill + X·(c0 + (c_tok + c_kv·κ)·load) + c_tok·Y + c_kv·(Z + prompt·Y)       seconds,

κ being the others' mean context. T is linear in the load but its quantiles are not, so they are tabulated over a grid
of loads once and interpolated per request. Residual spread of the profile multiplies T as a lognormal factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import ndtri

from profiler.profile_file import Profile
from profiler.quality_file import Curve

LOADS = np.array([0.0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512])


@dataclass(frozen=True, slots=True)
class Setting:
    """A strategy with its parameters, and what is known of its accuracy. `prior`: assumed, not measured."""

    strategy: str
    params: dict[str, Any]
    branches: int
    greedy: bool
    accuracy: float
    accuracy_lower: float
    prior: bool
    steps: np.ndarray
    branch_steps: np.ndarray
    kv_steps: np.ndarray

    @classmethod
    def from_curve(cls, curve: Curve, branches: int, *, prior: bool = False) -> Setting:
        return cls(
            curve.strategy,
            curve.params,
            branches,
            curve.greedy,
            curve.accuracy,
            curve.accuracy_lower,
            prior,
            np.array(curve.steps, float),
            np.array(curve.branch_steps, float),
            np.array(curve.kv_steps, float),
        )

    def within(self, max_tokens: int | None) -> Setting:
        """The same setting when every branch is cut at `max_tokens`: a cut replay counts as wrong."""
        if max_tokens is None or self.steps.max() <= max_tokens:
            return self
        kept = float((self.steps <= max_tokens).mean())
        return replace(
            self,
            accuracy=self.accuracy * kept,
            accuracy_lower=self.accuracy_lower * kept,
            steps=np.minimum(self.steps, max_tokens),
            branch_steps=np.minimum(self.branch_steps, self.branches * max_tokens),
            kv_steps=np.minimum(self.kv_steps, self.branches * max_tokens**2 / 2),
        )

    def renamed(self, strategy: str) -> Setting:
        """The same work under another strategy's name: an estimate for one that was never measured."""
        return replace(self, strategy=strategy, prior=True)

    def with_branches(self, branches: int, params: dict[str, Any]) -> Setting:
        """An estimate for a number of branches that was not measured: the nearest setting's, work in proportion."""
        factor = branches / self.branches
        return replace(
            self,
            params=params,
            branches=branches,
            branch_steps=self.branch_steps * factor,
            kv_steps=self.kv_steps * factor,
        )


@dataclass(frozen=True, slots=True)
class Prediction:
    """Arrays over settings, (settings,): seconds, and GPU-seconds of the attributed ledger per GPU."""

    median_s: np.ndarray
    tail_s: np.ndarray
    busy_s: np.ndarray
    ttft_s: np.ndarray
    tpot_s: np.ndarray


class LatencyTable:
    """All settings of one model on one backend. Building costs milliseconds, a prediction tens of microseconds."""

    def __init__(self, profile: Profile, settings: Sequence[Setting], percentile: float, context_tokens: float) -> None:
        step = profile.step_time
        self._step = step
        self._context_tokens = context_tokens
        self.branches = np.array([setting.branches for setting in settings], float)
        self.mean_branch_steps = np.array([setting.branch_steps.mean() for setting in settings])
        self._spread = float(np.exp(profile.residual_sigma * ndtri(percentile)))
        shape = (len(settings), len(LOADS))
        self._median, self._tail, self._busy = np.empty(shape), np.empty(shape), np.empty(shape)
        for row, setting in enumerate(settings):
            self._fill(row, setting, profile.residual_sigma, percentile)

    def _fill(self, row: int, setting: Setting, sigma: float, percentile: float) -> None:
        step, x = self._step, setting.steps
        own = step.c_tok_s * setting.branch_steps + step.c_kv_s * setting.kv_steps
        others = np.maximum(LOADS[:, None], 0) * (step.c_tok_s + step.c_kv_s * self._context_tokens)
        seconds = x * (step.c0_s + others) + own  # (loads, replays)
        # The residual spread as equally likely factors, paired with the replays in an order of their own.
        ranks = np.random.default_rng(len(x)).permutation(len(x))
        noisy = seconds * np.exp(sigma * ndtri((ranks + 0.5) / len(x)))
        self._median[row] = np.quantile(noisy, 0.5, axis=1)
        self._tail[row] = np.quantile(noisy, percentile, axis=1)
        active = (setting.branch_steps / np.maximum(x, 1)).mean()
        self._busy[row] = seconds.mean(axis=1) * active / (active + LOADS)

    def predict(self, load: float, prompt_tokens: float, bias: float = 1.0) -> Prediction:
        """`load`: branches of others now running; `bias`: measured over predicted latency, lately."""
        step = self._step
        at = float(np.clip(load, 0, LOADS[-1]))
        low = min(int(np.searchsorted(LOADS, at, side="right")) - 1, len(LOADS) - 2)
        weight = (at - LOADS[low]) / (LOADS[low + 1] - LOADS[low])
        others_s = at * (step.c_tok_s + step.c_kv_s * self._context_tokens)
        prefill = step.p0_s + step.p_tok_s * (prompt_tokens + (self.branches - 1) * 16) + others_s
        extra = prefill + step.c_kv_s * prompt_tokens * self.mean_branch_steps
        median = (self._median[:, low] * (1 - weight) + self._median[:, low + 1] * weight + extra) * bias
        tail = self._tail[:, low] * (1 - weight) + self._tail[:, low + 1] * weight
        busy = self._busy[:, low] * (1 - weight) + self._busy[:, low + 1] * weight
        tpot = step.c0_s + step.c_tok_s * self.branches + others_s
        return Prediction(
            median_s=median,
            tail_s=(tail + extra * self._spread) * bias,
            busy_s=(busy + extra * self.branches / (self.branches + at)) * bias,
            ttft_s=prefill * self._spread * bias,
            tpot_s=tpot * self._spread * bias,
        )
