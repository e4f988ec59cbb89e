"""The rows of a latency table: every distinct engine of a model at once, since most replicas are alike.

With `load` branches of others beside a plan's own, the time of one replay is that of its steps, each with as many
branches as then still run (`prediction.py` has the formula). All arrays here are (engines, …, loads).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtri

from profiler.profile_file import Profile

if TYPE_CHECKING:
    from profiler.prediction import Setting, Traffic

LOADS = np.array([0.0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512])
MEDIAN, TAIL, SHARE, DELAY, TPOT, WAIT = range(6)


def kind(profile: Profile) -> Hashable:
    """Equal for profiles that predict the same."""
    of_steps = profile.step_time, profile.acceptance_length, profile.residual_sigma
    return *of_steps, profile.range.max_batch, profile.max_num_seqs


class LatencyRows:
    """What the rows of all settings have in common on these engines. `most`: branches of the largest wave."""

    def __init__(self, profiles: Sequence[Profile], traffic: Traffic, percentile: float, most: int) -> None:
        steps = [profile.token_time for profile in profiles]
        self._steps, self._percentile = steps, percentile
        self._sigma = np.array([profile.residual_sigma for profile in profiles])
        self._max_batch = np.array([profile.range.max_batch for profile in profiles], float)
        self._c_kv_s = np.array([step.c_kv_s for step in steps])
        running = np.arange(1.0, most + 1)[:, None]
        self._shared = running / (running + LOADS)
        self._g_s = np.array([step.g_s(running + LOADS) for step in steps])  # (engines, branches, loads)
        self._alone_s = np.array([np.where(LOADS > 0, step.g_s(np.maximum(LOADS, 1)), 0.0) for step in steps])
        self._reads_s = (self._c_kv_s * traffic.context_tokens)[:, None] * LOADS
        # Of others that run all along, one ends now and then and the next one's prompt is computed.
        stalls_s = [step.stall * float(step.computing_s(traffic.prompt_tokens)) for step in steps]
        prompts_s = np.array(stalls_s)[:, None] / max(traffic.output_tokens, 1.0) * LOADS
        self._others_s = self._reads_s + prompts_s
        self._step_s = self._g_s + self._others_s[:, None]

    def of(self, setting: Setting) -> np.ndarray:
        """(engines, loads, 6), columns MEDIAN … WAIT."""
        steps_at = setting.steps_at
        most = steps_at.shape[1]
        step_s, shared = self._step_s[:, :most], self._shared[:most]
        kv_reads = sum(np.maximum(wave**2 - 1, 0).sum(axis=1) for wave in setting.waves) / 2  # (replays,)
        own_kv_s = np.multiply.outer(self._c_kv_s, kv_reads)
        seconds = steps_at @ step_s + own_kv_s[:, :, None]  # (engines, replays, loads)
        if setting.later:  # each further wave has a prompt of its own, mostly cached
            seconds = seconds + self._further_s(setting)[:, :, None]
        noisy = seconds * self._noise(setting)[:, :, None] + setting.aside_s
        mean_steps_at = steps_at.mean(axis=0)
        work = mean_steps_at * np.arange(1.0, most + 1)
        own_kv_share = (work @ shared / max(work.sum(), 1e-9)) * own_kv_s.mean(axis=1)[:, None]
        delayed_s = mean_steps_at @ (self._g_s[:, :most] - self._alone_s[:, None]) + own_kv_s.mean(axis=1)[:, None]
        table = np.empty((len(self._steps), len(LOADS), 6))
        table[..., MEDIAN], table[..., TAIL] = np.quantile(noisy, (0.5, self._percentile), axis=1)
        table[..., SHARE] = mean_steps_at @ (shared * step_s) + own_kv_share + setting.aside_gpu_s
        table[..., DELAY] = np.where(LOADS > 0, delayed_s, 0.0)
        table[..., TPOT] = self._step_s[:, most - 1]
        table[..., WAIT] = self._alone_s + np.where(LOADS > 0, self._reads_s, 0.0)
        return table

    def _further_s(self, setting: Setting) -> np.ndarray:
        """Seconds of the prompts of all waves but the first, (engines, replays)."""
        started = [(wave[:, -1] > 0, wave.shape[1]) for wave in setting.later]
        return np.array([sum(was * float(step.prefill_s(0.0, n)) for was, n in started) for step in self._steps])

    def _noise(self, setting: Setting) -> np.ndarray:
        """The residual spread as equally likely factors, paired with the replays in an order of their own; (engines,
        replays). Beyond the largest batch that was measured it widens, by once more per doubling."""
        replays = len(setting.lengths)
        ranks = np.random.default_rng(replays).permutation(replays)
        beyond = np.maximum(np.log2(setting.branches / self._max_batch), 0.0)
        return np.exp(np.multiply.outer(self._sigma * (1.0 + beyond), ndtri((ranks + 0.5) / replays)))
