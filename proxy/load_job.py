"""The runs of a load test against one target, from the schedule to the files of the report."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from profiler import files
from profiler.loadtest import LoadTestError, page, report_file
from profiler.loadtest.find_max import FoundMax, Probe, ProbeFailed, find_max
from profiler.loadtest.grade import grade
from profiler.loadtest.report_file import Report
from profiler.loadtest.run import Ran, Watch
from profiler.loadtest.schedule import Schedule, schedule
from profiler.loadtest.workload import Workload
from proxy.load_target import Target
from strategies.answers import MathVerifyPool


class Display(Protocol):
    """Where progress is shown."""

    def watch(self, total: int) -> AbstractContextManager[Watch]:
        """While so many requests are sent."""
        ...

    def steps(self, what: str, total: int) -> AbstractContextManager[Callable[[], None]]:
        """While so many things are done; the callable is called after each."""
        ...

    def probed(self, probe: Probe) -> None: ...


@dataclass(frozen=True, slots=True)
class _Measured:
    """One run, marked and priced."""

    ran: Ran
    report: Report


class LoadJob:
    """`stop`: set it, and what was measured so far is reported. The files are written to `folder`."""

    def __init__(
        self,
        target: Target,
        workload: Workload,
        folder: Path,
        display: Display,
    ) -> None:
        self.stop = asyncio.Event()
        self._target, self._workload, self._folder, self._display = target, workload, folder, display

    async def once(self) -> Report:
        """Raises LoadTestError, TaskError."""
        async with self._target:
            return self._write(await self._measure(self._workload))

    async def search(self, probe_s: float, target: float, resolution: float) -> Report:
        """Of the run at the highest rate that was sustained, else of the last one. Raises LoadTestError, TaskError."""
        arrivals = self._workload.arrivals
        phases = arrivals.as_phases()
        if not phases:
            raise LoadTestError("--find-max sets the rate itself and cannot replay a trace: give arrivals.rate")
        start = sum(phase.expected for phase in phases) / sum(phase.for_s for phase in phases)
        kept: dict[float, _Measured] = {}

        async def probe(rate: float) -> Probe:
            workload = self._workload.model_copy(update={"arrivals": arrivals.at_rate(rate, probe_s)})
            try:
                measured = kept[rate] = await self._measure(workload)
            except LoadTestError as error:  # late, or stopped before its first answer: the other probes are still told
                raise ProbeFailed(str(error)) from None
            return self._probe(rate, measured.report)

        async with self._target:
            found = await find_max(probe, start=start, target=target, resolution=resolution, seen=self._display.probed)
        if not kept:
            raise LoadTestError(found.limited_by or "no rate could be tried")
        return self._write(kept[found.rate_per_s if found.rate_per_s is not None else list(kept)[-1]], found)

    def _probe(self, rate: float, report: Report) -> Probe:
        overall = report.overall
        if self.stop.is_set():
            raise ProbeFailed("interrupted")
        if overall.attainment is None:
            raise ProbeFailed("every client was to leave")
        latency = overall.latency_ms
        return Probe(rate, overall.attainment, overall.goodput_per_s, None if latency is None else latency.p95)

    async def _measure(self, workload: Workload) -> _Measured:
        """What is measured is marked and kept, also where it is not reported."""
        planned = schedule(workload)
        started_at = time.time()
        gc.collect()
        gc.freeze()  # a full collection over a large schedule takes tens of milliseconds, in which nothing is sent
        with self._display.watch(len(planned.requests)) as watch:
            ran = await self._target.send(planned, watch, self.stop)
        await self._complete(ran, planned)
        report_file.write_rows(ran.results, self._folder)
        target = self._target
        report = report_file.report(
            workload, planned, ran, url=target.url, model=target.model, started_at=started_at, notes=target.notes
        )
        return _Measured(ran, report)

    async def _complete(self, ran: Ran, planned: Schedule) -> None:
        with self._display.steps("reading traces", len(ran.results)) as step:
            await self._target.complete(ran.results, step)
        equivalence = MathVerifyPool()
        try:
            with self._display.steps("marking answers", len(ran.results)) as step:
                await grade(ran.results, planned.requests, equivalence, step)
        finally:
            await equivalence.aclose()

    def _write(self, measured: _Measured, found: FoundMax | None = None) -> Report:
        report = msgspec.structs.replace(measured.report, found_max=found)
        report_file.write_rows(measured.ran.results, self._folder)
        report_file.write(report, self._folder)
        files.replace(self._folder / report_file.PAGE, page.render(report, measured.ran.results).encode())
        return report
