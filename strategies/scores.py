"""One number of an answer out of many: of its steps' rewards, of its tokens' confidences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import fsum, prod
from typing import Literal

Aggregate = Literal["last", "min", "product"]
Part = Literal["mean", "tail", "lowest"]


def aggregated(steps: Sequence[float], how: Aggregate) -> float:
    """Of the rewards of an answer's steps, 0 to 1, the answer's own (arXiv 2408.03314, appendix E). 0 without steps."""
    if not steps:
        return 0.0
    value = steps[-1] if how == "last" else min(steps) if how == "min" else prod(steps)
    return min(max(value, 0.0), 1.0)


def certainty(confidence: Sequence[float], part: Part = "mean", window: int = 2048) -> float:
    """A branch's confidence from that of its tokens (DeepConf, arXiv 2508.15260): the mean of all, of the last `window`
    tokens (`tail`), or of that window whose mean is lowest (`lowest`). 0 without tokens."""
    if not confidence:
        return 0.0
    if part == "tail":
        confidence = confidence[-window:]
    if part != "lowest" or len(confidence) <= window:
        return fsum(confidence) / len(confidence)
    total = lowest = fsum(confidence[:window])
    for at in range(window, len(confidence)):
        total += confidence[at] - confidence[at - window]
        lowest = min(lowest, total)
    return lowest / window


def relative(values: Mapping[int, float], floor: float) -> dict[int, float]:
    """The same values stretched over `floor` to 1, lowest to highest; all 1 where they are equal."""
    if not values:
        return {}
    least, span = min(values.values()), max(values.values()) - min(values.values())
    if span <= 0:
        return dict.fromkeys(values, 1.0)
    return {index: floor + (1 - floor) * (value - least) / span for index, value in values.items()}
