"""The search for the highest rate, on systems whose capacity is known."""

import asyncio

import pytest
from loadtest_parts import OneAtATime, workload
from virtual_time import run_virtually

from profiler.loadtest.find_max import FoundMax, Probe, ProbeFailed, find_max
from profiler.loadtest.report_file import report
from profiler.loadtest.run import run
from profiler.loadtest.schedule import schedule
from profiler.loadtest.statistics import share


def search(capacity: float, start: float, resolution: float = 0.05, broken_above: float = 1e9) -> FoundMax:
    """A system that attains everything up to its capacity, and beyond it as much as it has capacity."""

    async def probe(rate: float) -> Probe:
        if rate > broken_above:
            raise ProbeFailed("the generator was late")
        attained = share(round(1000 * min(capacity / rate, 1)), 1000)
        assert attained is not None
        return Probe(rate, attained, min(rate, capacity))

    return asyncio.run(find_max(probe, start=start, resolution=resolution))


@pytest.mark.parametrize("start", [0.5, 10.0, 37.0, 300.0])
def test_the_capacity_is_found_from_below_and_from_above(start: float) -> None:
    found = search(capacity=36.0, start=start)
    most = 36 / 0.9495  # attainment of 95% in thousands
    assert found.rate_per_s is not None and found.too_much_per_s is not None
    assert found.rate_per_s <= most < found.too_much_per_s
    assert found.too_much_per_s / found.rate_per_s <= 1.05
    assert all(one.sustained == (one.rate_per_s <= most) for one in found.probes)


def test_first_it_doubles_then_it_bisects() -> None:
    rates = [one.rate_per_s for one in search(capacity=10, start=2, resolution=0.3).probes]
    assert rates == pytest.approx([2, 4, 8, 16, 128**0.5, 8 * 2**0.25])


def test_a_finer_resolution_takes_more_probes() -> None:
    assert len(search(10, 2, 0.01).probes) > len(search(10, 2, 0.2).probes)


def test_a_generator_at_its_end_is_told_apart_from_a_server_at_its_end() -> None:
    found = search(capacity=1e6, start=10, broken_above=100)
    assert (found.rate_per_s, found.too_much_per_s, found.limited_by) == (80, None, "the generator was late")


def test_a_server_that_attains_nothing_has_no_rate() -> None:
    assert search(capacity=0, start=10).rate_per_s is None


def test_a_queue_is_found_through_the_whole_load_tester() -> None:
    """One server at 8 requests/s; constant arrivals and a deadline of a second: sustained up to 8/s, and a little
    beyond, while the queue of a probe is short."""

    async def probe(rate: float) -> Probe:
        load = workload(arrivals={"process": "constant", "rate": rate, "for_s": 120})
        planned = schedule(load)
        told = report(load, planned, await run(planned, OneAtATime(1 / 8)), url="u", model="m", started_at=0)
        assert told.overall.attainment is not None
        return Probe(rate, told.overall.attainment, told.overall.goodput_per_s)

    found = run_virtually(find_max(probe, start=1, resolution=0.02))
    assert found.rate_per_s == pytest.approx(8, rel=0.02)
