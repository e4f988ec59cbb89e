"""What the benchmark's report says for given samples: ratios within a round, medians over rounds, bars."""

import pytest
from bench_load import Figures
from bench_report import FAN, STREAM, Samples, ns, render


def rate(per_second: float, p50_us: float = 100.0, errors: int = 0, stalls: int = 0) -> Figures:
    return Figures(per_second, p50_us, p99_us=2 * p50_us, errors=errors, stalls=stalls)


def line_with(report: str, text: str) -> str:
    return next(line for line in report.splitlines() if text in line)


def test_ratios_are_taken_within_a_round_so_that_a_slow_round_does_not_count() -> None:
    samples = Samples()
    for nginx, proxy in ((50_000, 15_000), (10_000, 3_000), (40_000, 12_000)):
        samples.add(ns(16), "nginx", rate(nginx))
        samples.add(ns(16), "paretoproxy", rate(proxy))
    assert samples.rate_x_nginx(ns(16), "paretoproxy") == pytest.approx(0.30)


def test_added_latency_is_what_a_stack_puts_on_top_of_a_direct_call() -> None:
    samples = Samples()
    for stack, p50_us in (("direct", 20.0), ("nginx", 120.0), ("paretoproxy", 220.0)):
        samples.add(ns(1), stack, rate(1_000, p50_us))
    assert samples.added_p50_us("paretoproxy") == 200.0
    assert samples.added_x_nginx("paretoproxy") == 2.0


@pytest.mark.parametrize(
    ("proxy_rate", "verdict"),
    [(9_900, "0.198 (bar >= 0.2, goal 0.25): MISSED"), (10_000, ": met"), (12_500, ": met, goal too")],
)
def test_a_bar_is_met_from_its_limit_on(proxy_rate: float, verdict: str) -> None:
    samples = Samples()
    samples.add(ns(16), "nginx", rate(50_000))
    samples.add(ns(16), "paretoproxy", rate(proxy_rate))
    assert line_with(render(samples, []), "rate at 16").endswith(verdict)


def test_too_much_added_latency_misses_its_bar() -> None:
    samples = Samples()
    for stack, p50_us in (("direct", 20.0), ("nginx", 120.0), ("paretoproxy", 271.0)):
        samples.add(ns(1), stack, rate(1_000, p50_us))
    assert line_with(render(samples, []), "added p50 at 1 connection").endswith("MISSED")


def test_errors_and_stalls_stand_beside_the_verdict() -> None:
    samples = Samples()
    samples.add(STREAM, "nginx", rate(90_000))
    samples.add(STREAM, "paretoproxy", rate(50_000, errors=2, stalls=7))
    assert line_with(render(samples, []), "chunks with 256 streams").endswith("met, with 2 errors and 7 stalls")


def test_a_part_that_did_not_run_is_neither_met_nor_missed() -> None:
    samples = Samples()
    samples.add(FAN, "paretoproxy", rate(1_500))
    report = render(samples, [])
    assert line_with(report, "client requests/s").endswith("met")
    assert line_with(report, "rate at 64").endswith("not measured")


def test_other_work_on_the_servers_core_is_told() -> None:
    samples = Samples()
    samples.add(ns(64), "nginx", Figures(20_000, 100, 200, foreign=0.04))
    samples.add(ns(64), "paretoproxy", Figures(4_000, 100, 200, foreign=0.45))
    assert "not quiet in part ns64: other processes used 45% of the server's core" in render(samples, [])


def test_a_machine_that_was_busy_otherwise_is_told() -> None:
    samples = Samples()
    samples.add(STREAM, "direct", rate(70_000))
    samples.add(STREAM, "direct", rate(9_000))
    assert "not quiet in part stream: direct ran at 9,000 to 70,000/s" in render(samples, [])
