"""Is a simulated engine like the real one? What `prediction.py` measured, request by request once more in virtual time.

    python tests/benchmarks/prediction.py --profile 240s …    # leaves what it measured, and the profiles, behind
    python tests/benchmarks/fidelity.py                       # reads build/bench/prediction.jsonl; no engine runs
    python tests/benchmarks/fidelity.py --measured docs/data/prediction-demo{,-2}.jsonl.gz \\
        --profiles docs/data/demo-profiles{,-2} --whole 36 --seeds 40

Each engine simulated from its profile gets the same votes: branches of the same lengths, started at the same times, and
cut when the last that ended by itself in truth has ended. Beside them run others' requests, whose lengths were not
recorded and are drawn from the pool's. Per cell the p50 and the p95 of the latency, simulated against measured (less
what a reward model took, which is not simulated): as profiled, and at the machine's pace, by which prediction.py found
it slower than the profile just before and after the cell. Reports to the terminal and to build/bench/fidelity.md.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from bench_fleet import OUT, ROOT
from prediction import OTHERS_TOKENS, SETTLE_S, Cell, Request, cells, stored
from prediction_apart import alone

from profiler.agree_run import samples_path
from profiler.quality_file import StoredQuestion, read_samples
from profiler.simulation.clock import VirtualClock
from profiler.simulation.engine import Engine
from profiler.simulation.engine_spec import EngineSpec
from profiler.simulation.generation import Generation
from profiler.simulation.kv_memory import Prompt
from profiler.simulation.tokenizer import prompt_of
from proxy.config import BackendConfig, ModelConfig
from proxy.simulated_fleet import Simulation, engine_spec

BETWEEN_S = 0.03  # from an answer to the next request
LOOK_EVERY_S = 0.1
UNENDING = 100_000  # tokens of a branch that was cut in truth


@dataclass(frozen=True)
class Compared:
    """One cell. Latencies in ms: measured, simulated as profiled, and simulated at the machine's pace."""

    backend: str
    n: int
    others: int
    measured_ms: Sequence[float]
    simulated_ms: Sequence[float]
    paced_ms: Sequence[float]

    def off(self, quantile: float, *, paced: bool) -> float:
        """Simulated over measured, less one."""
        simulated = np.quantile(self.paced_ms if paced else self.simulated_ms, quantile)
        return float(simulated / np.quantile(self.measured_ms, quantile)) - 1

    def row(self) -> str:
        told = [
            f"{np.quantile(self.measured_ms, q):.0f} | {np.quantile(self.simulated_ms, q):.0f} | "
            f"{self.off(q, paced=False):+.1%} | {self.off(q, paced=True):+.1%}"
            for q in (0.5, 0.95)
        ]
        return f"| {self.backend} | {self.n} | {self.others} | {len(self.measured_ms)} | {' | '.join(told)} |"


class Replay:
    """One simulated engine, on which requests of a cell run one after the other, as they did in truth."""

    def __init__(self, spec: EngineSpec, others: int, pool: Sequence[StoredQuestion], *, greedy: bool) -> None:
        self._clock = VirtualClock()
        self._engine = Engine(spec, self._clock)
        self._pool, self._greedy, self._rng = pool, greedy, random.Random(spec.seed)
        self._fresh = itertools.count(1_000_000)
        for _ in range(others):
            self._another()
        self._clock.run(SETTLE_S)

    def latency_ms(self, request: Request) -> float:
        """Until all have ended that ended by themselves; then the others are cut."""
        began_s, prompt = self._clock.now(), self._prompt(request.prompt_tokens)
        started: list[Generation] = []
        ends: list[float] = []

        def start(tokens: int, whole: bool) -> None:
            def listen(_: int, last: bool) -> None:
                if last and whole:
                    ends.append(self._clock.now())

            started.append(self._engine.submit(prompt, tokens if whole else UNENDING, 0, listen))

        alarms = [
            self._clock.at(began_s + start_ms / 1e3, partial(start, tokens, whole))
            for start_ms, tokens, whole in request.branches
        ]
        wanted = sum(whole for _, _, whole in request.branches)
        while len(ends) < wanted:
            self._clock.run(self._clock.now() + LOOK_EVERY_S)
        for pending in (*alarms, *started):
            pending.cancel()
        self._clock.run(self._clock.now() + BETWEEN_S)
        return (max(ends) - began_s) * 1e3

    def _another(self) -> None:
        question = self._rng.choice(self._pool)
        sample = question.greedy if self._greedy else self._rng.choice(question.samples)

        def listen(_: int, last: bool) -> None:
            if last:
                self._another()

        prompt = self._prompt(question.prompt_tokens)
        self._engine.submit(prompt, min(sample.tokens, OTHERS_TOKENS), 0, listen)

    def _prompt(self, tokens: int) -> Prompt:
        """Like no other."""
        return prompt_of([next(self._fresh)] * tokens)


