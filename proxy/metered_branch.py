"""What is metered of a branch, wherever its tokens come from: its share of the GPU, its place in its backend's line,
and its pace. No branch can forget these: they are kept here and nowhere else."""

from __future__ import annotations

from typing import Literal

from proxy.backend import Backend
from proxy.unseen_tokens import FEW
from strategies.base import WHOLE, Generation

BranchState = Literal["running", "completed", "truncated", "cancelled", "failed"]
FINISHED = ("completed", "truncated")


class MeteredBranch:
    """Times are in the clock's seconds. `due_s`: what orders it among those that wait; `choices`: as how many branches
    the engine runs it."""

    # Class-level defaults, not slots: sixteen of these are made per request, and most never change most of these.
    state: BranchState = "running"
    generation: Generation = WHOLE
    completion_tokens = 0
    first_token_at: float | None = None
    ended_at: float | None = None
    gpu_seconds = 0.0
    _first_tokens = 0  # in the first chunk that had any
    _last_token_at = 0.0
    _waits_until: float | None = None  # in the backend's line

    def __init__(self, index: int, backend: Backend, now: float, due_s: float | None, choices: int = 1) -> None:
        self.index = index
        self.backend = backend
        self.started_at = now
        self._mark = backend.gpu_time.enter(choices)
        if due_s is not None and backend.line is not None:
            backend.line.join(due_s)
            self._waits_until = due_s

    @property
    def spoke(self) -> bool:
        """It has said something."""
        return self.completion_tokens > 0

    @property
    def pace_s(self) -> float | None:
        """Seconds per token after the first chunk; None where too few came, or all at once, to tell."""
        decoded = self.completion_tokens - self._first_tokens
        if self.first_token_at is None or decoded < FEW:
            return None
        return (self._last_token_at - self.first_token_at) / decoded or None

    def _begins(self, now: float) -> None:
        """Its first tokens are here: it waits no more."""
        self.first_token_at, self._first_tokens = now, self.completion_tokens
        self._seated()

    def _leave(self, state: BranchState, now: float, choices: int = 1) -> None:
        """It is over."""
        self.state, self.ended_at = state, now
        self.gpu_seconds = self.backend.gpu_time.leave(self._mark, choices)
        self._seated()

    def _seated(self) -> None:
        if self._waits_until is not None and self.backend.line is not None:
            self.backend.line.leave(self._waits_until)
            self._waits_until = None
