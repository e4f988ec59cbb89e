"""`paretoproxy loadtest`."""

from __future__ import annotations

import asyncio
import datetime
import resource
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from profiler import files
from profiler.loadtest import page, report_file, table
from profiler.loadtest.find_max import Probe
from profiler.loadtest.plots import Run
from profiler.loadtest.report_file import Report
from profiler.loadtest.result import Result
from profiler.loadtest.schedule import Planned
from profiler.loadtest.workload import Workload, load
from proxy.config import load as load_config
from proxy.load_job import LoadJob
from proxy.load_target import Server
from proxy.simulated_fleet import Simulation
from proxy.virtual.target import Virtual


@click.command("loadtest")
@click.option("--url", help="The server's address, such as http://127.0.0.1:8000.")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    help="Instead of a server: the fleet's YAML file, simulated in virtual time.",
)
@click.option("--workload", "workload_path", type=click.Path(path_type=Path), help="What to send: a YAML file.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the report; default: loadtest-DATE-TIME.")
@click.option("--noise/--no-noise", default=None, help="With --config: vary each engine's pace, as by default, or not.")
@click.option("--model", help="Beats the workload's; default: the first that the server lists, or the file.")
@click.option("--api-key", help="Sent as a bearer token.")
@click.option("--find-max", is_flag=True, help="Search the highest rate at which the SLOs are attained.")
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
    config_path: Path | None,
    workload_path: Path | None,
    out: Path | None,
    noise: bool | None,
    model: str | None,
    api_key: str | None,
    find_max: bool,
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
    if (url is None) == (config_path is None) or workload_path is None:
        raise click.UsageError("give --workload with either --url or --config, or --compare with two folders")
    if config_path is not None and api_key is not None:
        raise click.UsageError("--api-key is for a server: there is none with --config")
    if url is not None and noise is not None:
        raise click.UsageError("--noise is for the simulated engines of --config")
    workload = load(workload_path)
    model = model or workload.model or ""
    virtual = _virtual(config_path, workload, model, noise=noise is not False) if config_path is not None else None
    folder = out or Path(f"loadtest-{datetime.datetime.now():%Y%m%d-%H%M%S}")
    _allow_many_sockets()

    async def work() -> Report:
        target = virtual or Server(url or "", model=model, api_key=api_key, timeout_s=workload.timeout_s)
        job = LoadJob(target, workload, folder, Terminal())
        running = job.search(probe_seconds, attain, resolution) if find_max else job.once()
        return await _until_interrupted(running, job.stop)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print_report(runner.run(work()))
    click.echo(f"wrote {folder}/{report_file.PAGE}, {report_file.SUMMARY} and {report_file.ROWS}")


def _virtual(config_path: Path, workload: Workload, model: str, *, noise: bool) -> Virtual:
    """Engines are drawn with the workload's seed, too."""
    how, config = Simulation(seed=workload.seed, noise=noise), load_config(config_path)
    return Virtual(str(config_path), config, model=model, how=how, timeout_s=workload.timeout_s)


async def _until_interrupted(running: Coroutine[None, None, Report], stop: asyncio.Event) -> Report:
    """The first Ctrl-C stops the sending; the second ends the program, as ever."""
    loop = asyncio.get_running_loop()

    def interrupted() -> None:
        stop.set()
        loop.remove_signal_handler(signal.SIGINT)

    loop.add_signal_handler(signal.SIGINT, interrupted)
    try:
        return await running
    finally:
        loop.remove_signal_handler(signal.SIGINT)


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


class Terminal:
    """Implements `proxy.load_job.Display`. Redrawn seldom: that is done in a thread, which takes the interpreter from
    the sender."""

    @contextmanager
    def watch(self, total: int) -> Iterator[_Watch]:
        with self._bar() as progress:
            yield _Watch(progress, total)

    @contextmanager
    def steps(self, what: str, total: int) -> Iterator[Callable[[], None]]:
        with self._bar() as progress:
            bar = progress.add_task(what, total=total)
            yield lambda: progress.advance(bar)

    def probed(self, probe: Probe) -> None:
        click.echo(" · ".join(f"{name} {cell}" for name, cell in zip(table.PROBES, table.probe(probe), strict=True)))

    def _bar(self) -> Progress:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        console = Console(stderr=True)  # in a file or a pipe a bar would only be blank lines
        shown = console.is_terminal
        return Progress(*columns, console=console, refresh_per_second=2, transient=True, disable=not shown)


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


def print_report(report: Report) -> None:
    header, *rows = table.grid(report.summaries)
    shown = Table()
    for name in header:
        shown.add_column(name, justify="left" if not name else "right", overflow="fold")
    for row in rows:
        if set(row[1:]) != {table.BLANK}:
            shown.add_row(*row)
    console = Console()
    console.print(shown)
    for name, kind, count in table.failures(report):
        console.print(f"{name}: {count} × {kind}", markup=False, highlight=False)
    for note in table.notes(report):
        console.print(note)
    if report.found_max is not None:
        console.print(table.found(report.found_max))
