"""`paretoproxy profile`."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from profiler.measure import Measured
from profiler.profile_file import Profile
from profiler.tasks import Task, TaskError, load_task
from proxy import profiling
from proxy.bench import open_to_measure
from proxy.cli.agreement import agrees
from proxy.config import BackendConfig, Config, ConfigError, ModelConfig, load
from proxy.profiling import Job

DEFAULT_BUDGET_S = 60.0


class Duration(click.ParamType[float]):
    """`90`, `90s`, `5m` or `1h`, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", str(value).strip())
        if match is None or float(match[1]) <= 0:
            self.fail(f"{value!r} is no duration; say 90s or 5m", param, ctx)
        return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


@click.command("profile")
@click.option("--config", "config_path", type=click.Path(path_type=Path), required=True, help="The fleet's YAML file.")
@click.option("--backend", "only", help="Measure this backend only.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for profiles; default: where the config has them.")
@click.option("--budget", type=Duration(), default="60s", show_default=True, help="Time to measure each backend.")
@click.option("--check", is_flag=True, help="Measure a few cells again: does the profile still hold?")
@click.option("--busy-ok", is_flag=True, help="Measure even while others use the engine.")
@click.option(
    "--agreement/--no-agreement", default=True, show_default=True, help="Compare answers with the quality table."
)
def command(
    config_path: Path, only: str | None, out: Path | None, budget: float, check: bool, busy_ok: bool, agreement: bool
) -> None:
    """Measure each backend, one at a time, fit its latency, and see that its answers are the model's. An interrupted
    run goes on where it stopped."""
    config = load(config_path)
    if check:
        sys.exit(0 if asyncio.run(check_fleet(config, only, out, busy_ok=busy_ok, agreement=agreement)) else 1)
    asyncio.run(profile_fleet(config, only, out, budget_s=budget, busy_ok=busy_ok, agreement=agreement))


async def profile_fleet(
    config: Config,
    only: str | None = None,
    out: Path | None = None,
    *,
    budget_s: float = DEFAULT_BUDGET_S,
    busy_ok: bool = False,
    agreement: bool = False,
) -> None:
    """Profile the backends of a configuration; each file is written as soon as its backend is measured."""
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TimeElapsedColumn())
    with Progress(*columns) as progress:
        for model, backend, path in _wanted(config, only, out):
            async with _opened(model, backend, path, budget_s=budget_s, busy_ok=busy_ok) as job:
                await _profile_one(job, progress)
            if agreement:
                await agrees(model, backend, path, progress)


async def check_fleet(
    config: Config, only: str | None, out: Path | None, *, busy_ok: bool, agreement: bool = True
) -> bool:
    """Whether every profile still holds, and every backend agrees with its model's table; says so a line each."""
    all_hold = True
    for model, backend, path in _wanted(config, only, out):
        async with _opened(model, backend, path, busy_ok=busy_ok) as job:
            found = await profiling.check_profile(job)
        verdict = "holds" if found.holds else f"does not hold (±{found.allowed:.0%} allowed): measure it again"
        click.echo(
            f"{backend.name}: {found.cells} cells take {found.ratio:.2f} times what the profile says, at worst "
            f"{found.worst:.2f}: it {verdict}"
        )
        all_hold = all_hold and found.holds
        if agreement:
            with Progress(TextColumn("{task.description}"), TimeElapsedColumn()) as progress:
                all_hold = await agrees(model, backend, path, progress) and all_hold
    return all_hold


def _wanted(config: Config, only: str | None, out: Path | None) -> list[tuple[ModelConfig, BackendConfig, Path]]:
    """The backends meant, with their models and profiles. Raises ConfigError."""
    wanted = [(model, backend) for model in config.models for backend in model.backends if only in (None, backend.name)]
    if not wanted:
        names = ", ".join(backend.name for backend in config.backends())
        raise ConfigError(f"no backend is named {only!r}; the configuration has {names}")
    found = []
    for model, backend in wanted:
        path = out / f"{backend.name}.json" if out else backend.profile
        if path is None:
            raise ConfigError(f"backend {backend.name} has no `profile` path; set one or give --out")
        found.append((model, backend, path))
    return found


@asynccontextmanager
async def _opened(
    model: ModelConfig, backend: BackendConfig, path: Path, *, budget_s: float = DEFAULT_BUDGET_S, busy_ok: bool
) -> AsyncIterator[Job]:
    opened = open_to_measure(backend, model.name)
    try:
        yield Job(opened, path, budget_s, _task(model), busy_ok)
    finally:
        await opened.pool.aclose()


def _task(model: ModelConfig) -> Task | None:
    """The model's own labelled task, where it is a built-in one."""
    try:
        return load_task(model.task) if model.task is not None else None
    except TaskError:
        return None


async def _profile_one(job: Job, progress: Progress) -> None:
    name = job.config.name
    bar = progress.add_task(f"{name}: reaching the engine", total=job.budget_s)

    def show(measured: list[Measured], made: Profile | None) -> None:
        spent_s = sum(one.took_s for one in measured)
        progress.update(bar, completed=spent_s, description=_progress_line(name, measured, made))

    try:
        made = await profiling.profile(job, show)
        progress.update(bar, completed=job.budget_s, description=f"{name}: {len(made.cells)} cells measured")
        progress.console.print(summary(made, job.path), soft_wrap=True)
    finally:
        progress.stop_task(bar)


def _progress_line(name: str, measured: list[Measured], made: Profile | None) -> str:
    cell = measured[-1].cell
    fitted = ""
    if made is not None:
        error = made.errors["latency"]
        seen = "held-out cells" if error.held_out else "its own cells"
        fitted = f"; off by {error.median:.0%} on {seen}"
    return (
        f"{name}: cell {len(measured)}: {cell.spec.batch} × {cell.spec.prompt} in, {cell.spec.output} out: "
        f"{cell.tpot_s * 1e3:.1f} ms per token, first after {cell.ttft_s * 1e3:.0f} ms{fitted}"
    )


def summary(profile: Profile, path: Path) -> str:
    """What was found, in a few lines."""
    step, error = profile.step_time, profile.errors["latency"]
    at = [step.batches[0], *(b for b in (8, 32, 128) if b < step.batches[-1]), step.batches[-1]]
    steps = ", ".join(f"{float(step.g_s(batch)) * 1e3:.2f} ms at {batch:.0f}" for batch in at)
    where = f"{error.cells} held-out cells" if error.held_out else "its own cells"
    drafts = f"; {profile.acceptance_length:.2f} tokens a step" if profile.acceptance_length > 1 else ""
    return (
        f"{profile.backend}: step {steps}, {step.c_kv_s * 1e9:.1f} ns per KV token{drafts}; prefill "
        f"{step.p0_s * 1e3:.1f} ms + {step.p_tok_s * 1e6:.1f} µs per token; latency off by {error.median:.0%} on "
        f"{where}, at worst {error.worst:.0%}; wrote {path}"
    )
