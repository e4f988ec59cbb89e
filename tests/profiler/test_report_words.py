"""The report's sentences and its Markdown."""

import pytest
from report_builders import comparison, engine, point

from profiler.report import words
from profiler.report.choice import at, steps
from profiler.report.markdown import header, table
from profiler.report.points import Comparison

TP1, TP4 = engine("tp1"), engine("tp4", tensor_parallel_size=4, gpus=4.0)
FLEET = comparison(
    point(TP1, 1, 0.60, 900, gpu_s=0.001),
    point(TP1, 8, 0.75, 3000, gpu_s=0.004),
    point(TP4, 8, 0.75, 1500, gpu_s=0.006),
)


def said(fleet: Comparison, deadline_ms: float) -> tuple[str, str]:
    step = at(steps(fleet.points), deadline_ms)
    run, advice = words.answer(fleet, step)
    return words.fill(run, deadline_ms, step.choice.compute), words.fill(advice, deadline_ms, step.choice.compute)


def test_it_says_what_to_run_and_what_the_usual_advice_would_have_cost() -> None:
    run, advice = said(FLEET, 2000)

    assert run == (
        "For 2 s, run **self-consistency with 8 samples on tp4**: right 77.0 % of the time (at least 75.0 %), "
        "p95 1.50 s (p50 750 ms), $6 per 1,000 requests."
    )
    assert advice == (
        "The usual advice, the least compute for this accuracy, is **self-consistency with 8 samples on tp1**: "
        "**1.00 s too late** (p95 3.00 s), and it would have cost $4 per 1,000 requests, 33 % less."
    )


def test_it_says_where_the_usual_advice_is_right_and_where_it_is_in_time_too() -> None:
    cheap_rival = point(TP4, 8, 0.75, 1500, gpu_s=0.002)
    assert "the usual advice is right" in said(FLEET, 1000)[1]
    assert "in time too (p95 3.00 s)" in said(comparison(*FLEET.points, cheap_rival), 4000)[1]


def test_it_says_that_nothing_is_in_time_and_what_is_quickest() -> None:
    assert said(FLEET, 500)[0] == (
        "**Nothing** here finishes within 500 ms at p95: the quickest is one sampled answer on tp1, 900 ms."
    )


def test_an_assumed_accuracy_is_called_assumed() -> None:
    assert "assumed right 62.0 %" in said(comparison(point(TP1, 1, 0.6, 900, assumed=True)), 1000)[0]


def test_without_a_price_costs_are_gpu_seconds() -> None:
    assert (
        "1.00 s (p50 500 ms), 2.5 GPU s."
        in said(comparison(point(engine("x", gpu_hour_usd=None), 1, 0.6, 1000, gpu_s=2.5)), 2000)[0]
    )


def test_the_markdown_has_a_row_per_deadline_and_sets_a_miss_in_bold() -> None:
    lines = table(FLEET, [500, 1000, 2000]).splitlines()

    assert lines[0].startswith("| deadline | system-optimal plan | p50 | p95 | accuracy (at least) | US$ per 1,000 |")
    assert [line.count("|") for line in lines] == [len(header(FLEET)) + 1] * 5
    assert lines[2].startswith("| 500 ms | none in time |")
    assert lines[3].endswith("| none on tp1 | 900 ms | 62.0 % (60.0 %) | $1 | no |")
    assert lines[4] == (
        "| 2 s | self-consistency:8 on tp4 | 750 ms | 1.50 s | 77.0 % (75.0 %) | $6 "
        "| self-consistency:8 on tp1 | **3.00 s** | 77.0 % (75.0 %) | $4 | yes |"
    )


@pytest.mark.parametrize(
    ("ms", "text"), [(5, "5 ms"), (999.6, "1.00 s"), (1240, "1.24 s"), (75_300, "75.3 s"), (1_234_567, "1235 s")]
)
def test_durations_have_three_digits(ms: float, text: str) -> None:
    assert words.duration(ms) == text


@pytest.mark.parametrize(("ms", "text"), [(2000, "2 s"), (2500, "2.5 s"), (100, "100 ms"), (100_000, "100 s")])
def test_a_given_deadline_has_no_empty_digits(ms: float, text: str) -> None:
    assert words.deadline(ms) == text


@pytest.mark.parametrize(
    ("ratio", "text"), [(1.0, "the same"), (0.7, "30 % less"), (1.4, "40 % more"), (2.44, "2.4 times as much")]
)
def test_costs_are_compared_in_words(ratio: float, text: str) -> None:
    assert words.times(ratio) == text


def test_the_papers_cost_per_token_is_gpus_times_latency_over_tokens() -> None:
    assert point(TP4, 8, 0.7, 2000).paper_cost_per_token == pytest.approx(4 * 1.0 / 800)
