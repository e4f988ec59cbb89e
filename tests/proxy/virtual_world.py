"""The whole real proxy over a simulated fleet, in virtual time: minutes of traffic take seconds, and every run is the
same."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import yaml
from simulation_rig import chat

from profiler.simulation.clock import LoopClock
from profiler.simulation.loop import run_virtually
from profiler.simulation.simulated_backend import SimulatedBackend
from proxy.config import Config, load
from proxy.handler import Handler
from proxy.in_process import in_process_service
from proxy.in_process_client import Answer, InProcessClient, ask
from proxy.service import Service
from proxy.simulated_fleet import Simulation, simulated_backends
from proxy.trace import Trace


class World:
    """A proxy over a simulated fleet, inside a virtual loop."""

    def __init__(self, config: Config, fleet: dict[str, SimulatedBackend], service: Service, traces: list[Trace]):
        self.config, self.fleet, self.service, self.traces = config, fleet, service, traces
        self.handler = Handler(service)

    async def ask(self, *, on_client: Callable[[InProcessClient], None] | None = None, **members: Any) -> Answer:
        return await ask(self.handler, chat(**members), on_client=on_client)


def live(path: Path, story: Callable[[World], Awaitable[Any]], *, few: bool = False, seed: int = 0) -> Any:
    """Runs a story in a world of its own; nothing may be left running at its end."""

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        config = load(path, {})
        fleet = simulated_backends(config, LoopClock(loop), Simulation(seed=seed, noise=False))
        traces: list[Trace] = []
        service = await in_process_service(config, fleet, on_trace=traces.append, few_chunks=few, seed=seed)
        try:
            result = await story(World(config, fleet, service, traces))
            await asyncio.sleep(1)
            for backend in service.catalog.backends:
                assert (backend.in_flight, backend.pool.busy_connections) == (0, 0)
            for backend in fleet.values():
                assert (backend.engine.running, backend.engine.queued, backend.running) == (0, 0, {})
            return result
        finally:
            await service.aclose()

    return run_virtually(main())


def with_sections(path: Path, **sections: Any) -> Path:
    """The same configuration with further sections."""
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **sections}))
    return path
