"""Predictions corrected by what happened: per backend, how much slower and how much less certain than its profile says.

A finished request tells where in its predicted distribution it fell. One that the deadline cut tells only "later than
this": leaving those out would keep just the quick ones and make every prediction look pessimistic, so they count with
the mean of what lies beyond the cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import erfc, exp, log, pi, sqrt
from statistics import NormalDist

QUANTILES = (0.5, 0.9, 0.95)
_NORMAL = NormalDist()
_BEYOND = 1.5  # standard scores are clipped here: the location of a skewed distribution's middle, not of its tail
_LOG_BIAS_LIMIT = 1.5
_SPREAD_LIMITS = (log(0.5), log(3.0))
_MIN_SIGMA = 0.02
PACE_SIGMA = 0.1  # of the logarithm of one request's time per token over the predicted one


@dataclass(frozen=True, slots=True)
class Forecast:
    """A plan's predicted latency at the median and at the `percentile` (0..1), in seconds, as corrected by `bias` and
    `spread` when it was made."""

    median_s: float
    tail_s: float
    percentile: float
    bias: float = 1.0
    spread: float = 1.0

    @property
    def sigma(self) -> float:
        """Of the logarithm of latency, read off the two quantiles."""
        return max(_MIN_SIGMA, log(max(self.tail_s / self.median_s, 1.0)) / _NORMAL.inv_cdf(self.percentile))

    def quantile_s(self, q: float) -> float:
        return self.median_s * exp(self.sigma * _NORMAL.inv_cdf(q))

    def corrected(self, bias: float, spread: float) -> Forecast:
        """As it would have been made with these."""
        median_s = self.median_s * bias / self.bias
        tail_s = median_s * (self.tail_s / self.median_s) ** (spread / self.spread)
        return Forecast(median_s, tail_s, self.percentile, bias, spread)


class Correction:
    """`bias` multiplies latencies; `spread` is the power to which tail over median is raised.

    The gain follows the tracking signal of Trigg and Leach (1967), the share of the errors that point one way: small
    while they cancel out, large when an engine has been restarted or throttled, so that a step shows at once.
    """

    GAIN = (0.02, 0.35)
    SMOOTHING = 0.15
    SPREAD_STEP = 0.15

    def __init__(self) -> None:
        self.bias = self.spread = 1.0  # the exponentials of the next two: every decision reads them of every backend
        self._log_bias = 0.0
        self._log_spread = 0.0
        self._error = 0.0  # smoothed standard score, and its size
        self._size = 1.0
        self.seen = 0
        self.within = dict.fromkeys(QUANTILES, 0)  # calibration: requests inside their predicted quantile …
        self.known = dict.fromkeys(QUANTILES, 0)  # … of those where it is known

    def observe(self, measured_s: float, forecast: Forecast, *, cut: bool = False, pace: float | None = None) -> None:
        """`forecast`: as the plan had it, corrections included. `cut`: it would have taken longer than `measured_s`.
        `pace`: measured over forecast time per token. Of plans that a deadline is to cut it teaches the bias alone: how
        long they took is the deadline's doing, and one that is far from its median when it is cut tells nothing else.

        Requests that ran together were all forecast before any of them ended. What the first ones taught is no error of
        the others: each is judged by today's correction, else many at once would correct the same thing many times.
        """
        if measured_s <= 0 or forecast.median_s <= 0:
            return
        self.seen += 1
        self._count(measured_s, forecast, cut)
        off = None if pace is None else log(pace * forecast.bias / self.bias)
        forecast = forecast.corrected(self.bias, self.spread)
        sigma = forecast.sigma
        score = log(measured_s / forecast.median_s) / sigma
        if off is None:
            beyond = _mean_beyond(score) if cut else score
            self._shift(max(-_BEYOND, min(_BEYOND, beyond)) * sigma, beyond)
        else:  # no draw of lengths is in it: a tenth off is much
            self._shift(max(-_BEYOND * sigma, min(_BEYOND * sigma, off)), off / PACE_SIGMA)
        self._widen(measured_s, score, forecast, cut)

    def _count(self, measured_s: float, forecast: Forecast, cut: bool) -> None:
        for q in QUANTILES:
            inside = measured_s <= forecast.quantile_s(q)
            if not (cut and inside):  # cut before the quantile: it may have ended on either side
                self.known[q] += 1
                self.within[q] += inside

    def _shift(self, error: float, score: float) -> None:
        clipped = max(-_BEYOND, min(_BEYOND, score))
        self._error += self.SMOOTHING * (clipped - self._error)
        self._size += self.SMOOTHING * (abs(clipped) - self._size)
        signal = abs(self._error) / max(self._size, 1e-9)
        low, high = self.GAIN
        gain = low + (high - low) * signal**3
        self._log_bias = _within(self._log_bias + gain * error, -_LOG_BIAS_LIMIT, _LOG_BIAS_LIMIT)
        self.bias = exp(self._log_bias)

    def _widen(self, measured_s: float, score: float, forecast: Forecast, cut: bool) -> None:
        """Steps so that a share of 1 − percentile ends beyond the tail (Robbins and Monro, 1951)."""
        allowed = 1 - forecast.percentile
        missed = float(measured_s > forecast.tail_s)
        if cut and not missed:  # the chance that it would have been
            missed = allowed / max(allowed, _beyond(score))
        step = self.SPREAD_STEP * (missed - allowed)
        self._log_spread = _within(self._log_spread + step, *_SPREAD_LIMITS)
        self.spread = exp(self._log_spread)


def _within(value: float, low: float, high: float) -> float:
    return max(low, min(high, value))


def _beyond(score: float) -> float:
    """P(Z > score) of a standard normal."""
    return 0.5 * erfc(score / sqrt(2))


def _mean_beyond(score: float) -> float:
    """E[Z | Z > score], the inverse Mills ratio; far out it is score + 1/score."""
    if score > 6:
        return score + 1 / score
    return exp(-score * score / 2) / sqrt(2 * pi) / _beyond(score)
