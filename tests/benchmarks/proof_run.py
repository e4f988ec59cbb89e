"""One policy under one workload, in virtual time: the whole proxy over in-process engines. Results are rows on disk."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import proof_fleet as fleets
import proof_policies as policies
from proof_clairvoyant import Clairvoyant, Foresight

from profiler.loadtest.result import Result
from profiler.loadtest.run import run
from profiler.loadtest.schedule import Planned, schedule
from profiler.simulation.clock import LoopClock
from profiler.simulation.loop import run_virtually
from profiler.simulation.simulated_backend import SimulatedBackend
from proxy import planner
from proxy.config import load
from proxy.handler import Handler
from proxy.in_process import in_process_service
from proxy.in_process_client import ask
from proxy.plans import Chooser
from proxy.simulated_fleet import Simulation, simulated_backends
from proxy.trace import Trace
from strategies.answers.extract import extract
from strategies.registry import Registry

ROOT = Path(__file__).resolve().parents[2]
SEED_STEP = 1000  # between requests: branch i of request r has seed r·1000 + i
PARETOPROXY, CLAIRVOYANT = "paretoproxy", "clairvoyant"
ABLATIONS = (
    "without load awareness",
    "without joint choice: N first",
    "without joint choice: backend first",
    "without early stop",
    "without priorities",
    "without online correction",
)
SLO_AWARE: dict[str, tuple[str, dict[str, Any]]] = {
    "slo-aware none": ("none", {}),
    "slo-aware none:greedy": ("none", {"greedy": True}),
    "slo-aware self-consistency:4": ("self-consistency", {"n": 4}),
    "slo-aware self-consistency:8": ("self-consistency", {"n": 8}),
    "slo-aware self-consistency:16": ("self-consistency", {"n": 16}),
}
FIXED = {policy.name: policy for policy in policies.FIXED}
# What nobody configures today: some of them with the priorities that this proxy gives.
BY_DEADLINE = {
    f"by deadline: {name}": FIXED[name]
    for name in ("least-loaded any self-consistency:8", "prefix-affine any self-consistency:8")
}


class Row(msgspec.Struct, array_like=True):
    """What became of one request. `done`: branches that ended; without one there is no answer but a fragment.
    `feasible`: the policy predicted that it would meet its demands."""

    index: int
    slo_class: str
    at_s: float
    latency_ms: float
    done: int
    correct: bool
    strategy: str
    n: int
    backend: str
    feasible: bool
    gpu_s: float
    tokens: int
    predicted_ms: float
    gave_up: str


class Ran(msgspec.Struct):
    """`cpu_s`: how long it took to simulate."""

    policy: str
    process: str
    lasts_s: float
    high_from_s: float
    rows: list[Row]
    cpu_s: float


@dataclass(frozen=True, slots=True)
class World:
    """What all runs share."""

    folder: Path
    files: fleets.FleetFiles
    load: fleets.Load


def run_policy(world: World, policy: str, process: str, seed: int = 1) -> Ran:
    began = time.process_time()
    rows = run_virtually(_live(world, policy, process, seed))
    load = world.load
    return Ran(policy, process, load.low_s + load.high_s, load.low_s, rows, time.process_time() - began)


async def _live(world: World, policy: str, process: str, seed: int) -> list[Row]:
    loop, registry = asyncio.get_running_loop(), Registry.installed()
    fleet = simulated_backends(load(world.files.truth, {}), LoopClock(loop), Simulation(seed=7))
    traces: dict[str, Trace] = {}
    config = load(configured(world.files, policy), {})
    service = await in_process_service(
        config,
        fleet,
        registry,
        on_trace=lambda trace: traces.__setitem__(str(trace.request_id), trace),
        few_chunks=True,
        seed=11,
        chooser=chooser(policy, world, fleet, registry),
    )
    if policy == "without online correction":
        policies.without_correction(service.catalog.backends)
    pools = [fleets.read_pool(world.folder, model) for model in fleets.POOL_OF]
    caller = _Caller(Handler(service), fleets.right_answers(pools), traces)
    try:
        await run(schedule(fleets.workload(process, world.load, seed)), caller)
    finally:
        await service.aclose()
    return sorted(caller.rows, key=lambda row: row.index)


def configured(files: fleets.FleetFiles, policy: str) -> Path:
    if policy == "without early stop":
        return files.patient
    return files.in_turn if policy in FIXED or policy == "without priorities" else files.config


def chooser(policy: str, world: World, fleet: Mapping[str, SimulatedBackend], registry: Registry) -> Chooser:
    if policy in FIXED:
        return policies.fixed(FIXED[policy], registry)
    if policy in BY_DEADLINE:
        return policies.fixed(BY_DEADLINE[policy], registry)
    if policy in SLO_AWARE:
        return policies.slo_aware(*SLO_AWARE[policy], registry)
    if policy == CLAIRVOYANT:
        pools = {model: fleets.read_pool(world.folder, model) for model in fleets.POOL_OF}
        return Clairvoyant(Foresight(pools, registry), fleet)
    choosers: dict[str, Chooser] = {
        "without load awareness": policies.blind,
        "without joint choice: N first": policies.strategy_first,
        "without joint choice: backend first": policies.backend_first(),
    }
    return choosers.get(policy, planner.choose)


class _Caller:
    """The load tester's caller into the proxy's handler, without a socket."""

    def __init__(self, handler: Handler, right: Mapping[str, frozenset[str]], traces: dict[str, Trace]) -> None:
        self._handler, self._right, self._traces = handler, right, traces
        self.rows: list[Row] = []

    async def ask(self, request: Planned) -> Result:
        question = request.prompt
        seed = request.index * SEED_STEP
        policies.REQUEST.set(policies.Request(request.index, question, seed))
        identity = str(request.index)
        headers = {**request.controls(), "x-request-id": identity}
        answer = await ask(self._handler, {**request.members(fleets.ANY), "seed": seed}, headers=headers)
        trace = self._traces.pop(identity)
        body = answer.json() if answer.status == 200 else {}
        told = body["usage"]["tts"] if body else {}
        text = body["choices"][0]["message"]["content"] if body else ""
        done = int(told.get("completed", 0))
        plan = trace.plan
        row = Row(
            request.index,
            request.slo_class.name,
            request.at_s,
            answer.latency_s * 1e3,
            done,
            done > 0 and (extract(text) or "") in self._right[question],
            plan.strategy if plan else "",
            plan.n if plan else 0,
            plan.backend if plan else "",
            plan.feasible if plan else False,
            sum(branch.gpu_seconds for branch in trace.branches),
            trace.completion_tokens,
            float(plan.predicted["latency_ms"]) if plan else 0.0,
            " ".join(plan.gave_up) if plan else "",
        )
        self.rows.append(row)
        result = Result.of(request)
        result.outcome, result.latency_ms = "answered", row.latency_ms
        return result


# -- kept on disk --

_EVERYTHING = ("profiler", "profiler/simulation", "profiler/loadtest", "strategies", "proxy")
_PLANNER = (
    "planner.py",
    "candidates.py",
    "plans.py",
    "ties.py",
    "correction.py",
    "catalog.py",
    "catalog_build.py",
    "prediction.py",
)


def cached(world: World, policy: str, process: str, seed: int = 1, *, again: bool = False) -> Ran:
    """The run, or its rows from an earlier one of the same code."""
    name = f"{policy} {process} {seed} {_fingerprint(world, policy)}.json"
    path = world.folder / "runs" / name.replace("/", "-")
    if path.exists() and not again:
        return msgspec.json.decode(path.read_bytes(), type=Ran)
    ran = run_policy(world, policy, process, seed)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(msgspec.json.encode(ran))
    return ran


def _fingerprint(world: World, policy: str) -> str:
    """Of all code and data that a run depends on. What no planner chose does not depend on the planner's."""
    digest = hashlib.sha256(repr(world.load).encode())
    names = ["proof_fleet.py", "proof_policies.py", "proof_run.py"]
    if policy == CLAIRVOYANT:
        names.append("proof_clairvoyant.py")
    files = [Path(__file__).parent / name for name in names]
    planned = policy not in FIXED and policy not in BY_DEADLINE and policy != CLAIRVOYANT
    for folder in _EVERYTHING:
        files += [path for path in sorted((ROOT / folder).glob("*.py")) if planned or path.name not in _PLANNER]
    files += sorted((*fleets.POOLS.glob("*.json*"), *fleets.SHIPPED.glob("*.json")))
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
