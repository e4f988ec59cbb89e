"""Equal steps of an engine in a row, and how long they take."""

from __future__ import annotations

from math import floor, sqrt

from profiler.simulation.clock import Alarm


class Stretch:
    """`steps` equal steps from `began_s`: with K own tokens in step i of K0 + growth·i, until the next event."""

    __slots__ = ("alarm", "base_s", "began_s", "growth_s", "steps")

    def __init__(self, began_s: float, steps: int, base_s: float, growth_s: float) -> None:
        self.began_s, self.steps, self.base_s, self.growth_s = began_s, steps, base_s, growth_s
        self.alarm: Alarm | None = None

    def end_s(self, steps: int) -> float:
        return self.began_s + steps * self.base_s + self.growth_s * (steps * (steps - 1) / 2)

    def steps_by(self, now_s: float) -> int:
        """Whole steps that have ended by then."""
        elapsed = now_s - self.began_s
        if elapsed <= 0:
            return 0
        half = self.growth_s / 2
        linear = self.base_s - half
        if half <= 1e-18:
            found = elapsed / max(self.base_s, 1e-12)
        else:
            found = (sqrt(linear * linear + 4 * half * elapsed) - linear) / (2 * half)
        return min(self.steps, floor(found + 1e-9))
