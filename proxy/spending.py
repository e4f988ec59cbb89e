"""What a backend's wall-clock time cost since the process began, at the prices that were then in force: so that idle
time has a price too, and an operator can check that everything adds up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from proxy.gpu_time import GpuSeconds, GpuTime
from proxy.ledgers import of_gpu_seconds
from proxy.prices import Pricing

KINDS = GpuSeconds._fields


class Spending:
    """Of one backend. `settle` prices the time since it was last called: the prober does at every look, so a change of
    price is felt within one look."""

    def __init__(self, gpu_time: GpuTime, pricing: Pricing, now: Callable[[], float]) -> None:
        self._gpu_time, self._pricing, self._now = gpu_time, pricing, now
        self._opened_at = self._settled_at = now()
        self._settled = GpuSeconds(0.0, 0.0, 0.0)  # also what passed between the opening of the other and of this
        self._usd = [0.0] * len(KINDS)
        self._unknown: str | None = None

    def settle(self) -> GpuSeconds:
        """All of the time so far."""
        spent, now = self._gpu_time.spent(), self._now()
        rate = self._pricing.at(self._settled_at)
        for index, (seconds, before) in enumerate(zip(spent, self._settled, strict=True)):
            self._usd[index] += rate.usd(seconds - before) or 0.0
        if rate.gpu_hour_usd is None:
            self._unknown = of_gpu_seconds(rate, 0.0).reason
        self._settled, self._settled_at = spent, now
        return spent

    def use(self, pricing: Pricing) -> None:
        """From now on, after a reload; the time so far has cost what it cost."""
        self.settle()
        self._pricing = pricing

    def told(self) -> dict[str, Any]:
        """For /v1/costs: per kind, and over all (`wall`), GPU-seconds and USD; null, with a reason, where a price was
        unknown for some of the time."""
        spent = self.settle()
        kinds = dict(zip(KINDS, zip(spent, self._usd, strict=True), strict=True))
        kinds["wall"] = spent.wall, sum(self._usd)
        return {"since": self._opened_at} | {
            kind: {
                "gpu_seconds": round(seconds, 6),
                "usd": None if self._unknown else usd,
                "reason": self._unknown,
            }
            for kind, (seconds, usd) in kinds.items()
        }
