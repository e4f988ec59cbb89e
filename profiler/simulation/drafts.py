"""How many tokens each step gives a branch of a speculating engine."""

from __future__ import annotations

from math import ceil, floor
from typing import Any


class Accepted:
    """Tokens of one branch after its prefill and k further steps: 1 + ⌊a·k + phase⌋, phase in [0, 1).

    Each step gives the integer below a or the one above, a on average, and which of them is random through the phase.
    Real drafts vary more from step to step. But a profile's step times are fitted with every branch at the mean, so the
    waiting for the unluckiest branch of a batch is in them already, and would be counted twice.
    """

    __slots__ = ("_per_step", "_phase")

    def __init__(self, acceptance_length: float, phase: float) -> None:
        self._per_step, self._phase = acceptance_length, phase

    def tokens_after(self, steps: int) -> int:
        return 1 + floor(self._per_step * steps + self._phase)

    def step_of(self, tokens: int) -> int:
        """The first step after which there are at least so many."""
        step = max(0, ceil((tokens - 1 - self._phase) / self._per_step))
        while self.tokens_after(step) < tokens:  # rounding
            step += 1
        return step


def draft_tokens(speculative: dict[str, Any] | None, acceptance_length: float) -> int:
    """Drafted a step, by vLLM's own speculative configuration; without one, enough for the acceptance length."""
    told = (speculative or {}).get("num_speculative_tokens")
    least = ceil(acceptance_length - 1)
    return max(int(told), least) if told is not None else 2 * least
