"""Sums over the branches that decode, kept as they come and go, so that a step's length is a formula."""

from __future__ import annotations

from profiler.simulation.kv_memory import Prompt
from profiler.steptime import StepTime


class Decoding:
    """`per_step`: tokens that a step gives a branch, on average. `base` of a branch: the engine's step at which it had
    its first token, so that after `steps` it has generated 1 + per_step·(steps − base)."""

    def __init__(self, step: StepTime, per_step: float, *, sharing: bool) -> None:
        self._step, self.per_step, self._sharing = step, per_step, sharing
        self._g_s: dict[int, float] = {}
        self.branches = 0
        self._bases = 0
        self._own = 0  # tokens of prompts that no other branch has
        self._shared = 0  # the others', counted for each branch
        self._sharers: dict[tuple[int, int], int] = {}

    def add(self, prompt: Prompt, base: int) -> None:
        self.branches += 1
        self._bases += base
        others = self._sharers.get(prompt.key, 0)
        self._sharers[prompt.key] = others + 1
        if not others or not self._shares(prompt):
            self._own += prompt.tokens
            return
        self._shared += prompt.tokens
        if others == 1:  # the first one is no longer alone
            self._own -= prompt.tokens
            self._shared += prompt.tokens

    def remove(self, prompt: Prompt, base: int) -> None:
        self.branches -= 1
        self._bases -= base
        others = self._sharers[prompt.key] - 1
        if others:
            self._sharers[prompt.key] = others
        else:
            del self._sharers[prompt.key]
        if not others or not self._shares(prompt):
            self._own -= prompt.tokens
            return
        self._shared -= prompt.tokens
        if others == 1:
            self._shared -= prompt.tokens
            self._own += prompt.tokens

    def generated(self, steps: int) -> float:
        """Tokens in all, after the engine's step of that number."""
        return self.branches + self.per_step * (self.branches * steps - self._bases)

    def step_s(self, steps: int) -> tuple[float, float]:
        """Seconds of the next step, and by how much each further one takes longer."""
        step = self._step
        kv = self._own + self.generated(steps)
        seconds = self._g(self.branches) + step.c_kv_s * kv + step.c_shared_s * self._shared
        return seconds, step.c_kv_s * self.per_step * self.branches

    def _g(self, branches: int) -> float:
        found = self._g_s.get(branches)
        if found is None:
            found = self._g_s[branches] = float(self._step.g_s(branches))
        return found

    def _shares(self, prompt: Prompt) -> bool:
        return self._sharing and bool(prompt.blocks)
