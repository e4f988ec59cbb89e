"""How much slower or faster than its profile an engine runs just now."""

from __future__ import annotations

from math import exp, floor
from random import Random

# The profile's residual is one number a request. Engines have phases of seconds (clocks, neighbours, the host): one
# factor holds that long, so that most requests see one or two of them, and branches that run together the same.
EPOCH_S = 10.0
_REMEMBERED = 4


class Pace:
    """A factor for every duration: lognormal with median 1, drawn anew for each epoch from seed and time alone, so
    that it does not depend on what was asked. `slow`: by a fault."""

    def __init__(self, sigma: float, seed: int) -> None:
        self._sigma, self._seed = sigma, seed
        self._known: dict[int, float] = {}
        self.slow = 1.0

    def at(self, now_s: float) -> float:
        return self.slow if self._sigma == 0 else self.slow * self._factor(floor(now_s / EPOCH_S))

    def constant_until(self, now_s: float) -> float:
        """The end of the current epoch."""
        return float("inf") if self._sigma == 0 else (floor(now_s / EPOCH_S) + 1) * EPOCH_S

    def _factor(self, epoch: int) -> float:
        found = self._known.get(epoch)
        if found is None:
            found = exp(self._sigma * Random(f"{self._seed} {epoch}").gauss(0.0, 1.0))
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[epoch] = found
        return found
