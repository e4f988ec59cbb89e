"""The held-out cells of the shipped H200 profiles on simulated engines: how far off, per profile and over all.

python tests/profiler/held_out.py
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from engine_rig import run_cell

import profiler.profiles
from profiler import profile_file
from profiler.cells import Cell
from profiler.profile_file import Profile
from profiler.simulation.engine_spec import EngineSpec

FOLDER = Path(profiler.profiles.__file__).parent
MEASURED = sorted(path for path in FOLDER.glob("*.json") if "modelled" not in path.name)


def errors(path: Path) -> Iterator[float]:
    """|simulated − measured| / measured latency of the cells that the profile's fit never saw."""
    profile = profile_file.read(path)
    for cell in profile.cells:
        if cell.held_out:
            _, latency_s = run_cell(spec_of(profile, cell), cell.spec)
            yield abs(latency_s / cell.latency_s - 1)


def spec_of(profile: Profile, cell: Cell) -> EngineSpec:
    """Without noise; drafts accepted as they were in that cell."""
    spec = replace(EngineSpec.of_profile(profile), sigma=0.0)
    return replace(spec, acceptance_length=cell.acceptance_length) if spec.draft_tokens else spec


def main() -> None:
    print("| profile | cells | p50 | p95 | worst |\n|---|--:|--:|--:|--:|")
    found = {path.stem: list(errors(path)) for path in MEASURED}
    others = [error for name, of in found.items() if "1.7b-tp1-ngram" not in name for error in of]
    every = [error for of in found.values() for error in of]
    for name, of in {**found, "all": every, "all but 1.7b-tp1-ngram": others}.items():
        told = " | ".join(f"{np.quantile(of, share):.1%}" for share in (0.5, 0.95, 1.0))
        print(f"| {name} | {len(of)} | {told} |")


if __name__ == "__main__":
    main()
