"""The proof on real engines, and the same workload on the same fleet simulated from its own profiles.

    paretoproxy up --config examples/gpu-fleet.yaml            # the engines, and `paretoproxy profile` before
    python tests/benchmarks/proof_real.py run --config examples/gpu-fleet.yaml --out build/proof/real
    python tests/benchmarks/proof_real.py run --config … --out build/proof/real --simulated
    python tests/benchmarks/proof_real.py table --out build/proof/real

Deadlines and rates follow from the profiles, so that one benchmark fits a fleet of any speed: interactive, careful and
batch requests may take 1.5, 3 and 7.5 times one sample on the first engine while it is full; the high load is
`FULLNESS` of what the fleet's seats serve with eight samples each, the low one a fifth of it. All policies get the same
requests at the same times; real engines draw their own samples. Reward models stay out: simulated engines have none.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import sqrt
from pathlib import Path
from statistics import median

import msgspec
import numpy as np
import proof_policies as policies
import uvloop
from proof_policies import ROUTINGS, Fixed
from proof_run import PARETOPROXY, SEED_STEP, SLO_AWARE, Ran, Row

from profiler import profile_file, quality_file
from profiler.loadtest.result import Result
from profiler.loadtest.run import run
from profiler.loadtest.schedule import Planned, schedule
from profiler.loadtest.workload import ArrivalsConfig, ClassConfig, PhaseConfig, SloConfig, Workload
from profiler.simulation.clock import LoopClock
from profiler.simulation.loop import run_virtually
from proxy import planner
from proxy.config import Config, load
from proxy.engine_flags import flag
from proxy.handler import Handler
from proxy.in_process import _Traces, in_process_service
from proxy.in_process_client import ask
from proxy.plans import Chooser
from proxy.service import Service
from proxy.simulated_fleet import Simulation, simulated_backends
from proxy.trace import Trace
from strategies.answers.extract import extract
from strategies.registry import Registry

FULLNESS = 1.2
WARM_REQUESTS = 6  # before the first policy
SLOS = {"interactive": (0.5, 1.5, {}), "careful": (0.3, 3.0, {"quality": 0.5})} | {
    "batch": (0.2, 7.5, {"quality": 0.6, "objective": "cost"})
}
SETTINGS = (("none", ()), ("none", (("greedy", True),)), *(("self-consistency", (("n", n),)) for n in (4, 8, 16)))
DEFAULT = (
    PARETOPROXY,
    "least-loaded any self-consistency:8",
    "least-loaded any none",
    "least-loaded any none:greedy",
    "least-loaded any self-consistency:4",
    "least-loaded any self-consistency:16",
    "prefix-affine any self-consistency:8",
    "slo-aware self-consistency:8",
)


@dataclass(frozen=True, slots=True)
class Pace:
    """What the fleet can do, by its profiles. `single_s`: one sample on the first engine while its seats are taken;
    `full_rate`: requests/s with eight samples each that fill every seat."""

    single_s: float
    full_rate: float


def pace(config: Config) -> Pace:
    rates, singles = 0.0, []
    for model in config.models:
        for backend in model.backends:
            assert backend.profile is not None and model.task is not None
            profile = profile_file.read(backend.profile)
            table = quality_file.read(model.quality[model.task])
            lengths = next(curve.lengths for curve in table.curves if curve.strategy == "none" and not curve.greedy)
            tokens = float(np.mean(np.asarray(lengths, dtype=float))) / profile.acceptance_length
            seats = int(flag(backend, "max-num-seqs") or profile.max_num_seqs)
            rates += seats / 8 / (tokens * float(profile.step_time.g_s(seats)))
            singles.append(tokens * float(profile.step_time.g_s(seats)))
    return Pace(singles[0], rates)


def workload(config: Config, told: argparse.Namespace) -> Workload:
    fleet = pace(config)
    high = min(FULLNESS * fleet.full_rate, told.max_rate)
    classes = [
        ClassConfig(name=name, share=share, slo=SloConfig(latency_ms=round(times * fleet.single_s * 1e3), **rest))
        for name, (share, times, rest) in SLOS.items()
    ]
    phases = [PhaseConfig(rate=high / 5, for_s=told.seconds), PhaseConfig(rate=high, for_s=told.seconds)]
    arrivals = ArrivalsConfig(process="poisson", phases=phases)
    any_model = next(model.name for model in config.models if model.any_of)
    return Workload(arrivals=arrivals, classes=classes, seed=told.seed, task="tinymath", model=any_model)


def chooser(policy: str, registry: Registry) -> Chooser:
    if policy == PARETOPROXY:
        return planner.choose
    if policy in SLO_AWARE:
        return policies.slo_aware(*SLO_AWARE[policy], registry)
    routing, model, setting = policy.split(" ")
    found = [fixed for r in ROUTINGS for s in SETTINGS if (fixed := Fixed(r, model, *s)).name == policy]
    if not found:
        raise SystemExit(f"unknown policy {policy!r}: {routing} / {model} / {setting}")
    return policies.fixed(found[0], registry)


class Caller:
    """The load tester's caller into the proxy's handler, without a socket of its own."""

    def __init__(self, handler: Handler, traces: dict[str, Trace], model: str, *, seeded: bool) -> None:
        self._handler, self._traces, self._model, self._seeded = handler, traces, model, seeded
        self.rows: list[Row] = []

    async def ask(self, request: Planned) -> Result:
        assert request.question is not None
        seed = request.index * SEED_STEP
        policies.REQUEST.set(policies.Request(request.index, request.prompt, seed))
        body = request.members(self._model) | ({"seed": seed} if self._seeded else {})
        identity = str(request.index)
        answer = await ask(self._handler, body, headers={**request.controls(), "x-request-id": identity})
        trace = self._traces.pop(identity)
        told = answer.json() if answer.status == 200 else {}
        done = int(told["usage"]["tts"].get("completed", 0)) if told else 0
        text = told["choices"][0]["message"]["content"] or "" if told else ""
        plan = trace.plan
        self.rows.append(
            Row(
                request.index,
                request.slo_class.name,
                request.at_s,
                answer.latency_s * 1e3,
                done,
                done > 0 and extract(text) == request.question.answer,
                plan.strategy if plan else "",
                plan.n if plan else 0,
                plan.backend if plan else "",
                plan.feasible if plan else False,
                sum(branch.gpu_seconds for branch in trace.branches),
                trace.completion_tokens,
                float(plan.predicted.get("latency_ms", 0.0)) if plan else 0.0,
                " ".join(plan.gave_up) if plan else "",
            )
        )
        return Result.of(request)


async def one(config: Config, work: Workload, policy: str, *, simulated: bool) -> list[Row]:
    registry, traces = Registry.installed(), dict[str, Trace]()

    def keep(trace: Trace) -> None:
        traces[str(trace.request_id)] = trace

    choose = chooser(policy, registry)
    if simulated:
        fleet = simulated_backends(config, LoopClock(asyncio.get_running_loop()), Simulation(seed=7))
        service = await in_process_service(
            config, fleet, registry, on_trace=keep, few_chunks=True, seed=11, chooser=choose
        )
    else:
        service = await Service.start(config, registry)
        service.traces, service.choose = _Traces(keep), choose
    caller = Caller(Handler(service), traces, str(work.model), seeded=simulated)
    try:
        if not simulated:
            await asyncio.sleep(2)  # engines finish dropping what was cancelled; the probes have looked
        await run(schedule(work), caller)
    finally:
        await service.aclose()
    return sorted(caller.rows, key=lambda row: row.index)


def run_all(told: argparse.Namespace) -> None:
    config = without_rewards(load(told.config))
    work = workload(config, told)
    folder = told.out / ("simulated" if told.simulated else "real")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "workload.json").write_text(work.model_dump_json(indent=1))
    print([(c.name, c.slo.latency_ms) for c in work.classes], [p.rate for p in work.arrivals.phases], flush=True)
    if not told.simulated:
        rate = work.arrivals.phases[0].rate
        warm = work.model_copy(update={"arrivals": work.arrivals.at_rate(rate, max(5.0, WARM_REQUESTS / rate))})
        uvloop.run(one(config, warm, PARETOPROXY, simulated=False))
    for policy in told.policies:
        began = time.process_time()
        live = partial(one, config, work, policy, simulated=told.simulated)
        rows = run_virtually(live()) if told.simulated else uvloop.run(live())
        ran = Ran(policy, "poisson", 2 * told.seconds, told.seconds, rows, time.process_time() - began)
        (folder / f"{policy.replace(' ', '_').replace(':', '-')}.json").write_bytes(msgspec.json.encode(ran))
        print(line(ran, work), f"(CPU {ran.cpu_s:.0f} s)", flush=True)


def without_rewards(config: Config) -> Config:
    bare = {"reward_model": [], "embedding_model": None, "judge": None, "larger_model": None}
    traces = config.traces.model_copy(update={"path": None})
    return config.model_copy(
        update={"models": [model.model_copy(update=bare) for model in config.models], "traces": traces}
    )


HEAD = (
    "| policy | goodput/s | accuracy | right in time/s | in time: interactive, careful, batch | p50, ms | mean N | "
    "GPU-s |"
    "\n|---|--:|--:|--:|---|---|--:|--:|"
)


def line(ran: Ran, work: Workload) -> str:
    limits = {one.name: float(one.slo.latency_ms or 0) for one in work.classes}
    good = [row for row in ran.rows if row.done and row.latency_ms <= limits[row.slo_class]]
    answered = [row for row in ran.rows if row.done]
    accuracy = sum(row.correct for row in answered) / max(1, len(answered))
    error = 1.96 * sqrt(accuracy * (1 - accuracy) / max(1, len(answered)))
    right = sum(row.correct for row in good)

    def of_class(name: str) -> Sequence[Row]:
        return [row for row in ran.rows if row.slo_class == name]

    shares = [sum(row in good for row in of_class(name)) / max(1, len(of_class(name))) for name in limits]
    medians = [median(row.latency_ms for row in of_class(name)) for name in limits if of_class(name)]
    return (
        f"| {ran.policy} | {len(good) / ran.lasts_s:.2f} | {accuracy:.3f} ± {error:.3f} | {right / ran.lasts_s:.2f} | "
        f"{', '.join(f'{share:.0%}' for share in shares)} | {', '.join(f'{value:.0f}' for value in medians)} | "
        f"{sum(row.n for row in ran.rows) / max(1, len(ran.rows)):.1f} | {sum(row.gpu_s for row in ran.rows):.0f} |"
    )


def table(told: argparse.Namespace) -> None:
    """Real and simulated, one under the other, by policy."""
    for kind in ("real", "simulated"):
        folder = told.out / kind
        if not (folder / "workload.json").exists():
            continue
        work = Workload.model_validate_json((folder / "workload.json").read_bytes())
        print(f"\n### {kind.capitalize()}\n\n{HEAD}")
        for policy in DEFAULT:
            path = folder / f"{policy.replace(' ', '_').replace(':', '-')}.json"
            if path.exists():
                print(line(msgspec.json.decode(path.read_bytes(), type=Ran), work))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("--config", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--simulated", action="store_true")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load level")
    parser.add_argument("--max-rate", type=float, default=40.0, help="requests/s at the high level, at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--policies", type=lambda text: text.split(","), default=list(DEFAULT))
    told = parser.parse_args()
    if told.what == "table":
        table(told)
    else:
        run_all(told)


if __name__ == "__main__":
    main()
