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
from profiler.steptime import KV_BLOCK_TOKENS

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
    """Arrays (backends, settings): seconds, and `busy_s`: seconds of the backend's time that the plan is charged."""

    median_s: np.ndarray
    tail_s: np.ndarray
    busy_s: np.ndarray
    ttft_s: np.ndarray
    tpot_s: np.ndarray


class LatencyTable:
    """All settings of one model on all its backends. Building takes milliseconds a backend, a prediction microseconds.

    `branches`, `accuracy_lower`, `mean_branch_steps`: (settings,). `idle_busy_s`: a plan's share of an idle backend,
    (backends, settings).
    """

    def __init__(
        self, profiles: Sequence[Profile], settings: Sequence[Setting], percentile: float, context_tokens: float
    ) -> None:
        steps = [profile.step_time for profile in profiles]
        column = (len(profiles), 1)
        self._c0 = np.array([step.c0_s for step in steps]).reshape(column)
        self._c_tok = np.array([step.c_tok_s for step in steps]).reshape(column)
        self._c_kv = np.array([step.c_kv_s for step in steps]).reshape(column)
        self._p0 = np.array([step.p0_s for step in steps]).reshape(column)
        self._p_tok = np.array([step.p_tok_s for step in steps]).reshape(column)
        self._per_other = self._c_tok + self._c_kv * context_tokens
        sigma = np.array([profile.residual_sigma for profile in profiles]).reshape(column)
        self._spread = np.exp(sigma * ndtri(percentile))
        self.branches = np.array([setting.branches for setting in settings], float)
        self.accuracy_lower = np.array([setting.accuracy_lower for setting in settings])
        self.mean_branch_steps = np.array([setting.branch_steps.mean() for setting in settings])
        self._shared_prompt = (self.branches - 1) * KV_BLOCK_TOKENS
        self._row = np.arange(len(profiles))
        # Per backend and load: median and tail latency and own share, of each setting. One array: one look-up.
        self._tabulated = np.empty((len(profiles), len(LOADS), 3, len(settings)))
        for b, profile in enumerate(profiles):
            for s, setting in enumerate(settings):
                self._fill(b, s, profile, setting, percentile)
        self.idle_busy_s = self._tabulated[:, 0, 2]

    def _fill(self, b: int, s: int, profile: Profile, setting: Setting, percentile: float) -> None:
        step, x = profile.step_time, setting.steps
        own = step.c_tok_s * setting.branch_steps + step.c_kv_s * setting.kv_steps
        others = LOADS[:, None] * float(self._per_other[b, 0])
        seconds = x * (step.c0_s + others) + own  # (loads, replays)
        # The residual spread as equally likely factors, paired with the replays in an order of their own.
        ranks = np.random.default_rng(len(x)).permutation(len(x))
        sigma = profile.residual_sigma * _extrapolation(profile, setting)
        noisy = seconds * np.exp(sigma * ndtri((ranks + 0.5) / len(x)))
        self._tabulated[b, :, :2, s] = np.quantile(noisy, (0.5, percentile), axis=1).T
        active = (setting.branch_steps / np.maximum(x, 1)).mean()
        self._tabulated[b, :, 2, s] = seconds.mean(axis=1) * active / (active + LOADS)

    def predict(
        self, loads: np.ndarray, prompt_tokens: float, bias: np.ndarray, spread: np.ndarray | None = None
    ) -> Prediction:
        """`loads`: branches of others now running; `bias`: measured over predicted latency lately; `spread`: the power
        to which tail over median is raised, by what was seen lately. Each (backends,)."""
        at = np.minimum(np.maximum(loads, 0.0), LOADS[-1])
        low = np.minimum(LOADS.searchsorted(at, side="right") - 1, len(LOADS) - 2)
        weight = ((at - LOADS[low]) / (LOADS[low + 1] - LOADS[low]))[:, None, None]
        factor, busy_with = bias[:, None], at[:, None]
        below = self._tabulated[self._row, low]
        tabulated = below + (self._tabulated[self._row, low + 1] - below) * weight  # (backends, 3, settings)
        others_s = busy_with * self._per_other
        prefill = self._p0 + self._p_tok * (prompt_tokens + self._shared_prompt) + others_s
        extra = prefill + self._c_kv * prompt_tokens * self.mean_branch_steps
        widened = self._spread * factor
        median_s = (tabulated[:, 0] + extra) * factor
        tail_s = tabulated[:, 1] * factor + extra * widened
        if spread is not None:
            tail_s = median_s * (tail_s / median_s) ** spread[:, None]
        return Prediction(
            median_s=median_s,
            tail_s=tail_s,
            busy_s=(tabulated[:, 2] + extra * (self.branches / (self.branches + busy_with))) * factor,
            ttft_s=prefill * widened,
            tpot_s=(self._c0 + self._c_tok * self.branches + others_s) * widened,
        )


def _extrapolation(profile: Profile, setting: Setting) -> float:
    """By how much the spread widens outside what was measured: once more per doubling beyond the largest batch."""
    return 1.0 + max(0.0, float(np.log2(setting.branches / profile.range.max_batch)))
