"""`paretoproxy measure`."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import click
import httpx
import msgspec
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from profiler import files, runs, runs_table
from profiler.tasks import load_task
from proxy.strategy_runs import AskFailed, Asking, Setting, ask_all, key_of


@click.command("measure")
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="A running proxy.")
@click.option("--model", required=True, help="The model to ask.")
@click.option("--task", "task_name", required=True, help="A built-in task (tinymath) or a JSONL file.")
@click.option("--questions", default=100, show_default=True, type=click.IntRange(1), help="The first this many.")
@click.option(
    "--strategy",
    "wanted",
    multiple=True,
    required=True,
    help="A strategy with its parameters: best-of-n:n=8,scorer=reward (none:greedy is temperature 0); "
    "auto:latency_ms=2000 is the planner's choice under that limit, and a strategy's own parameters may have limits "
    "beside them. Give several.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the quality tables.")
@click.option("--parallel", default=1, show_default=True, type=click.IntRange(1), help="Requests at a time.")
@click.option("--temperature", default=1.0, show_default=True)
@click.option("--max-tokens", type=click.IntRange(1))
@click.option("--api-key")
def command(
    url: str,
    model: str,
    task_name: str,
    questions: int,
    wanted: tuple[str, ...],
    out: Path,
    parallel: int,
    temperature: float,
    max_tokens: int | None,
    api_key: str | None,
) -> None:
    """Ask labelled questions of strategies that stored samples cannot tell about; print a table, and keep every request
    in MODEL.TASK.runs.jsonl, from which `paretoproxy quality --derive-only` makes curves that `auto` chooses by. An
    interrupted run goes on where it stopped."""
    task = load_task(task_name, count=questions)
    task = replace(task, questions=task.questions[:questions])
    try:
        settings = [Setting.parse(text) for text in wanted]
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--strategy") from error
    asking = Asking(url, model, task, temperature, max_tokens, parallel, api_key)
    path = out / f"{model}.{task.name}.runs.jsonl"
    try:
        asyncio.run(_measure(asking, settings, path))
    except httpx.HTTPError as error:
        raise click.ClickException(f"no proxy answers at {url}: {error!r}; start `paretoproxy serve`") from error
    except AskFailed as error:
        raise click.ClickException(str(error)) from error
    click.echo(runs_table.markdown(list(runs.read(path))))


async def _measure(asking: Asking, settings: list[Setting], path: Path) -> None:
    """Each request is on disk as soon as it is answered, under the setting's key."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.cut_half_a_line(path)
    before = list(runs.read(path))
    done = frozenset((run.question, run.key) for run in before)
    total = len(settings) * len(asking.task.questions)
    left = {(q.question, key_of(s)) for q in asking.task.questions for s in settings} - done
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress, path.open("ab") as file:
        bar = progress.add_task(f"{asking.model} on {asking.task.name}", total=total, completed=total - len(left))
        async for run in ask_all(asking, settings, done):
            file.write(msgspec.json.encode(run) + b"\n")
            file.flush()
            progress.advance(bar)
