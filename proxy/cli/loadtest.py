"""`paretoproxy loadtest`."""

from __future__ import annotations

import asyncio
import datetime
import gc
import resource
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import click
import msgspec
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from profiler import files
from profiler.loadtest import LoadTestError, page, report_file, table
from profiler.loadtest.find_max import FoundMax, Probe, ProbeFailed, find_max
from profiler.loadtest.grade import grade
from profiler.loadtest.plots import Run
from profiler.loadtest.report_file import GeneratorLate, Report
from profiler.loadtest.result import Result
from profiler.loadtest.run import Ran, run
from profiler.loadtest.schedule import Planned, Schedule, schedule
from profiler.loadtest.workload import Workload, load
from proxy.load_callers import HttpCaller
from strategies.answers import MathVerifyPool


@click.command("loadtest")
@click.option("--url", help="The server's address, such as http://127.0.0.1:8000.")
@click.option("--workload", "workload_path", type=click.Path(path_type=Path), help="What to send: a YAML file.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the report; default: loadtest-DATE-TIME.")
@click.option("--model", help="Beats the workload's; default: the first that the server lists.")
@click.option("--api-key", help="Sent as a bearer token.")
@click.option("--find-max", "search", is_flag=True, help="Search the highest rate at which the SLOs are attained.")
@click.option("--probe-seconds", default=30.0, show_default=True, type=click.FloatRange(0.1), help="Each rate's time.")
@click.option("--attain", default=0.95, show_default=True, type=click.FloatRange(0.5, 1), help="What --find-max wants.")
@click.option(
    "--resolution", default=0.05, show_default=True, type=click.FloatRange(0.005, 1), help="Of --find-max, relative."
)
@click.option(
    "--compare", nargs=2, type=click.Path(path_type=Path), metavar="A B", help="Two reports' folders; sends nothing."
)
def command(
    url: str | None,
    workload_path: Path | None,
    out: Path | None,
    model: str | None,
    api_key: str | None,
    search: bool,
    probe_seconds: float,
    attain: float,
    resolution: float,
    compare: tuple[Path, Path] | None,
) -> None:
    """Send a workload, whose requests wait for nobody, and report how its SLOs were attained. Ctrl-C reports on what
    was measured so far."""
    if compare:
        _compare(compare, out)
        return
    if url is None or workload_path is None:
        raise click.UsageError("give --url and --workload, or --compare with two folders")
    workload = load(workload_path)
    folder = out or Path(f"loadtest-{datetime.datetime.now():%Y%m%d-%H%M%S}")
    _allow_many_sockets()
    job = _Job(url, workload, folder, model or workload.model or "", api_key)
    _run(job, search, probe_seconds, attain, resolution)


def _run(job: _Job, search: bool, probe_seconds: float, attain: float, resolution: float) -> None:
    """On uvloop: sends and reads take half as long there."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(job.search(probe_seconds, attain, resolution) if search else job.once())


def _allow_many_sockets() -> None:
    """Every request that waits for its answer has a connection: as many files as the system lets us."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _compare(folders: tuple[Path, Path], out: Path | None) -> None:
    labels = ["A", "B"] if folders[0].name == folders[1].name else [folder.name for folder in folders]
    runs = [Run(label, *report_file.read(folder)) for label, folder in zip(labels, folders, strict=True)]
    click.echo(page.comparison(runs))
    target = (out or Path("loadtest-compare")) / report_file.PAGE
    files.replace(target, page.render_comparison(runs).encode())
    click.echo(f"wrote {target}", err=True)


@dataclass(frozen=True, slots=True)
class _Measured:
    """One run, marked and priced."""

    schedule: Schedule
    ran: Ran
    report: Report


