"""The proof: paretoproxy against every fixed policy, an SLO-aware router and a clairvoyant planner, in virtual time.

Run: make proof (ARGS="--quick" for a smoke run of about a minute, "--again" to ignore earlier runs below build/proof,
"--jobs 2" for two processes). Writes docs/proof.md and its figures; a quick run prints its page instead.

To try something: --policies, --arrivals and --seeds run only those, below a --folder of their own (two processes that
write the same files would race), and print a line each.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial

import proof_fleet as fleets
import proof_report
import proof_run as runs
from proof_measures import Measured, measure

DOCS = runs.ROOT / "docs"
BUILD = runs.ROOT / "build" / "proof"
QUICK_FIXED = tuple(
    f"least-loaded {setting}"
    for setting in ("large none", "any none", "small none", "large self-consistency:4", "large self-consistency:8")
)

Cell = tuple[str, str, int]  # policy, arrivals, seed
SWEPT = (runs.PARETOPROXY, *(name for name in runs.FIXED if " any " in name and not name.startswith("round")))
OTHER_SEEDS = (2, 3)  # other arrivals, questions and samples, for those that the bars compare
AGAIN = (
    runs.PARETOPROXY,
    "least-loaded any self-consistency:8",
    "prefix-affine any self-consistency:8",
    "least-loaded any none:greedy",
)


def main() -> None:
    told = _arguments()
    logging.disable(logging.WARNING)  # a clairvoyant's choice of the model makes votes look better than the table
    folder = BUILD / (told.folder or ("quick" if told.quick else "full"))
    world = runs.World(folder, fleets.write_fleet(folder), fleets.QUICK if told.quick else fleets.FULL)
    fixed = QUICK_FIXED if told.quick else tuple(runs.FIXED)
    policies = (runs.PARETOPROXY, runs.CLAIRVOYANT, *runs.SLO_AWARE, *runs.BY_DEADLINE, *runs.ABLATIONS, *fixed)
    processes = ("poisson",) if told.quick else tuple(fleets.PROCESSES)
    cells = [(policy, process, 1) for policy in policies for process in processes]
    if not told.quick:
        cells += [(policy, process, seed) for seed in OTHER_SEEDS for process in processes for policy in AGAIN]
    if told.policies or told.arrivals or told.seeds:
        _print(world, told)
        return
    done: dict[Cell, runs.Ran] = {}
    for cell, ran in zip(cells, _all(world, cells, told.jobs, told.again), strict=True):
        done[cell] = ran
        print(f"{len(done)}/{len(cells)} {cell[1]}, seed {cell[2]}: {cell[0]}", file=sys.stderr, flush=True)
    swept = {} if told.quick else {load.high: _swept(replace(world, load=load), told) for load in fleets.SWEEP}
    page = proof_report.page(done, world.load, processes, swept)
    if told.quick:
        print(page.text)
        return
    page.write(DOCS)
    print(f"wrote {DOCS / 'proof.md'}", file=sys.stderr)


def _swept(world: runs.World, told: argparse.Namespace) -> dict[str, list[Measured]]:
    """Of each policy, its runs with every seed under Poisson arrivals."""
    cells = [(policy, "poisson", seed) for policy in SWEPT for seed in (1, *OTHER_SEEDS)]
    found: dict[str, list[Measured]] = {}
    for (policy, _, seed), ran in zip(cells, _all(world, cells, told.jobs, told.again), strict=True):
        found.setdefault(policy, []).append(measure(ran))
        print(f"{world.load.high:g}/s, seed {seed}: {policy}", file=sys.stderr, flush=True)
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few policies under a short load")
    parser.add_argument("--again", action="store_true", help="run everything again")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--policies", help="only these, separated by commas: prints them instead of the page")
    parser.add_argument("--arrivals", help="only these: poisson, bursty")
    parser.add_argument("--seeds", help="only these whole numbers, separated by commas")
    parser.add_argument("--folder", help="below build/proof")
    return parser.parse_args()


def _print(world: runs.World, told: argparse.Namespace) -> None:
    """A line per cell, and what each policy comes to on average."""
    policies = told.policies.split(",") if told.policies else [runs.PARETOPROXY]
    processes = told.arrivals.split(",") if told.arrivals else list(fleets.PROCESSES)
    seeds = [int(seed) for seed in told.seeds.split(",")] if told.seeds else [1]
    cells = [(policy, process, seed) for process in processes for seed in seeds for policy in policies]
    found: dict[str, list[Measured]] = {policy: [] for policy in policies}
    for cell, ran in zip(cells, _all(world, cells, told.jobs, told.again), strict=True):
        found[cell[0]].append(one := measure(ran))
        classes = " ".join(f"{name} {share:.1%}" for name, share in one.attainment.items())
        right = {name: _accuracy(ran, name) for name in one.attainment}
        told_of = " ".join(f"{name[:3]} {share:.3f}" for name, share in right.items())
        mean_n = f"N {one.mean_n:.1f} large {one.on_large:.0%}"
        rates = f"{one.goodput:.2f}/s {one.accuracy:.3f} right {one.right_per_s:.2f}"
        print(
            f"{cell[1]} {cell[2]} {cell[0]}: {rates} {mean_n} | {classes} | {told_of} | cpu {ran.cpu_s:.1f} s",
            flush=True,
        )
    for policy, each in found.items():
        means = [
            sum(values) / len(each)
            for values in zip(*((m.goodput, m.accuracy, m.right_per_s) for m in each), strict=True)
        ]
        print(f"mean {policy}: {means[0]:.2f}/s {means[1]:.3f} right {means[2]:.2f}")


def _accuracy(ran: runs.Ran, slo_class: str) -> float:
    answered = [row.correct for row in ran.rows if row.slo_class == slo_class and row.done]
    return sum(answered) / max(1, len(answered))


def _all(world: runs.World, cells: list[Cell], jobs: int, again: bool) -> Iterator[runs.Ran]:
    work = partial(_one, world, again)
    if jobs == 1:
        yield from map(work, cells)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(work, cells)


def _one(world: runs.World, again: bool, cell: Cell) -> runs.Ran:
    logging.disable(logging.WARNING)
    return runs.cached(world, *cell, again=again)


if __name__ == "__main__":
    main()
