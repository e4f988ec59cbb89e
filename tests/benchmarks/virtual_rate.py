"""How many requests the whole proxy makes in virtual time per CPU second: `python tests/benchmarks/virtual_rate.py`.

On the proof's fleet and arrivals, once and for four times as long, so that what starting takes is left out.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import proof_fleet as fleets
import proof_run as runs
from bench_fleet import ROOT

POLICIES = (
    "least-loaded any none",
    "least-loaded any self-consistency:4",
    "least-loaded any self-consistency:8",
    runs.PARETOPROXY,
)
LONGER = 4


def main() -> None:
    logging.disable(logging.WARNING)
    folder = ROOT / "build/virtual-rate"
    files = fleets.write_fleet(folder)
    print("| policy | requests/s | of them to engines |\n|---|--:|--:|")
    for policy in POLICIES:
        once, more = (
            runs.run_policy(runs.World(folder, files, _lasting(times)), policy, "poisson") for times in (1, LONGER)
        )
        cpu_s = more.cpu_s - once.cpu_s
        branches = sum(row.n for row in more.rows) - sum(row.n for row in once.rows)
        print(f"| {policy} | {(len(more.rows) - len(once.rows)) / cpu_s:.0f} | {branches / cpu_s:.0f} |", flush=True)


def _lasting(times: int) -> fleets.Load:
    return replace(fleets.FULL, low_s=fleets.FULL.low_s * times, high_s=fleets.FULL.high_s * times)


if __name__ == "__main__":
    main()
