"""When requests come: a renewal process in a time that runs as fast as the rate of the moment.

Gaps of mean 1 are drawn in operational time Λ(t) = ∫ rate dt and mapped back through its inverse (Çinlar, *Introduction
to Stochastic Processes*, 1975, §4.7), so ramps and steps keep the process: Poisson stays exactly Poisson, and bursts
keep their coefficient of variation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Literal

import numpy as np

Process = Literal["constant", "poisson", "gamma"]


@dataclass(frozen=True, slots=True)
class Phase:
    """`for_s` seconds at `rate` requests/s, or going linearly from `rate` to `to_rate`."""

    for_s: float
    rate: float
    to_rate: float

    @property
    def expected(self) -> float:
        """Requests, on average."""
        return self.for_s * (self.rate + self.to_rate) / 2

    def when(self, expected: float) -> float:
        """Seconds since its start at which `expected` requests have come on average."""
        if expected <= 0:
            return 0.0
        slope = (self.to_rate - self.rate) / self.for_s
        # The root of rate·t + slope·t²/2 = expected, written so that nothing cancels where slope is near 0.
        return 2 * expected / (self.rate + math.sqrt(max(self.rate**2 + 2 * slope * expected, 0.0)))


def arrival_times(
    phases: Sequence[Phase], process: Process, rng: np.random.Generator, cv: float = 1.0
) -> Iterator[float]:
    """Seconds since the start, in order. `cv`: standard deviation over mean of the gaps, for "gamma" (above 1: bursts).
    The first request of "constant" comes at once."""
    ahead = _operational(process, rng, cv)
    expected, began_s, before = next(ahead), 0.0, 0.0
    for phase in phases:
        while expected < before + phase.expected:
            yield began_s + phase.when(expected - before)
            expected = next(ahead)
        before += phase.expected
        began_s += phase.for_s


def _operational(process: Process, rng: np.random.Generator, cv: float) -> Iterator[float]:
    """Arrivals at rate 1."""
    if process == "constant":
        yield from map(float, count())
    at = 0.0
    while True:
        at += rng.exponential() if process == "poisson" else rng.gamma(1 / cv**2, cv**2)
        yield at
