"""One engine of a fleet with the real proxy in front of it, for benchmarks on real engines."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx

from proxy.config import BackendConfig, Config, ModelConfig
from proxy.launch import EngineSpec, Machine, check_port, specs

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "build/bench"
START_TIMEOUT_S = 180.0  # on a machine that does other things as well


@contextlib.asynccontextmanager
async def proxy(config_path: Path, config: Config) -> AsyncIterator[str]:
    """`paretoproxy serve`, up when entered and stopped when left. Gives its URL."""
    url = f"http://{config.server.host}:{config.server.port}"
    check_port(url, "the proxy")
    OUT.mkdir(parents=True, exist_ok=True)
    with (OUT / "proxy.log").open("ab") as log:
        command = (sys.executable, "-m", "proxy.cli", "serve", "--config", str(config_path))
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
    try:
        async with asyncio.timeout(START_TIMEOUT_S), httpx.AsyncClient(base_url=url) as http:
            while not await _ready(http):
                await asyncio.sleep(0.1)
        yield url
    finally:
        process.terminate()
        await process.wait()


async def _ready(http: httpx.AsyncClient) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return (await http.get("/ready")).status_code == 200
    return False


def engine(config: Config, model: ModelConfig, backend: BackendConfig, python: str) -> list[EngineSpec]:
    """How to start this engine alone."""
    alone = config.model_copy(update={"models": [model.model_copy(update={"backends": [backend]})]})
    return specs(alone, python, OUT / "logs", Machine.here())
