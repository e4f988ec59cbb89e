"""What a run's figures mean, on results made by hand."""

import asyncio

import pytest
from loadtest_parts import result, workload

from profiler.loadtest.grade import grade
from profiler.loadtest.result import Result, met
from profiler.loadtest.schedule import schedule
from profiler.loadtest.statistics import quantile, quantiles, share
from profiler.loadtest.summary import Summary, buckets, summarize
from profiler.loadtest.workload import SloConfig


def summary(*results: Result, lasted_s: float = 10.0, labelled: bool = False) -> Summary:
    return summarize("one", {"latency_ms": 1000}, results, lasted_s, labelled)


@pytest.mark.parametrize(
    ("count", "total", "lower", "upper"),
    [  # Newcombe, Statistics in Medicine 17 (1998), table I; the last by symmetry
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),
    ],
)
def test_wilson_interval(count: int, total: int, lower: float, upper: float) -> None:
    found = share(count, total)
    assert found is not None
    assert found.value == count / total
    assert (found.lower, found.upper) == (pytest.approx(lower, abs=6e-5), pytest.approx(upper, abs=6e-5))


def test_a_share_of_none_is_unknown() -> None:
    assert share(0, 0) is None


def test_quantiles_are_values_that_were_seen() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [quantile(values, q) for q in (0.5, 0.9, 0.95, 0.99, 1.0)] == [50, 90, 95, 99, 100]
    found = quantiles([None, 7.0, 1.0, None])
    assert found is not None and (found.p50, found.p99, found.mean) == (1.0, 7.0, 4.0)
    assert quantiles([None]) is None


def test_attainment_counts_refusals_and_errors_as_missed() -> None:
    found = summary(
        *(result(i) for i in range(6)),
        result(6, met=False, latency_ms=2000.0),
        result(7, met=False, outcome="error", status=502, error="502 upstream_failed", latency_ms=3.0),
        result(8, met=False, outcome="refused", status=503, error="503 slo_infeasible", latency_ms=3.0),
        result(9, met=False, outcome="refused", status=503, error="503 slo_infeasible", latency_ms=3.0),
    )
    assert found.attainment is not None and (found.attainment.count, found.attainment.total) == (6, 10)
    assert found.attainment_admitted is not None and found.attainment_admitted.total == 8
    assert (found.answered, found.refused, found.errors, found.cancelled) == (7, 2, 1, 0)
    assert found.goodput_per_s == 0.6 and found.rate_per_s == 1.0
    assert found.latency_ms is not None and found.latency_ms.p99 == 2000 and found.latency_ms.p50 == 100
    assert found.error_kinds == {"503 slo_infeasible": 2, "502 upstream_failed": 1}


def test_clients_that_would_leave_bias_no_share_and_no_quantile() -> None:
    """Those among them that got their answer are the quick ones."""
    found = summary(
        result(0),
        result(1, met=False, latency_ms=5000.0),
        result(2, leaves=True, latency_ms=1.0),
        result(3, leaves=True, outcome="cancelled", met=None, latency_ms=None, cost_usd=0.5),
    )
    assert found.attainment is not None and (found.attainment.count, found.attainment.total) == (1, 2)
    assert found.latency_ms is not None and found.latency_ms.p50 == 100
    assert (found.sent, found.leavers, found.answered, found.cancelled) == (4, 2, 3, 1)
    assert found.goodput_per_s == pytest.approx(0.2)
    assert found.attributed is not None and found.attributed.total_usd == 0.5


def test_accuracy_and_the_cost_of_a_right_answer() -> None:
    found = summary(
        result(0, correct=True, cost_usd=1.0, exclusive_usd=4.0),
        result(1, correct=True, cost_usd=2.0, exclusive_usd=4.0),
        result(2, correct=False, cost_usd=3.0, exclusive_usd=4.0),
        result(3, outcome="error", met=False, latency_ms=None),
        labelled=True,
    )
    assert found.accuracy is not None and found.accuracy.value == pytest.approx(2 / 3)
    assert found.correct_of_asked is not None and found.correct_of_asked.value == 0.5
    assert found.attributed is not None and found.exclusive is not None
    assert (found.attributed.known, found.attributed.per_request_usd, found.attributed.per_correct_usd) == (3, 2, 3)
    assert (found.exclusive.per_request_usd, found.exclusive.per_correct_usd) == (4, 6)


