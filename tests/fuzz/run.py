"""`make fuzz ARGS="--minutes 10"`: the fuzz tests with other examples, again and again, and atheris where it is
installed, until the time is over or something fails.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
GUIDED = ("sse", "extract", "canonical", "controls", "json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--times", type=int, default=10, help="examples per round, as a multiple of the suite's")
    args = parser.parse_args()
    until, rounds = time.monotonic() + args.minutes * 60, 0
    guided = GUIDED if importlib.util.find_spec("atheris") is not None else ()
    if not guided:
        print("atheris is not installed: hypothesis and schemathesis alone (pip install atheris; Linux, Python 3.11+)")
    while time.monotonic() < until:
        rounds += 1
        print(f"== round {rounds}, {max(0.0, until - time.monotonic()) / 60:.1f} minutes left", flush=True)
        command = [sys.executable, "-m", "pytest", "-x", "-q", str(HERE), "-p", "no:cacheprovider"]
        _run(command, {**os.environ, "FUZZ_TIMES": str(args.times)}, until)
        for target in guided:
            left_s = min(60.0, until - time.monotonic())
            if left_s > 1:
                _run([sys.executable, str(HERE / "guided.py"), target, f"-max_total_time={left_s:.0f}"], None, until)
    print(f"== {rounds} rounds in {args.minutes:g} minutes, and nothing found")


def _run(command: list[str], environ: dict[str, str] | None, until: float) -> None:
    """Exits where it fails; a run that the time ends is none that failed."""
    try:
        done = subprocess.run(
            command, env=environ, cwd=HERE.parents[1], timeout=max(30.0, until + 30 - time.monotonic())
        )
    except subprocess.TimeoutExpired:
        return
    if done.returncode:
        sys.exit(f"fuzz: {' '.join(command)} failed")


if __name__ == "__main__":
    main()
