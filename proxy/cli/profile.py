"""`paretoproxy profile`."""

from __future__ import annotations

import asyncio
import datetime
import os
import platform
import time
from pathlib import Path

import click
import httpx
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from profiler import profile_file
from profiler.measure import measure, small_grid
from profiler.steptime import Cell
from proxy.backend import Backend, open_backend
from proxy.bench import EngineBench, EngineFailed
from proxy.config import BackendConfig, Config, ConfigError, load

DEFAULT_MAX_NUM_SEQS = 256


@click.command("profile")
@click.option("--config", "config_path", type=click.Path(path_type=Path), required=True, help="The fleet's YAML file.")
@click.option("--backend", "only", help="Measure this backend only.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for profiles; default: where the config has them.")
def command(config_path: Path, only: str | None, out: Path | None) -> None:
    """Measure each backend, one at a time, and fit its latency."""
    asyncio.run(profile_fleet(load(config_path), only, out))


async def profile_fleet(config: Config, only: str | None, out: Path | None) -> None:
    """Profile the backends of a configuration; each file is written as soon as its backend is measured."""
    wanted = [(model.name, backend) for model in config.models for backend in model.backends]
    if only is not None:
        wanted = [(model, backend) for model, backend in wanted if backend.name == only]
        if not wanted:
            names = ", ".join(backend.name for backend in config.backends())
            raise ConfigError(f"no backend is named {only!r}; the configuration has {names}")
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns) as progress:
        for model, backend in wanted:
            path = out / f"{backend.name}.json" if out else backend.profile
            if path is None:
                raise ConfigError(f"backend {backend.name} has no `profile` path; set one or give --out")
            await _profile_one(model, backend, path, progress)


async def _profile_one(model: str, config: BackendConfig, path: Path, progress: Progress) -> None:
    backend = open_backend(config, model, None, time.monotonic)
    task = progress.add_task(f"{config.name}: reaching the engine")
    try:
        environment, max_len = await _environment(backend)
        max_seqs = _max_num_seqs(config)
        grid = small_grid(min(32, max_seqs), max_len // 2)
        cells: list[Cell] = []
        async for cell in measure(EngineBench(backend), grid, range(5, 260)):
            cells.append(cell)
            progress.update(task, description=_progress_line(config.name, cells, len(grid)))
        profile = profile_file.make(config.name, environment, cells, max_seqs)
        profile_file.write(profile, path)
        step = profile.step_time
        progress.update(task, description=f"{config.name}: {len(cells)} cells measured")
        progress.console.print(
            f"{config.name}: step {step.c0_s * 1e3:.2f} ms + {step.c_tok_s * 1e6:.0f} µs per branch + "
            f"{step.c_kv_s * 1e9:.0f} ns per KV token; prefill {step.p0_s * 1e3:.1f} ms + {step.p_tok_s * 1e6:.0f} µs "
            f"per token; fit within {profile.residual_sigma:.0%}; wrote {path}",
            soft_wrap=True,
        )
    finally:
        progress.stop_task(task)
        await backend.pool.aclose()


def _progress_line(name: str, cells: list[Cell], total: int) -> str:
    last = cells[-1]
    return (
        f"{name}: cell {len(cells)}/{total}: {last.batch} × {last.prompt} in, {last.output} out: "
        f"{last.tpot_s * 1e3:.1f} ms per token, first after {last.ttft_s * 1e3:.0f} ms"
    )


def _max_num_seqs(config: BackendConfig) -> int:
    given = (config.launch.args if config.launch else {}).get("max-num-seqs", DEFAULT_MAX_NUM_SEQS)
    return int(given)


async def _environment(backend: Backend) -> tuple[dict[str, object], int]:
    """What was measured, and the engine's context length. Raises EngineFailed where it cannot be reached."""
    headers = {"authorization": f"Bearer {backend.api_key}"} if backend.api_key else {}
    try:
        async with httpx.AsyncClient(base_url=backend.config.url, timeout=10, headers=headers) as client:
            version = (await client.get("/version")).json().get("version")
            cards = (await client.get("/v1/models")).json()["data"]
    except (httpx.HTTPError, ValueError, KeyError) as error:
        raise EngineFailed(f"backend {backend.name} at {backend.config.url} cannot be reached: {error}") from error
    card = next((card for card in cards if card["id"] == backend.model), None)
    if card is None:
        served = ", ".join(card["id"] for card in cards)
        raise EngineFailed(f"backend {backend.name} serves {served}, not {backend.model}")
    environment: dict[str, object] = {
        "vllm": version,
        "model": backend.model,
        "model_path": Path(str(card.get("root", ""))).name,
        "tensor_parallel_size": backend.config.tensor_parallel_size,
        "speculative": backend.config.speculative,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": datetime.date.today().isoformat(),
    }
    return environment, int(card.get("max_model_len") or 4096)
