"""Every fault of tests/proxy/fault_bed.py many times under load. Run: make faults ARGS="--times 200".

Prints a table, writes build/faults.json and build/faults.md, and ends with 1 where something did not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import uvloop

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/proxy"), str(ROOT)]

from fault_bed import FAULTS, Found, laid  # noqa: E402

COLUMNS = ("fault", "times", "requests", "hung", "failed", "lost traces", "double traces", "cut after a byte")
COLUMNS += ("slowest, s", "fds", "tasks", "connections", "objects")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--fault", choices=list(FAULTS), action="append")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "build")
    args = parser.parse_args()
    found = []
    for fault in args.fault or FAULTS:
        print(f"{fault}: {args.times} times …", file=sys.stderr, flush=True)
        new_loop = asyncio.new_event_loop if fault == "dns-change" else uvloop.new_event_loop
        with asyncio.Runner(loop_factory=new_loop) as runner:
            one = runner.run(_run(fault, args.times, args.seed))
        found.append(one)
        print(_row(one), flush=True)
        for example in one.examples:
            print(f"   {example}", flush=True)
        _write(args.out, found)
    sys.exit(0 if all(one.holds for one in found) else 1)


async def _run(fault: str, times: int, seed: int) -> Found:
    restore: list[tuple[Any, str, Any]] = []

    def set_attribute(where: Any, name: str, value: Any) -> None:
        restore.append((where, name, getattr(where, name)))
        setattr(where, name, value)

    try:
        with tempfile.TemporaryDirectory() as folder:
            async with laid(Path(folder), set_attribute, by_name=fault == "dns-change") as bed:
                return await bed.run(fault, times, seed)
    finally:
        for where, name, value in reversed(restore):
            setattr(where, name, value)


def _row(one: Found) -> str:
    levels: list[Callable[[Any], int]] = [
        lambda level: level.fds,
        lambda level: level.tasks,
        lambda level: level.connections,
        lambda level: level.objects,
    ]
    before_after = [f"{of(one.before)} → {of(one.after)}" for of in levels]
    figures = (one.times, one.requests, one.hung, one.failed, one.lost_traces, one.double_traces, one.broken)
    return "| " + " | ".join([one.fault, *map(str, figures), f"{one.slowest_s:.1f}", *before_after]) + " |"


def _write(out: Path, found: list[Found]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    document = {"date": datetime.date.today().isoformat(), "machine": machine, "faults": [asdict(one) for one in found]}
    (out / "faults.json").write_text(json.dumps(document, indent=1))
    head = "| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS) + "\n"
    (out / "faults.md").write_text(head + "".join(_row(one) + "\n" for one in found))


if __name__ == "__main__":
    main()
