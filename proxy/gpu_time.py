"""Who used the GPU: time of a backend shared equally among the branches that ran, so that shares sum to busy time.

attributed GPU-seconds of a branch = gpus · ∫ dt / B(t) over its life, B(t) being the branches then running on the
backend. The integral is kept as one running sum, so that a branch costs two subtractions however many others come and
go.

Wall-clock GPU time = `attributed` to our branches + that of `others` beside them + `idle`, without a branch of ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class GpuSeconds(NamedTuple):
    """Where a backend's wall-clock time went since it was opened, in GPU-seconds. `attributed`: to our branches;
    `others`: to other clients' while ours ran; `idle`: nobody's of ours."""

    attributed: float
    others: float
    idle: float

    @property
    def wall(self) -> float:
        return self.attributed + self.others + self.idle


class GpuTime:
    """The busy-time ledger of one backend. `clock` gives seconds and never goes back."""

    def __init__(self, gpus: float, clock: Callable[[], float]) -> None:
        self._gpus = gpus
        self._clock = clock
        self._share_s = 0.0  # ∫ dt / B(t)
        self._ours_s = 0.0  # the parts of busy time that are our branches'
        self._busy_s = 0.0
        self._last = self._opened_at = clock()
        self.running = 0
        self._peak = 0
        self.others = 0.0  # branches of other clients on this engine, from its metrics

    def enter(self, branches: int = 1) -> float:
        """A branch starts, or a call that the engine runs as so many; give the mark to `leave`."""
        self._advance()
        self.running += branches
        if self.running > self._peak:
            self._peak = self.running
        return self._share_s

    def leave(self, mark: float, branches: int = 1) -> float:
        """It ends; its attributed GPU-seconds."""
        self._advance()
        self.running -= branches
        return (self._share_s - mark) * self._gpus * branches

    def take_peak(self) -> int:
        """The most of our branches that ran at once since the last call."""
        peak, self._peak = self._peak, self.running
        return peak

    def set_others(self, branches: float) -> None:
        """From now on, `branches` of other clients share the engine with ours."""
        self._advance()
        self.others = branches

    def busy_gpu_s(self) -> float:
        """GPU-seconds so far in which at least one of our branches ran."""
        self._advance()
        return self._busy_s * self._gpus

    def spent(self) -> GpuSeconds:
        """All of the time so far; what running branches have used is in it."""
        self._advance()
        idle_s = self._last - self._opened_at - self._busy_s
        return GpuSeconds(*(s * self._gpus for s in (self._ours_s, self._busy_s - self._ours_s, idle_s)))

    def _advance(self) -> None:
        now = self._clock()
        if self.running:
            elapsed = now - self._last
            share_s = elapsed / (self.running + self.others)
            self._share_s += share_s
            self._ours_s += share_s * self.running
            self._busy_s += elapsed
        self._last = now
