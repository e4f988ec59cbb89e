"""Who used the GPU: time of a backend shared equally among the branches that ran, so that shares sum to busy time.

attributed GPU-seconds of a branch = gpus · ∫ dt / B(t) over its life, B(t) being the branches then running on the
backend. The integral is kept as one running sum, so that a branch costs two subtractions however many others come and
go.
"""

from __future__ import annotations

from collections.abc import Callable


class GpuTime:
    """The busy-time ledger of one backend. `clock` gives seconds and never goes back."""

    def __init__(self, gpus: float, clock: Callable[[], float]) -> None:
        self._gpus = gpus
        self._clock = clock
        self._share_s = 0.0  # ∫ dt / B(t)
        self._busy_s = 0.0
        self._last = clock()
        self.running = 0
        self._peak = 0
        self.others = 0.0  # branches of other clients on this engine, from its metrics

    def enter(self) -> float:
        """A branch starts; give the mark to `leave`."""
        self._advance()
        self.running += 1
        if self.running > self._peak:
            self._peak = self.running
        return self._share_s

    def leave(self, mark: float) -> float:
        """The branch ends; its attributed GPU-seconds."""
        self._advance()
        self.running -= 1
        return (self._share_s - mark) * self._gpus

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

    def _advance(self) -> None:
        now = self._clock()
        if self.running:
            elapsed = now - self._last
            self._share_s += elapsed / (self.running + self.others)
            self._busy_s += elapsed
        self._last = now
