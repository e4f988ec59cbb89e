"""How many requests virtual time makes per CPU second, and that both ways through it tell the same:
`python tests/benchmarks/virtual_rate.py`.

On the proof's fleet: the whole proxy (`proxy.in_process`), and its planner and strategies alone (`proxy.virtual`), in
turn on the same arrivals, with the same answers. Each once and for four times as long, so that what starting takes is
left out.
"""

from __future__ import annotations

import gc
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean, median

import proof_fleet as fleets
import proof_policies as policies
import proof_run as runs
from bench_fleet import ROOT

from profiler.loadtest.schedule import schedule
from proxy.config import load
from proxy.simulated_fleet import Simulation
from proxy.virtual.fleet import VirtualFleet
from proxy.virtual.traffic import VirtualTraffic
from strategies.answers.extract import extract
from strategies.registry import Registry

POLICIES = (
    "least-loaded any none",
    "least-loaded any self-consistency:4",
    "least-loaded any self-consistency:8",
    runs.PARETOPROXY,
)
LONGER = 4
SEEDS = range(1, 11)
LIMITS_MS = {one.name: one.slo.latency_ms or 0.0 for one in fleets.CLASSES}


@dataclass(frozen=True, slots=True)
class Told:
    """Of one run. `branches`: requests to engines, as planned."""

    cpu_s: float
    requests: int
    branches: int
    p50_ms: float
    in_time: float
    correct: float
    gpu_s: float


def main() -> None:
    logging.disable(logging.WARNING)
    folder = ROOT / "build/virtual-rate"
    world = runs.World(folder, fleets.write_fleet(folder), fleets.FULL)
    print("Requests of clients (of them to engines) per CPU second.\n")
    print("| policy | the whole proxy | planner and strategies alone |\n|---|--:|--:|")
    for policy in POLICIES:
        cells = []
        for way in (whole, alone):
            once, more = (way(_lasting(world, times), policy, 1) for times in (1, LONGER))
            cpu_s = more.cpu_s - once.cpu_s
            requests, branches = more.requests - once.requests, more.branches - once.branches
            cells.append(f"{requests / cpu_s:,.0f} ({branches / cpu_s:,.0f})")
        print(f"| {policy} | {' | '.join(cells)} |", flush=True)
    print(f"\nAlone, against the whole proxy: means of {len(SEEDS)} seeds.\n")
    print("| policy | p50 | in time | right | GPU-seconds |\n|---|--:|--:|--:|--:|")
    for policy in POLICIES:
        first, second = ([way(world, policy, seed) for seed in SEEDS] for way in (whole, alone))
        print(f"| {policy} | {' | '.join(_apart(first, second))} |", flush=True)


def whole(world: runs.World, policy: str, seed: int) -> Told:
    ran = runs.run_policy(world, policy, "poisson", seed)
    return Told(
        ran.cpu_s,
        len(ran.rows),
        sum(row.n for row in ran.rows),
        median(row.latency_ms for row in ran.rows),
        mean(row.done > 0 and row.latency_ms <= LIMITS_MS[row.slo_class] for row in ran.rows),
        mean(row.correct for row in ran.rows),
        sum(row.gpu_s for row in ran.rows),
    )


def alone(world: runs.World, policy: str, seed: int) -> Told:
    began, registry = time.process_time(), Registry.installed()
    policies.REQUEST.set(policies.Request(0, "", 0))
    fleet = VirtualFleet.of(
        load(runs.configured(world.files, policy), {}),
        Simulation(seed=7),
        registry=registry,
        engines=load(world.files.truth, {}),
        chooser=runs.chooser(policy, world, {}, registry),
        seed=11,
    )
    planned = [
        replace(one, body={**one.body, "seed": one.index * runs.SEED_STEP})
        for one in schedule(fleets.workload("poisson", world.load, seed)).requests
    ]
    gc.collect()
    gc.freeze()
    traffic = VirtualTraffic(fleet, planned, fleets.ANY, timeout_s=600)
    traffic.run()
    gc.unfreeze()
    rows = traffic.results
    right = fleets.right_answers([fleets.read_pool(world.folder, model) for model in fleets.POOL_OF])
    correct = [(extract(row.text or "") or "") in right[planned[row.index].prompt] for row in rows]
    return Told(
        time.process_time() - began,
        len(rows),
        sum(row.n or 0 for row in rows),
        median(row.latency_ms or 0.0 for row in rows),
        mean(row.finish_reason == "stop" and bool(row.met) for row in rows),
        mean(is_right and row.finish_reason == "stop" for is_right, row in zip(correct, rows, strict=True)),
        sum(row.gpu_seconds or 0.0 for row in rows),
    )


def _apart(first: Sequence[Told], second: Sequence[Told]) -> list[str]:
    def relative(name: str) -> str:
        before, after = (mean(getattr(one, name) for one in told) for told in (first, second))
        return f"{after / before - 1:+.1%}"

    return [relative(name) for name in ("p50_ms", "in_time", "correct", "gpu_s")]


def _lasting(world: runs.World, times: int) -> runs.World:
    low_s, high_s = fleets.FULL.low_s * times, fleets.FULL.high_s * times
    return replace(world, load=replace(fleets.FULL, low_s=low_s, high_s=high_s))


if __name__ == "__main__":
    sys.exit(main())
