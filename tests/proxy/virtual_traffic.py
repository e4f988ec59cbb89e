"""The same traffic against the same fleet in virtual time, twice: through the whole proxy, and through its planner and
strategies alone (`proxy.virtual`). Every request has a seed, so that both are answered alike."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from profiler.loadtest.result import Result
from profiler.loadtest.run import run
from profiler.loadtest.schedule import Planned, Schedule, schedule
from profiler.loadtest.workload import Workload
from profiler.simulation.clock import LoopClock
from profiler.simulation.loop import run_virtually
from profiler.simulation.simulated_backend import SimulatedBackend
from proxy.config import load
from proxy.handler import Handler
from proxy.in_process import in_process_service
from proxy.in_process_client import InProcessClient, ask
from proxy.load_answers import Answer, StreamedAnswer, WholeAnswer
from proxy.simulated_fleet import Simulation, simulated_backends
from proxy.trace import Trace
from proxy.virtual.fleet import VirtualFleet
from proxy.virtual.traffic import VirtualTraffic

PROBED_S = 5.0  # the prober asks engines what they can, and they answer that, too
SEED_STEP = 1000  # between requests: branch i of request r has seed r·1000 + i


def seeded(workload: Mapping[str, Any]) -> Schedule:
    planned = schedule(Workload.model_validate(workload))
    return Schedule(
        [replace(one, body={**one.body, "seed": one.index * SEED_STEP}) for one in planned.requests], planned.lasts_s
    )


def alone(path: Path, planned: Schedule, how: Simulation | None = None) -> list[Result]:
    """By the planner and the strategies alone."""
    fleet = VirtualFleet.of(load(path, {}), how or Simulation(), seed=11)
    fleet.clock.run(fleet.clock.now() + PROBED_S)  # to begin at the same time, to the last digit
    traffic = VirtualTraffic(fleet, planned.requests, "m", timeout_s=120)
    traffic.run()
    for backend in fleet.catalog.backends:
        assert backend.in_flight == 0 and not (backend.line is not None and backend.line.due)
    for engine in fleet.engines.values():
        assert (engine.engine.running, engine.engine.queued) == (0, 0)
    return in_order(traffic.results)


def through_the_proxy(path: Path, planned: Schedule, how: Simulation | None = None) -> list[Result]:
    """By the whole proxy, as its clients see it."""
    return in_order(run_virtually(_through_the_proxy(path, planned, how or Simulation())))


async def _through_the_proxy(path: Path, planned: Schedule, how: Simulation) -> Sequence[Result]:
    loop, config = asyncio.get_running_loop(), load(path, {})
    fleet = simulated_backends(config, LoopClock(loop), how)
    traces: dict[str, Trace] = {}

    def keep(trace: Trace) -> None:
        traces[str(trace.request_id)] = trace

    service = await in_process_service(config, fleet, on_trace=keep, few_chunks=True, seed=11)
    await asyncio.sleep(PROBED_S)
    for backend in fleet.values():
        _forget_probes(backend)
    handler = Handler(service)
    try:
        ran = await run(planned, _Caller(handler, traces))
    finally:
        handler.close()
        await service.aclose()
    return ran.results


def _forget_probes(backend: SimulatedBackend) -> None:
    """What the prober asked took draws, of answers and of how drafts are accepted: from the start again."""
    engine = backend.engine
    backend._random = Random(f"{engine.spec.seed} answers")
    if engine._phases is not None:
        engine._phases = Random(engine.spec.seed)


class _Caller:
    """The load tester's caller, into the handler."""

    def __init__(self, handler: Handler, traces: Mapping[str, Trace]) -> None:
        self._handler, self._traces = handler, traces

    async def ask(self, request: Planned) -> Result:
        loop, result = asyncio.get_running_loop(), Result.of(request)
        reading = (StreamedAnswer if request.stream else WholeAnswer)(result, loop.time)
        reading.began = loop.time()
        clients: list[InProcessClient] = []
        headers = {**request.controls(), "x-request-id": str(request.index)}

        def connected(client: InProcessClient) -> None:
            clients.append(client)
            _read_as_it_comes(client, reading)

        asking = asyncio.ensure_future(ask(self._handler, request.members("m"), headers=headers, on_client=connected))
        if request.leave_after_s is not None:
            await asyncio.wait({asking}, timeout=request.leave_after_s)
            if not asking.done():
                result.outcome = "cancelled"
                clients[0].leave()
        await asking
        if result.outcome != "cancelled":
            reading.on_end()
        self._complete(result)
        return result

    def _complete(self, result: Result) -> None:
        """What only traces tell, as `HttpCaller.read_traces` does."""
        trace = self._traces[str(result.index)]
        if result.completion_tokens is not None:  # the proxy estimates what a cut branch generated unseen
            result.completion_tokens -= sum(row.estimated_tokens for row in trace.branches)
        if trace.ledgers is not None:
            result.exclusive_usd = trace.ledgers.exclusive.usd
            if result.cost_usd is None:
                result.cost_usd = trace.ledgers.attributed.usd
            if result.gpu_seconds is None:
                result.gpu_seconds = trace.ledgers.attributed.gpu_seconds
        if trace.plan is not None and result.strategy is None:
            result.strategy, result.n, result.backend = trace.plan.strategy, trace.plan.n, trace.plan.backend


def _read_as_it_comes(client: InProcessClient, reading: Answer) -> None:
    begun = False

    def read(data: bytes) -> None:
        nonlocal begun
        if not begun:
            begun = True
            reading.on_head(client.answer.status, client.answer.headers)
        reading.on_body(data)

    client.on_data = read


def in_order(results: Sequence[Result]) -> list[Result]:
    return sorted(results, key=lambda one: one.index)