class _Job:
    """The runs against one server."""

    def __init__(self, url: str, workload: Workload, folder: Path, model: str, api_key: str | None) -> None:
        self._url, self._workload, self._folder = url, workload, folder
        self._model, self._api_key = model, api_key
        self._stop = asyncio.Event()

    async def once(self) -> None:
        caller = self._caller()
        try:
            await caller.find_model()
            measured = await self._measure(caller, self._workload)
        finally:
            await caller.aclose()
        self._tell(measured)

    async def search(self, probe_s: float, target: float, resolution: float) -> None:
        """The report is of the run at the highest rate that was sustained, else of the last."""
        arrivals = self._workload.arrivals
        phases = arrivals.as_phases()
        if not phases:
            raise LoadTestError("--find-max sets the rate itself and cannot replay a trace: give arrivals.rate")
        start = sum(phase.expected for phase in phases) / sum(phase.for_s for phase in phases)
        caller = self._caller()
        kept: dict[float, _Measured] = {}

        async def probe(rate: float) -> Probe:
            workload = self._workload.model_copy(update={"arrivals": arrivals.at_rate(rate, probe_s)})
            try:
                measured = kept[rate] = await self._measure(caller, workload)
            except GeneratorLate as error:
                raise ProbeFailed(str(error)) from None
            overall = measured.report.overall
            if self._stop.is_set() or overall.attainment is None:
                raise ProbeFailed("interrupted" if self._stop.is_set() else "every client was to leave")
            latency = overall.latency_ms
            return Probe(rate, overall.attainment, overall.goodput_per_s, None if latency is None else latency.p95)

        try:
            await caller.find_model()
            found = await find_max(probe, start=start, target=target, resolution=resolution, seen=_tell_probe)
        finally:
            await caller.aclose()
        if not kept:
            raise LoadTestError(found.limited_by or "no rate could be tried")
        rate = found.rate_per_s if found.rate_per_s is not None else list(kept)[-1]
        self._tell(kept[rate], found)

    def _caller(self) -> HttpCaller:
        return HttpCaller(self._url, model=self._model, api_key=self._api_key, timeout_s=self._workload.timeout_s)

    async def _measure(self, caller: HttpCaller, workload: Workload) -> _Measured:
        """Ctrl-C stops the sending, and what is measured is still marked and reported."""
        planned = schedule(workload)
        started_at = time.time()
        _leave_to_the_collector_what_is_new()
        loop = asyncio.get_running_loop()
        with _progress() as progress:
            watch = _Watch(progress, len(planned.requests))
            loop.add_signal_handler(signal.SIGINT, self._stop.set)
            try:
                ran = await run(planned, caller, watch=watch, stop=self._stop)
            finally:
                loop.remove_signal_handler(signal.SIGINT)
            await self._complete(ran.results, planned, caller, progress)
        report_file.write_rows(ran.results, self._folder)  # also of a run that is refused
        return _Measured(planned, ran, self._report(workload, planned, ran, caller.model, started_at))

    async def _complete(self, results: list[Result], planned: Schedule, caller: HttpCaller, progress: Progress) -> None:
        traces = progress.add_task("reading traces", total=len(results))
        await caller.read_traces(results, lambda: progress.advance(traces))
        progress.update(traces, completed=len(results))
        equivalence = MathVerifyPool()
        marks = progress.add_task("marking answers", total=len(results))
        try:
            await grade(results, planned.requests, equivalence, lambda: progress.advance(marks))
        finally:
            await equivalence.aclose()

    def _report(self, workload: Workload, planned: Schedule, ran: Ran, model: str, started_at: float) -> Report:
        return report_file.report(workload, planned, ran, url=self._url, model=model, started_at=started_at)

    def _tell(self, measured: _Measured, found: FoundMax | None = None) -> None:
        report = msgspec.structs.replace(measured.report, found_max=found)
        report_file.write_rows(measured.ran.results, self._folder)
        report_file.write(report, self._folder)
        text = page.render(report, measured.ran.results)
        files.replace(self._folder / report_file.PAGE, text.encode())
        _print(report)
        click.echo(f"wrote {self._folder}/{report_file.PAGE}, {report_file.SUMMARY} and {report_file.ROWS}")


def _leave_to_the_collector_what_is_new() -> None:
    """A full collection over a large schedule takes tens of milliseconds, in which nothing is sent."""
    gc.collect()
    gc.freeze()


def _progress() -> Progress:
    """Redrawn seldom: it is done in a thread that takes the interpreter from the sender."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), refresh_per_second=2)


class _Watch:
    """Counts what is under way, and shows it."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._bar = progress, progress.add_task("sending", total=total)
        self._in_flight = self._met = self._judged = self._failed = 0

    def sent(self, request: Planned) -> None:
        self._in_flight += 1

    def ended(self, result: Result) -> None:
        self._in_flight -= 1
        if not result.leaves:
            self._judged += 1
            self._met += result.met is True
        self._failed += result.outcome in ("error", "refused")
        attained = f"{self._met / self._judged:.0%} in time" if self._judged else "no answer yet"
        text = f"{self._in_flight} in flight, {attained}, {self._failed} failed or refused"
        self._progress.update(self._bar, advance=1, description=text)


def _tell_probe(one: Probe) -> None:
    click.echo(" · ".join(f"{name} {cell}" for name, cell in zip(table.PROBES, table.probe(one), strict=True)))


def _print(report: Report) -> None:
    header, *rows = table.grid(report.summaries)
    shown = Table()
    for name in header:
        shown.add_column(name, justify="left" if not name else "right")
    for row in rows:
        if set(row[1:]) != {table.BLANK}:
            shown.add_row(*row)
    console = Console()
    console.print(shown)
    for note in table.notes(report):
        console.print(note)
    if report.found_max is not None:
        console.print(table.found(report.found_max))
