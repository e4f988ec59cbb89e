"""`paretoproxy slo-table`."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import click
import httpx
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from profiler.tasks import Task, load_task
from proxy.slo_table import HEADER, Asked, Row, ask
from proxy.strategy_runs import AskFailed


@click.command("slo-table")
@click.option("--url", default="http://127.0.0.1:8000", show_default=True)
@click.option("--model", default="tinymath", show_default=True)
@click.option("--task", "task_name", default="tinymath-held-out", show_default=True)
@click.option("--questions", default=50, show_default=True, type=click.IntRange(1))
@click.option("--slo-ms", "slos", multiple=True, type=float, required=True, help="A deadline; give several.")
@click.option("--api-key")
def command(url: str, model: str, task_name: str, questions: int, slos: tuple[float, ...], api_key: str | None) -> None:
    """Ask labelled questions under several deadlines; print a table as markdown."""
    task = load_task(task_name, count=questions)
    task = replace(task, questions=task.questions[:questions])
    try:
        rows = asyncio.run(_ask_all(url, model, task, slos, api_key))
    except httpx.HTTPError as error:
        raise click.ClickException(f"no proxy answers at {url}: {error}; start one with `make demo`") from error
    except AskFailed as error:
        raise click.ClickException(str(error)) from error
    click.echo("| " + " | ".join(HEADER) + " |")
    click.echo("|" + "---|" * len(HEADER))
    for row in rows:
        click.echo("| " + " | ".join(row.cells()) + " |")


async def _ask_all(url: str, model: str, task: Task, slos: tuple[float, ...], api_key: str | None) -> list[Row]:
    rows = []
    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()) as progress:
        for slo_ms in slos:
            bar = progress.add_task(f"deadline {slo_ms:g} ms", total=len(task.questions))
            asked: list[Asked] = []
            async for one in ask(url, model, task, slo_ms, api_key):
                asked.append(one)
                progress.advance(bar)
            rows.append(Row(slo_ms, asked))
    return rows
