"""A simulated fleet on real ports, or in process, from a configuration as an operator writes it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

import profiler.tinymath
from profiler import profile_file
from profiler.profile_file import Profile, Range
from profiler.quality_file import StoredQuestion, read_samples
from profiler.simulation.clock import LoopClock
from profiler.simulation.server import FleetServer
from profiler.simulation.simulated_backend import SimulatedBackend
from profiler.steptime import StepTime
from proxy.config import Config, load
from proxy.simulated_fleet import Simulation, servers, simulated_backends

QUALITY = Path(profiler.tinymath.__file__).parent / "quality" / "tinymath-s.tinymath.quality.json"
QUESTIONS: list[StoredQuestion] = list(read_samples(QUALITY.with_name("tinymath-s.tinymath.samples.jsonl")))
# A step of B branches takes 1 + B/20 ms.
STEP = StepTime.linear(c0_s=1e-3, c_tok_s=5e-5, c_kv_s=1e-9, p0_s=4e-3, p_tok_s=2e-5)


def make_profile(name: str = "a", **members: Any) -> Profile:
    environment = {"vllm": "0.26.0", "kv_cache_tokens": 65_536.0}
    known: dict[str, Any] = dict(
        backend=name, environment=environment, cells=[], step_time=STEP, residual_sigma=0.03, residual_quantiles={}
    )
    return Profile(**{**known, "range": Range(64, 1024, 1024), "max_num_seqs": 64, **members})


def write_config(folder: Path, *names: str, quality: bool = True, **backend: Any) -> Path:
    """One model, `m`, of the built-in task, on backends of these names, each with a profile and a free port."""
    backends = []
    for name in names or ("a",):
        profile_file.write(make_profile(name), folder / f"{name}.json")
        entry = {"name": name, "url": f"http://127.0.0.1:{free_port()}", "profile": f"{name}.json", "gpu_hour_usd": 2.0}
        backends.append({**entry, **backend})
    model: dict[str, Any] = {"name": "m", "backends": backends}
    if quality:
        model |= {"task": "tinymath", "quality": {"tinymath": str(QUALITY)}}
    path = folder / "fleet.yaml"
    path.write_text(yaml.safe_dump({"traces": {"path": str(folder / "traces.db")}, "models": [model]}))
    return path


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


class Served:
    """A fleet on its ports; `client` talks to the first backend."""

    def __init__(self, config: Config, fleet: dict[str, SimulatedBackend]) -> None:
        self.config, self.fleet = config, fleet
        self.urls = {backend.name: backend.url for backend in config.backends()}
        self.url = next(iter(self.urls.values()))
        self.client = httpx.AsyncClient(base_url=self.url, timeout=20, trust_env=False, verify=False)

    @property
    def backend(self) -> SimulatedBackend:
        return next(iter(self.fleet.values()))

    async def chat(self, **members: Any) -> httpx.Response:
        return await self.client.post("/v1/chat/completions", json=chat(**members))

    async def complete(self, **members: Any) -> httpx.Response:
        body = {"model": "m", "prompt": "Say it.", **members}
        return await self.client.post("/v1/completions", json=body)

    async def fault(self, kind: str, **members: Any) -> dict[str, Any]:
        answer = await self.client.post("/simulate/fault", json={"kind": kind, **members})
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told


def chat(question: str | None = None, **members: Any) -> dict[str, Any]:
    content = QUESTIONS[0].question if question is None else question
    return {"model": "m", "messages": [{"role": "user", "content": content}], **members}


@asynccontextmanager
async def served(path: Path, how: Simulation | None = None) -> AsyncIterator[Served]:
    config = load(path, {})
    fleet = simulated_backends(config, LoopClock(asyncio.get_running_loop()), how or Simulation(noise=False))
    async with FleetServer(servers(config, fleet)):
        rig = Served(config, fleet)
        try:
            yield rig
        finally:
            await rig.client.aclose()
