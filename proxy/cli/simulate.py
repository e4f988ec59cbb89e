"""`paretoproxy simulate`."""

from __future__ import annotations

import asyncio
import gc
import time
from pathlib import Path

import click
import uvloop

from profiler.simulation.clock import LoopClock
from profiler.simulation.server import FleetServer
from proxy.cli.up import stop_event
from proxy.config import Config, load
from proxy.simulated_fleet import Simulation, made_up_answers, servers, simulated_backends


@click.command("simulate")
@click.option("--config", "config_path", type=click.Path(path_type=Path), required=True, help="The fleet's YAML file.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of all that is drawn at random.")
@click.option("--noise/--no-noise", default=True, help="Vary each engine's pace as its profile's residuals say.")
@click.option("--max-waiting", type=click.IntRange(0), help="Requests that may wait in an engine; others get 503.")
def command(config_path: Path, seed: int, noise: bool, max_waiting: int | None) -> None:
    """Serve every backend of a configuration from its profile, on its own host and port, until Ctrl-C.

    Answers are the samples beside the models' quality tables. Then `paretoproxy serve` works with the same file. To
    break something: POST {"kind": "slow", "factor": 3} to /simulate/fault of a backend; kinds are slow, stall, cut,
    die, lie and revive.
    """
    uvloop.run(_serve(load(config_path), Simulation(seed, noise, max_waiting)))


async def _serve(config: Config, how: Simulation) -> None:
    loop = asyncio.get_running_loop()
    fleet = simulated_backends(config, LoopClock(loop), how, epoch_s=time.time() - loop.time())
    async with FleetServer(servers(config, fleet)) as running:
        for server in running.servers:
            backend, spec = server.backend, server.backend.engine.spec
            click.echo(
                f"{backend.name} serves {backend.model} on port {server.port}: {spec.max_num_seqs} branches, "
                f"{spec.kv_tokens} tokens of KV cache, {spec.max_model_len} a request"
            )
        for name in made_up_answers(config):
            click.echo(f"{name} has no quality table: its questions and answers are invented")
        for one in config.pooled():
            click.echo(f"{one.name} is not simulated: reward and embedding models need an engine")
        gc.freeze()
        click.echo("the simulated fleet is up; Ctrl-C stops it")
        await stop_event().wait()
        click.echo("stopping")
