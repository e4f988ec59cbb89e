"""The held-out cells of the shipped H200 profiles on simulated engines: how far off, per profile and over all; and,
signed, the mean over the cells of the fits, from which `HELD_UP` was chosen.

python tests/profiler/held_out.py [HELD_UP]
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from engine_rig import run_cell

import profiler.profiles
from profiler import profile_file
from profiler.cells import Cell
from profiler.profile_file import Profile
from profiler.simulation import engine
from profiler.simulation.engine_spec import EngineSpec

FOLDER = Path(profiler.profiles.__file__).parent
MEASURED = sorted(path for path in FOLDER.glob("*.json") if "modelled" not in path.name)


def errors(path: Path) -> Iterator[float]:
    """|simulated − measured| / measured latency of the cells that the profile's fit never saw."""
    return map(abs, _off(path, held_out=True))


def _off(path: Path, *, held_out: bool) -> Iterator[float]:
    profile = profile_file.read(path)
    for cell in profile.cells:
        if cell.held_out == held_out and not cell.spec.beside:
            _, latency_s = run_cell(spec_of(profile, cell), cell.spec)
            yield latency_s / cell.latency_s - 1


def spec_of(profile: Profile, cell: Cell) -> EngineSpec:
    """Without noise; drafts accepted as they were in that cell."""
    spec = replace(EngineSpec.of_profile(profile), sigma=0.0)
    return replace(spec, acceptance_length=cell.acceptance_length) if spec.draft_tokens else spec


def main() -> None:
    if len(sys.argv) > 1:
        engine.HELD_UP = float(sys.argv[1])
    print("| profile | cells | p50 | p95 | worst | of the fit, mean |\n|---|--:|--:|--:|--:|--:|")
    found = {path.stem: list(errors(path)) for path in MEASURED}
    every = [error for of in found.values() for error in of]
    fits = {path.stem: list(_off(path, held_out=False)) for path in MEASURED}
    fits["all"] = [off for of in fits.values() for off in of]
    for name, of in {**found, "all": every}.items():
        told = " | ".join(f"{np.quantile(of, share):.1%}" for share in (0.5, 0.95, 1.0))
        print(f"| {name} | {len(of)} | {told} | {np.mean(fits[name]):+.1%} |")


if __name__ == "__main__":
    main()
