"""Is a simulated engine like the real one? The cells of `prediction.py` once more, in virtual time.

    python tests/benchmarks/prediction.py --profile 240s …    # leaves what it measured, and the profiles, behind
    python tests/benchmarks/fidelity.py                       # reads build/bench/prediction.jsonl; no engine runs
    python tests/benchmarks/fidelity.py --measured docs/data/prediction-demo.jsonl.gz --profiles docs/data/demo-profiles

The whole proxy over engines simulated from those profiles: the same votes, one after the other, idle and beside others'
requests. Per cell the p50 and the p95 of the end-to-end latency, simulated against measured. Questions are the pool's,
whose samples the simulated engines answer with; the measured ones were new. Reports to the terminal and to
build/bench/fidelity.md.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bench_fleet import OUT, ROOT
from prediction import OTHERS_TOKENS, cells, kept_running, stored
from prediction_apart import alone

from profiler.agree_run import samples_path
from profiler.quality_file import read_samples
from profiler.simulation.clock import LoopClock
from profiler.simulation.loop import run_virtually
from proxy.config import Config
from proxy.handler import Handler
from proxy.in_process import in_process_service
from proxy.in_process_client import ask
from proxy.simulated_fleet import Simulation, simulated_backends
from strategies.registry import Registry


@dataclass(frozen=True)
class Compared:
    """One cell. Latencies in ms, measured and simulated."""

    backend: str
    n: int
    others: int
    measured_ms: Sequence[float]
    simulated_ms: Sequence[float]

    def off(self, quantile: float) -> float:
        """Simulated over measured, less one."""
        return float(np.quantile(self.simulated_ms, quantile) / np.quantile(self.measured_ms, quantile)) - 1

    def row(self) -> str:
        told = [f"{np.quantile(of, q):.0f}" for q in (0.5, 0.95) for of in (self.measured_ms, self.simulated_ms)]
        return (
            f"| {self.backend} | {self.n} | {self.others} | {len(self.measured_ms)} | {told[0]} | {told[1]} | "
            f"{self.off(0.5):+.1%} | {told[2]} | {told[3]} | {self.off(0.95):+.1%} |"
        )


class Simulated:
    """One engine of the configuration, simulated, with the proxy before it, and another that others come through."""

    def __init__(self, config: Config, handler: Handler, of_others: Handler) -> None:
        model = config.models[0]
        assert model.task is not None
        self._model, self._handler, self._of_others = model.name, handler, of_others
        self._greedy = model.backends[0].sampling == "greedy"
        pool = read_samples(samples_path(model.quality[model.task]))
        self._questions = itertools.cycle([question.question for question in pool])

    async def latency_ms(self, n: int) -> float:
        """Of one vote as `prediction.py` asks for it."""
        pin = {"x-tts-n": str(n), "x-slo-latency-ms": "60000"}
        if n > 1:
            pin["x-tts-strategy"] = "self-consistency"
        answer = await ask(self._handler, self._body(), headers=pin)
        assert answer.status == 200, answer.body
        return answer.latency_s * 1e3

    async def one_of_others(self) -> None:
        answer = await ask(self._of_others, {**self._body(), "max_tokens": OTHERS_TOKENS})
        assert answer.status == 200, answer.body

    def _body(self) -> dict[str, Any]:
        message = {"role": "user", "content": next(self._questions)}
        return {"model": self._model, "messages": [message], "temperature": 0 if self._greedy else 1}


async def simulate(config: Config, n: int, others: int, requests: int) -> list[float]:
    fleet = simulated_backends(config, LoopClock(asyncio.get_running_loop()), Simulation(seed=7))
    registry = Registry.installed()
    service = await in_process_service(config, fleet, registry, few_chunks=True, seed=11)
    another = await in_process_service(config, fleet, registry, few_chunks=True, seed=12)
    try:
        engine = Simulated(config, Handler(service), Handler(another))
        async with kept_running(others, engine.one_of_others):
            await engine.latency_ms(n)  # not counted: the first of its kind
            return [await engine.latency_ms(n) for _ in range(requests)]
    finally:
        await service.aclose()
        await another.aclose()


def report(found: Sequence[Compared]) -> str:
    if not found:
        return "no cell was measured whole"
    lines = [
        "| engine | N | others | requests | measured p50, ms | simulated | off | measured p95, ms | simulated | off |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
        *(one.row() for one in found),
        "",
    ]
    for name, quantile in (("p50", 0.5), ("p95", 0.95)):
        off = [abs(one.off(quantile)) for one in found]
        lines.append(f"{name}: median over {len(off)} cells {statistics.median(off):.1%}, worst {max(off):.1%}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "examples/demo-fleet.yaml")
    parser.add_argument("--measured", type=Path, default=OUT / "prediction.jsonl")
    parser.add_argument("--profiles", type=Path, help="a folder of NAME.json; default: the configured ones")
    parser.add_argument("--whole", type=int, default=30, help="measured requests that a cell needs")
    parser.add_argument("--requests", type=int, default=200, help="simulated, per cell")
    told = parser.parse_args()
    measured = stored(told.measured)
    found = []
    for name, of in itertools.groupby(cells(measured), lambda cell: cell.requests[0].backend):
        _, config, _, _ = alone(told.config, name, profiles=told.profiles)
        for cell in [cell for cell in of if len(cell.requests) >= told.whole]:
            first, real = cell.requests[0], [request.latency_ms for request in cell.requests]
            simulated = run_virtually(simulate(config, first.n, first.others, told.requests))
            found.append(Compared(name, first.n, first.others, real, simulated))
            print(found[-1].row(), flush=True)
    (OUT / "fidelity.md").write_text(report(found) + "\n")
    print(report(found))


if __name__ == "__main__":
    main()
