"""Tokens that an engine generated and nobody told: after the last chunk of a branch that was cancelled or broke off,
and of answers without a usage. They are estimated from the pace of the branch or its backend, and marked as estimates.
"""

from __future__ import annotations

from dataclasses import dataclass

GAIN = 0.1
FEW = 4  # tokens: too few to tell a pace by


@dataclass(slots=True)
class Pace:
    """How fast one branch lately got its tokens on one backend; None before the first. `per_token_s`: between tokens;
    `first_s`: until the first; `whole_per_token_s`: an answer's whole duration over its tokens."""

    per_token_s: float | None = None
    first_s: float | None = None
    whole_per_token_s: float | None = None

    def observe(self, first_s: float, tokens: int, decoding_s: float) -> None:
        """A stream: its first token came after `first_s`, the others within `decoding_s`."""
        if tokens > FEW and decoding_s > 0:
            self.per_token_s = _towards(self.per_token_s, decoding_s / (tokens - 1))
            self.first_s = _towards(self.first_s, first_s)

    def observe_whole(self, tokens: int, seconds: float) -> None:
        """An answer of `tokens`, all its choices together, that came in one piece."""
        if tokens > FEW and seconds > 0:
            self.whole_per_token_s = _towards(self.whole_per_token_s, seconds / tokens)

    def tokens_within(self, seconds: float) -> int | None:
        """What a branch has generated after so long, if nobody told; None where no branch has told the pace yet."""
        if self.per_token_s is not None and self.first_s is not None:
            return max(0, int((seconds - self.first_s) / self.per_token_s) + 1) if seconds >= self.first_s else 0
        return int(seconds / self.whole_per_token_s) if self.whole_per_token_s is not None else None


def _towards(before: float | None, now: float) -> float:
    return now if before is None else before + GAIN * (now - before)


def since_last_chunk(silent_s: float, per_token_s: float | None, interval: int) -> int:
    """Generated in the `silent_s` after a chunk: fewer than `interval`, for those would have been another chunk."""
    if per_token_s is None or per_token_s <= 0:
        return 0
    return min(interval - 1, int(silent_s / per_token_s))
