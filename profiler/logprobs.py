"""How sure a model was of an answer, as two numbers per sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

WINDOW = 16


def confidence(logprobs: Sequence[float]) -> tuple[float, float] | None:
    """The mean log probability of the chosen tokens, and the lowest mean over WINDOW tokens in a row (all of them where
    there are fewer): the weakest stretch tells more than the mean (DeepConf, arXiv 2508.15260). None for no tokens."""
    if not logprobs:
        return None
    values = np.asarray(logprobs, float)
    window = min(WINDOW, len(values))
    sums = np.concatenate(([0.0], np.cumsum(values)))
    lowest = (sums[window:] - sums[:-window]).min() / window
    return round(float(values.mean()), 4), round(float(lowest), 4)
