"""The accounts add up: in virtual time, where everything is exact, over a load of votes, deadlines, clients that leave,
connections that break and retries. `make bench-costs` does the same on real engines."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
from simulation_rig import QUESTIONS, chat, write_config

from profiler.simulation.clock import LoopClock
from profiler.simulation.faults import Fault
from profiler.simulation.loop import run_virtually
from profiler.simulation.simulated_backend import SimulatedBackend
from proxy.config import load
from proxy.handler import Handler
from proxy.in_process import in_process_service
from proxy.in_process_client import InProcessClient, ask
from proxy.service import Service
from proxy.simulated_fleet import Simulation, simulated_backends
from proxy.trace import Trace

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from reconcile_sums import Branches, Counted, Reconciled

NAMES = ("a", "b")
VOTE = {"strategy": "self-consistency", "n": 8, "stop": "beta"}
KINDS: list[dict[str, Any]] = [
    {"tts": VOTE},
    {"tts": {**VOTE, "stop": "all"}},
    {"tts": {"strategy": "first-finish", "n": 6, "m": 2}},
    {"tts": {"strategy": "probe-consensus", "n": 4, "every_tokens": 48}},
    {"tts": VOTE, "slo": {"latency_ms": 150}},
    {},
    {"n": 3},
    {"stream": True},
    {"stream": True, "stream_options": {"include_usage": True}},
]


async def _load(service: Service, fleet: dict[str, SimulatedBackend], requests: int, random: Random) -> None:
    handler, loop = Handler(service), asyncio.get_running_loop()

    async def one(at_s: float) -> None:
        await asyncio.sleep(at_s)
        members = {**random.choice(KINDS), "max_tokens": 400}
        leaves_s = random.uniform(0.005, 0.4) if random.random() < 0.25 else None

        def watch(client: InProcessClient) -> None:
            if leaves_s is not None:
                loop.call_later(leaves_s, client.leave)

        await ask(handler, chat(random.choice(QUESTIONS).question, **members), on_client=watch)

    async def cut() -> None:
        while True:
            await asyncio.sleep(0.2)
            fleet["a"].inflict(Fault(kind="cut", after_chunks=random.randrange(4), streams=1))

    cutting = asyncio.create_task(cut())
    await asyncio.gather(*(one(random.uniform(0, requests * 0.03)) for _ in range(requests)))
    cutting.cancel()
    await asyncio.gather(cutting, return_exceptions=True)
    await asyncio.sleep(1)


def _live(folder: Path, requests: int, seed: int = 0) -> tuple[list[Reconciled], list[Trace]]:
    async def main() -> tuple[list[Reconciled], list[Trace]]:
        loop, config, traces = asyncio.get_running_loop(), load(write_config(folder, *NAMES), {}), list[Trace]()
        fleet = simulated_backends(config, LoopClock(loop), Simulation(seed=seed, noise=False))
        service = await in_process_service(config, fleet, on_trace=traces.append, seed=seed)
        try:
            await asyncio.sleep(10)  # until the proxy has asked what the engines can
            backends, before, began = service.catalog.by_name, {}, loop.time()
            for name in NAMES:
                before[name] = _counted(fleet[name]), backends[name].gpu_time.spent()
            await _load(service, fleet, requests, Random(seed))
            found = []
            for name in NAMES:
                counted, spent = before[name]
                now = backends[name].gpu_time.spent()
                rows = [row for trace in traces for row in trace.branches if row.backend == name]
                found.append(
                    Reconciled(
                        name,
                        wall_s=loop.time() - began,
                        idle_s=now.idle - spent.idle,
                        others_s=now.others - spent.others,
                        branches=Branches.of([{n: getattr(row, n) for n in row.__struct_fields__} for row in rows]),
                        engine=_counted(fleet[name]) - counted,
                    )
                )
            return found, traces
        finally:
            await service.aclose()

    return run_virtually(main())


def _counted(backend: SimulatedBackend) -> Counted:
    generated, _, _ = backend.engine.totals()
    return Counted(backend.engine.counters.prompt_tokens, generated)


def test_traces_and_idle_are_the_wall_clock_and_no_token_is_missing(tmp_path: Path) -> None:
    found, traces = _live(tmp_path, 150)
    outcomes = {row.outcome for trace in traces for row in trace.branches}
    assert outcomes >= {"completed", "cancelled", "failed"}
    assert {trace.outcome for trace in traces} >= {"answered", "client_gone"}
    assert any(len(trace.branches) > 1 and trace.plan and trace.plan.strategy == "none" for trace in traces), "retries"
    assert len(traces) == 150
    for one in found:
        assert one.others_s == pytest.approx(0.0, abs=0.02 * one.wall_s)
        assert (one.branches.gpu_seconds + one.idle_s + one.others_s) == pytest.approx(one.wall_s, rel=1e-6)
        assert abs(one.time_error) < 0.02
    engine, told = sum(one.engine.completion for one in found), sum(one.branches.completion for one in found)
    counted = told - sum(one.branches.estimated for one in found)
    print([(one.time_error, one.others_s, one.token_error, one.counted_error, one.prompt_error) for one in found])
    assert abs(told / engine - 1) < 0.01
    assert counted / engine - 1 < -0.01, "the estimates are what makes it right"
