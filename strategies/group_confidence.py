"""A trace's confidence over sliding windows of tokens (DeepConf, arXiv 2508.15260, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor


class GroupConfidence:
    """Reads a trace's token confidences as they come. A group's confidence is the mean of `window` successive ones."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._seen = 0
        self._total = 0.0
        self._in_window = 0.0
        self._lowest: float | None = None

    def read(self, confidence: Sequence[float]) -> None:
        """`confidence`: of all the trace's tokens so far; those read before are not read again."""
        for at in range(self._seen, len(confidence)):
            self._total += confidence[at]
            self._in_window += confidence[at]
            if at >= self._window:
                self._in_window -= confidence[at - self._window]
            if at >= self._window - 1:
                group = self._in_window / self._window
                self._lowest = group if self._lowest is None else min(group, self._lowest)
        self._seen = max(self._seen, len(confidence))

    @property
    def known(self) -> bool:
        return self._seen > 0

    @property
    def mean(self) -> float:
        """Of the whole trace; 0 before the first token."""
        return self._total / self._seen if self._seen else 0.0

    @property
    def lowest(self) -> float:
        """Of the full windows; of a trace shorter than one, its mean."""
        return self.mean if self._lowest is None else self._lowest

    def fell_below(self, threshold: float) -> bool:
        """Whether a full window did."""
        return self._lowest is not None and self._lowest < threshold


def percentile(values: Sequence[float], percent: float) -> float:
    """Of at least one value, interpolated linearly between ranks (numpy's default). `percent`: 0 to 100."""
    ordered = sorted(values)
    rank = (len(ordered) - 1) * percent / 100
    low, high = ordered[floor(rank)], ordered[ceil(rank)]
    return low + (high - low) * (rank - floor(rank))