def compare(model: ModelConfig, backend: BackendConfig, cell: Cell, seeds: int) -> Compared:
    assert model.task is not None
    pool = list(read_samples(samples_path(model.quality[model.task])))
    first, requests = cell.requests[0], [request for request in cell.requests if any(b[2] for b in request.branches)]
    simulated = []
    for seed in range(seeds):
        spec = engine_spec(backend, Simulation(), seed=seed)
        replay = Replay(spec, first.others, pool, greedy=backend.sampling == "greedy")
        simulated += [replay.latency_ms(request) for request in requests]
    paces = itertools.cycle([request.pace for request in requests])
    return Compared(
        first.backend,
        first.n,
        first.others,
        [request.latency_ms - request.scored_ms for request in requests],
        simulated,
        [latency_ms * next(paces) for latency_ms in simulated],
    )


def report(found: Sequence[Compared]) -> str:
    if not found:
        return "no cell was measured whole, with its requests' branches"
    lines = [
        "| engine | N | others | requests | measured p50, ms | simulated | off | at the pace | "
        "measured p95, ms | simulated | off | at the pace |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
        *(one.row() for one in found),
        "",
    ]
    for label, paced in (("as profiled", False), ("at the machine's pace", True)):
        p50, p95 = ([abs(one.off(q, paced=paced)) for one in found] for q in (0.5, 0.95))
        lines.append(
            f"{label}: over {len(found)} cells p50 is off by {statistics.median(p50):.1%} at the median "
            f"(worst {max(p50):.1%}), p95 by {statistics.median(p95):.1%} (worst {max(p95):.1%})"
        )
    return "\n".join(lines)


def compared(
    config: Path, measured: Path, profiles: Path | None, whole: int, seeds: int, only: str | None = None
) -> list[Compared]:
    """Every cell of one run with as many requests as that whose branches are known."""
    known = [request for request in stored([measured], only) if request.branches]
    found = []
    for name, of in itertools.groupby(cells(known), lambda cell: cell.requests[0].backend):
        _, _, model, backend = alone(config, name, profiles=profiles)
        found += [compare(model, backend, cell, seeds) for cell in of if len(cell.requests) >= whole]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "examples/demo-fleet.yaml")
    parser.add_argument("--measured", type=Path, nargs="+", default=[OUT / "prediction.jsonl"], help="runs")
    parser.add_argument(
        "--profiles",
        type=Path,
        nargs="+",
        default=[None],
        help="of each run, a folder of NAME.json; default: configured",
    )
    parser.add_argument("--whole", type=int, default=30, help="measured requests that a cell needs")
    parser.add_argument("--seeds", type=int, default=5, help="how often each request runs, with other noise")
    parser.add_argument("--only", help="names of backends, with commas")
    told = parser.parse_args()
    if len(told.profiles) != len(told.measured):
        parser.error("--profiles: one folder for each run of --measured")
    found: list[Compared] = []
    for measured, profiles in zip(told.measured, told.profiles, strict=True):
        found += compared(told.config, measured, profiles, told.whole, told.seeds, told.only)
    text = report(found)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "fidelity.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
