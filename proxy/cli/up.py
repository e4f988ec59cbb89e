"""`paretoproxy up`."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import click

from proxy.config import Config, load
from proxy.launch import Engines, LaunchError, Machine, engine_python, specs


@click.command("up")
@click.option("--config", "config_path", type=click.Path(path_type=Path), required=True, help="The fleet's YAML file.")
@click.option("--engine-python", help="The Python interpreter that has vLLM; default: this one.")
@click.option("--logs", type=click.Path(path_type=Path), default=Path("engine-logs"), help="Folder for engine logs.")
def command(config_path: Path, engine_python: str | None, logs: Path) -> None:
    """Start the engines that a configuration describes, and stop them together (Ctrl-C)."""
    asyncio.run(_up(load(config_path), engine_python, logs))


async def _up(config: Config, python: str | None, logs: Path) -> None:
    machine = Machine.here()
    wanted = specs(config, engine_python(python), Path.cwd() / logs, machine)
    for name, reason in machine.left_out(config).items():
        click.echo(f"{name} is left out: {reason}")
    if contention := machine.contention(config):
        click.echo(contention)
    async with Engines(wanted) as engines:
        stopped = stop_event()
        starting = asyncio.create_task(engines.start(click.echo))
        await wait_first(starting, stopped)
        if stopped.is_set():
            click.echo("stopping")
            return
        click.echo("all engines are up; Ctrl-C stops them")
        exited = asyncio.create_task(engines.wait_any_exit())
        await wait_first(exited, stopped)
        if not stopped.is_set():
            raise LaunchError(f"engine {exited.result()} ended by itself; see its log in {logs}")
        click.echo("stopping all engines")


def stop_event() -> asyncio.Event:
    """Set by Ctrl-C or SIGTERM."""
    event = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, event.set)
    return event


async def wait_first(task: asyncio.Task[object], stopped: asyncio.Event) -> None:
    """Until the task ends (raising what it raised) or a stop is asked for, which cancels it."""
    waiting = asyncio.create_task(stopped.wait())
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
    finally:
        for each in (task, waiting):
            if not each.done():
                each.cancel()
        await asyncio.gather(task, waiting, return_exceptions=True)
