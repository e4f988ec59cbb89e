"""The open loop, in virtual time: sends wait for nobody, and a stop keeps what was measured."""

import asyncio
from pathlib import Path

import pytest
from loadtest_parts import Answers, OneAtATime, result, workload
from virtual_time import run_virtually

from profiler.loadtest import LoadTestError
from profiler.loadtest.report_file import GeneratorLate, lateness, read, report, write, write_rows
from profiler.loadtest.result import Result
from profiler.loadtest.run import Ran, run
from profiler.loadtest.schedule import Planned, schedule


def test_every_request_is_sent_at_its_time_though_no_answer_has_come() -> None:
    planned = schedule(workload(arrivals={"process": "gamma", "cv": 3, "rate": 50, "for_s": 60}))
    caller = Answers(after_s=1000)
    ran = run_virtually(run(planned, caller))
    assert [at for at, _ in caller.asked] == pytest.approx([request.at_s for request in planned.requests], abs=1e-6)
    assert [one.sent_s for one in ran.results] == pytest.approx([one.at_s for one in ran.results], abs=1e-6)
    assert len(ran.results) == len(planned.requests) and not ran.interrupted
    assert ran.lasted_s == 60


def test_a_saturated_server_misses_more_the_longer_it_goes_on() -> None:
    ran = run_virtually(run(schedule(workload()), OneAtATime(after_s=0.2)))  # 10/s offered, 5/s served
    in_time = sorted(one.index for one in ran.results if one.met)
    assert in_time == list(range(9))  # the k-th waits for k+1 times 0.2 s since a tenth of k: (k + 2)/10 s


def test_a_stop_cancels_what_runs_and_reports_on_the_rest() -> None:
    caller = Answers(after_s=2)
    planned = schedule(workload())

    async def stopped() -> Ran:
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(5.05, stop.set)
        return await run(planned, caller, stop=stop)

    ran = run_virtually(stopped())
    assert len(ran.results) == 31  # sent by 3.05 s
    assert (ran.unfinished, ran.unsent) == (20, 49)
    assert caller.cancelled == 20
    assert ran.lasted_s == pytest.approx(5.05)
    told = report(workload(), planned, ran, url="u", model="m", started_at=0)
    assert told.interrupted and told.overall.sent == 31


def test_a_defect_of_the_caller_is_not_swallowed() -> None:
    class Broken:
        async def ask(self, request: Planned) -> Result:
            raise ZeroDivisionError

    with pytest.raises(BaseExceptionGroup) as raised:
        run_virtually(run(schedule(workload()), Broken()))
    assert raised.group_contains(ZeroDivisionError)


def test_the_watch_is_told_of_every_send_and_end() -> None:
    class Watch:
        def __init__(self) -> None:
            self.told: list[str] = []

        def sent(self, request: Planned) -> None:
            self.told.append(f"sent {request.index}")

        def ended(self, result: Result) -> None:
            self.told.append(f"ended {result.index}")

    watch = Watch()
    arrivals = {"process": "constant", "rate": 1, "for_s": 2}
    run_virtually(run(schedule(workload(arrivals=arrivals)), Answers(after_s=1.5), watch=watch))
    assert watch.told == ["sent 0", "sent 1", "ended 0", "ended 1"]


def test_a_late_generator_is_not_reported_and_told_what_to_change() -> None:
    late = [result(i, sent_s=i + (0.08 if i % 20 == 0 else 0.001)) for i in range(100)]  # five in a hundred
    with pytest.raises(GeneratorLate, match=r"p99 of its sends was 80\.0 ms late, at most 25 ms .* Lower the rate"):
        lateness(late, 25)
    assert lateness(late, 100).p99_ms == pytest.approx(80)


def test_one_late_send_in_two_hundred_is_no_reason_to_refuse() -> None:
    late = [result(i, sent_s=i + (0.5 if i == 7 else 0.001)) for i in range(200)]
    found = lateness(late, 25)
    assert (found.p99_ms, found.most_ms) == (pytest.approx(1), pytest.approx(500))


def test_a_loop_that_is_held_up_shows_as_lateness() -> None:
    class Blocks(Answers):
        async def ask(self, request: Planned) -> Result:
            loop = asyncio.get_running_loop()
            loop.now += 0.3  # type: ignore[attr-defined]  # as if this took 300 ms of computing
            return await super().ask(request)

    planned = schedule(workload())
    ran = run_virtually(run(planned, Blocks()))
    with pytest.raises(GeneratorLate):
        report(workload(), planned, ran, url="u", model="m", started_at=0)


def test_nothing_measured_is_an_error() -> None:
    with pytest.raises(LoadTestError, match="nothing was measured"):
        lateness([], 25)


def test_a_report_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    planned = schedule(workload())
    ran = run_virtually(run(planned, Answers()))
    told = report(workload(), planned, ran, url="http://x", model="m", started_at=12.0)
    write(told, tmp_path)
    write_rows(ran.results, tmp_path)
    again, rows = read(tmp_path)
    assert again == told
    assert [row.index for row in rows] == list(range(100))
    with pytest.raises(LoadTestError, match="no folder of a load test"):
        read(tmp_path / "elsewhere")
