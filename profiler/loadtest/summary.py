"""The results of a run, summed up per class, overall and over time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from profiler.loadtest.result import Result
from profiler.loadtest.statistics import Quantiles, Share, quantiles, share

OVERALL = "all"


class Cost(msgspec.Struct, frozen=True):
    """US dollars in one ledger. `known`: requests whose cost is told. `per_correct`: what all requests with a known
    cost took, wrong and cut ones included, per correct answer; None without labels, or without a correct answer."""

    known: int
    total_usd: float
    per_request_usd: float
    per_correct_usd: float | None


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """One class, or all. Requests whose clients would leave are `leavers`: counted as sent, cancelled, in goodput and
    in cost, but in no share and no quantile, because the slow ones among them are those that were cut.

    `attainment`: met of all others, refusals and errors included; `attainment_admitted`: of those not refused.
    `accuracy`: of labelled answers; `correct_of_asked`: of labelled requests, where no answer is wrong.
    `calibration`: answers within their predicted latency, which is the proxy's `slo.percentile` (0.95 unless told).
    """

    name: str
    slo: dict[str, Any]
    sent: int
    leavers: int
    answered: int
    refused: int
    errors: int
    cancelled: int
    rate_per_s: float
    goodput_per_s: float
    attainment: Share | None
    attainment_admitted: Share | None
    accuracy: Share | None
    correct_of_asked: Share | None
    degraded: Share | None
    calibration: Share | None
    latency_ms: Quantiles | None
    ttft_ms: Quantiles | None
    attributed: Cost | None
    exclusive: Cost | None
    mean_completion_tokens: float | None
    strategies: dict[str, int]
    samples: dict[str, int]
    backends: dict[str, int]
    error_kinds: dict[str, int]


class Bucket(msgspec.Struct, frozen=True):
    """Requests planned within `from_s` and `to_s`."""

    from_s: float
    to_s: float
    offered_per_s: float
    goodput_per_s: float
    attainment: Share | None
    p95_latency_ms: float | None


def summarize(name: str, slo: Mapping[str, Any], results: Sequence[Result], lasted_s: float, labelled: bool) -> Summary:
    """`labelled`: whether the questions have gold answers."""
    judged = [result for result in results if not result.leaves]
    answered = [result for result in judged if result.outcome == "answered"]
    outcomes = Counter(result.outcome for result in results)
    count_met = sum(result.met is True for result in judged)
    marked = [result.correct for result in answered if result.correct is not None]
    told = [result.slo_status for result in answered if result.slo_status is not None]
    predicted = [(one.latency_ms, one.predicted_ms) for one in answered if one.predicted_ms is not None]
    tokens = [result.completion_tokens for result in answered if result.completion_tokens is not None]
    return Summary(
        name=name,
        slo=dict(slo),
        sent=len(results),
        leavers=len(results) - len(judged),
        answered=outcomes["answered"],
        refused=outcomes["refused"],
        errors=outcomes["error"],
        cancelled=outcomes["cancelled"],
        rate_per_s=len(results) / lasted_s,
        goodput_per_s=sum(result.met is True for result in results) / lasted_s,
        attainment=share(count_met, len(judged)),
        attainment_admitted=share(count_met, sum(result.outcome != "refused" for result in judged)),
        accuracy=share(sum(marked), len(marked)),
        correct_of_asked=share(sum(marked), len(judged)) if labelled else None,
        degraded=share(told.count("degraded"), len(told)),
        calibration=share(sum((latency or math.inf) <= limit for latency, limit in predicted), len(predicted)),
        latency_ms=quantiles(result.latency_ms for result in answered),
        ttft_ms=quantiles(result.ttft_ms for result in answered),
        attributed=_cost(results, lambda result: result.cost_usd),
        exclusive=_cost(results, lambda result: result.exclusive_usd),
        mean_completion_tokens=sum(tokens) / len(tokens) if tokens else None,
        strategies=_chosen(result.strategy for result in results),
        samples=_chosen(None if result.n is None else str(result.n) for result in results),
        backends=_chosen(result.backend for result in results),
        error_kinds=_chosen(result.error for result in results if result.outcome in ("error", "refused")),
    )


def _cost(results: Sequence[Result], ledger: Callable[[Result], float | None]) -> Cost | None:
    costs = [(cost, result) for result in results if (cost := ledger(result)) is not None]
    if not costs:
        return None
    total = math.fsum(cost for cost, _ in costs)
    correct = sum(result.correct is True for _, result in costs)
    return Cost(len(costs), total, total / len(costs), total / correct if correct else None)


def _chosen(values: Iterable[str | None]) -> dict[str, int]:
    return dict(Counter(value for value in values if value is not None).most_common())


def buckets(results: Sequence[Result], lasted_s: float, wanted: int = 30) -> list[Bucket]:
    """About `wanted` equal parts of the run, of a round length; the last may be shorter."""
    width = _round_width(lasted_s / wanted)
    count = max(math.ceil(lasted_s / width - 1e-9), 1)
    parts: list[list[Result]] = [[] for _ in range(count)]
    for result in results:
        parts[min(int(result.at_s / width), count - 1)].append(result)
    return [_bucket(part, index * width, min((index + 1) * width, lasted_s)) for index, part in enumerate(parts)]


def _bucket(part: Sequence[Result], from_s: float, to_s: float) -> Bucket:
    judged = [result for result in part if not result.leaves]
    latency = quantiles(result.latency_ms for result in judged if result.outcome == "answered")
    return Bucket(
        from_s,
        to_s,
        len(part) / (to_s - from_s),
        sum(result.met is True for result in part) / (to_s - from_s),
        share(sum(result.met is True for result in judged), len(judged)),
        None if latency is None else latency.p95,
    )


def _round_width(least: float) -> float:
    """The next of 1, 2 and 5 times a power of ten."""
    power: float = 10.0 ** math.floor(math.log10(least))
    return next(power * step for step in (1, 2, 5, 10) if power * step >= least * (1 - 1e-9))
