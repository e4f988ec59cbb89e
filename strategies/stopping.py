"""Stop rules: pure functions of the vote so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import comb


@dataclass(frozen=True, slots=True)
class All:
    """Wait for every branch."""

    def decided(self, votes: Sequence[int], arrived: int, total: int) -> bool:
        return arrived >= total


@dataclass(frozen=True, slots=True)
class WindowAgrees:
    """Of branches that run in windows: stop once all of one gave the same answer, the window being over. What that is
    cannot be seen from the votes together: the strategy looks, and so does the replay of it."""

    def decided(self, votes: Sequence[int], arrived: int, total: int) -> bool:
        return arrived >= total


@dataclass(frozen=True, slots=True)
class FirstArrivals:
    """Stop once `m` branches have arrived."""

    m: int

    def decided(self, votes: Sequence[int], arrived: int, total: int) -> bool:
        return arrived >= self.m


@dataclass(frozen=True, slots=True)
class BetaLead:
    """Adaptive-Consistency's Beta rule (arXiv 2305.11860): stop when the leader beats the runner-up with `confidence`.

    With v1 and v2 votes for the two, the chance that the leader is the more frequent answer is 1 − I_½(v1+1,
    v2+1). It also
    stops when the branches still out could not overturn the lead.
    """

    confidence: float = 0.95

    def decided(self, votes: Sequence[int], arrived: int, total: int) -> bool:
        if arrived >= total:
            return True
        first, second = _top_two(votes)
        return first > second + (total - arrived) or beta_lead(first, second) >= self.confidence


def _top_two(votes: Sequence[int]) -> tuple[int, int]:
    first = second = 0
    for count in votes:
        if count > first:
            first, second = count, first
        elif count > second:
            second = count
    return first, second


@lru_cache(maxsize=4096)
def beta_lead(first: int, second: int) -> float:
    """1 − I_½(first+1, second+1): P(p > ½) for p ~ Beta(first+1, second+1), 0 to 1.

    For whole numbers I_x(a, b) = P(Binomial(a+b−1, x) ≥ a), so the sum is exact and needs no special function.
    """
    trials = first + second + 1
    return float(sum(comb(trials, k) for k in range(first + 1)) / 2**trials)