def test_what_the_proxy_tells_is_counted() -> None:
    plan = {"strategy": "self-consistency", "n": 4, "backend": "a"}
    found = summary(
        result(0, predicted_ms=150.0, slo_status="met", **plan),
        result(1, predicted_ms=90.0, slo_status="degraded", **plan),
        result(2, predicted_ms=120.0, slo_status="met", strategy="none", n=1, backend="b"),
        result(3),
    )
    assert found.calibration is not None and (found.calibration.count, found.calibration.total) == (2, 3)
    assert found.degraded is not None and (found.degraded.count, found.degraded.total) == (1, 3)
    assert found.strategies == {"self-consistency": 2, "none": 1}
    assert (found.samples, found.backends) == ({"4": 2, "1": 1}, {"a": 2, "b": 1})


def test_a_server_that_tells_nothing_leaves_blanks() -> None:
    found = summary(result(0), result(1))
    blanks = (found.calibration, found.degraded, found.accuracy, found.attributed, found.exclusive, found.ttft_ms)
    assert blanks == (None,) * 6
    assert found.strategies == {} and found.correct_of_asked is None


@pytest.mark.parametrize(
    ("slo", "members", "expected"),
    [
        ({}, {}, True),
        ({"latency_ms": 100}, {}, True),
        ({"latency_ms": 99}, {}, False),
        ({"ttft_ms": 50}, {"ttft_ms": 60.0}, False),
        ({"ttft_ms": 50}, {}, True),  # not streamed: nobody saw the first token
        ({"tpot_ms": 9}, {"ttft_ms": 10.0, "completion_tokens": 11}, True),
        ({"tpot_ms": 8}, {"ttft_ms": 10.0, "completion_tokens": 11}, False),
        ({"cost_usd": 0.1}, {"cost_usd": 0.2}, False),
        ({"cost_usd": 0.1}, {}, True),
        ({}, {"outcome": "error"}, False),
        ({}, {"outcome": "refused"}, False),
        ({}, {"outcome": "cancelled"}, None),
    ],
)
def test_met(slo: dict[str, float], members: dict[str, object], expected: bool | None) -> None:
    assert met(result(met=None, **members), SloConfig.model_validate(slo)) is expected


def test_buckets_are_of_a_round_length_and_lose_nobody() -> None:
    found = buckets([result(i, at_s=i * 0.5, met=i < 100) for i in range(200)], 100.0, wanted=9)
    assert [(one.from_s, one.to_s) for one in found] == [(20 * k, 20 * k + 20) for k in range(5)]
    assert [one.offered_per_s for one in found] == [2.0] * 5
    assert [one.attainment and one.attainment.value for one in found] == [1, 1, 0.5, 0, 0]
    assert [one.goodput_per_s for one in found] == [2, 2, 1, 0, 0]


def test_the_last_bucket_may_be_shorter() -> None:
    found = buckets([result(i, at_s=i / 10) for i in range(25)], 2.5, wanted=3)
    assert [one.to_s for one in found] == [1, 2, 2.5]
    assert [one.offered_per_s for one in found] == [10, 10, 10]


def test_answers_are_marked_against_their_questions_and_their_texts_dropped() -> None:
    asked = schedule(workload(prompt_tokens=None, task="tinymath-held-out", arrivals={"rate": 5, "for_s": 5}))
    questions = [request.question for request in asked.requests]
    right, wrong, lost = (result(i, text=f"so \\boxed{{{questions[i].answer if i == 0 else 'x'}}}") for i in range(3))
    lost.outcome = "error"
    asyncio.run(grade([right, wrong, lost], asked.requests))
    assert (right.correct, wrong.correct, lost.correct) == (True, False, None)
    assert (right.text, wrong.text, lost.text) == (None, None, None)
