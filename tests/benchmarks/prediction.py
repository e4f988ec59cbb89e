"""Is what the planner predicts what happens? N-branch requests on real engines, through the real proxy.

    python tests/benchmarks/prediction.py --engine-python .venv-vllm/bin/python [--profile 90s] [--only s-tp1,…]

One engine at a time (on two cores engines contend), idle and beside others' requests that go to it directly. Per cell
of (engine, N, load): the predicted median against the measured one; over all: the share of requests within the
predicted p95. Three times: as the profile has it, without the online correction (its bias and spread are in the traces
and taken out); at the machine's pace, for which a few of the profile's cells are measured again before and after every
cell, as `profile --check` does: on shared cores it changes by a fifth within minutes, which no predictor foresees; and
with the online correction, as it is served. `--together` runs all engines and clients at once instead; `--apart`
takes the named engines, which run already and each have a GPU of their own, side by side.

Reports to the terminal and to build/bench/prediction.md; `--told FILE` on what an earlier run left, of the `--only`
engines. The configured profiles are used; `--profile 90s` measures
each engine's anew right before. `--more` adds to the requests of the runs before, and reports on all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gzip
import itertools
import json
import math
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import httpx
from bench_fleet import OUT, ROOT, engine, proxy
from prediction_apart import FIRST_PORT, alone

from profiler.tasks import load_task
from proxy.backend import open_backend
from proxy.bench import EngineBench
from proxy.cli.profile import Duration, profile_fleet
from proxy.config import BackendConfig, Config, ModelConfig, load
from proxy.launch import Engines, Machine, specs
from proxy.profiling import Job, check_profile

SIZES = (1, 2, 4, 8, 16)
OTHERS = 4  # requests of others kept running in the loaded cells
OTHERS_TOKENS = 1024  # of each at most
TASK, QUESTIONS = "tinymath-held-out", 400
PACE_CELLS = 6
SETTLE_S = 1.5  # the proxy's view of the others' load is up to half a second old


@dataclass(frozen=True)
class Request:
    """One answered request; `bias` and `spread`: the correction that its prediction held; `pace`: how much slower the
    machine was than when the profile was measured.

    `branches`: (ms from the request to its start, tokens, whether it ended by itself) of each that generated, for
    `fidelity.py`; `scored_ms`: that a reward model took after them, where a vote was tied.
    """

    backend: str
    n: int
    others: int
    latency_ms: float
    median_ms: float
    tail_ms: float
    bias: float
    spread: float
    pace: float = 1.0
    prompt_tokens: int = 0
    scored_ms: float = 0.0
    branches: Sequence[tuple[float, int, bool]] = ()

    @property
    def raw_median_ms(self) -> float:
        return self.median_ms / self.bias

    @property
    def raw_tail_ms(self) -> float:
        return self.raw_median_ms * (self.tail_ms / self.median_ms) ** (1 / self.spread)


@dataclass(frozen=True)
class Cell:
    """All requests of one (backend, n, others)."""

    requests: Sequence[Request]

    @property
    def measured_ms(self) -> float:
        return statistics.median(request.latency_ms for request in self.requests)

    @property
    def predicted_ms(self) -> float:
        return statistics.median(request.raw_median_ms for request in self.requests)

    @property
    def paced_ms(self) -> float:
        return statistics.median(request.raw_median_ms * request.pace for request in self.requests)

    @property
    def corrected_ms(self) -> float:
        return statistics.median(request.median_ms for request in self.requests)

    def noise(self) -> float:
        """By how much the measured median would be another with other questions, relative."""
        rng, took = random.Random(1), [request.latency_ms for request in self.requests]
        again = (statistics.median(rng.choices(took, k=len(took))) for _ in range(200))
        return statistics.median(abs(one / self.measured_ms - 1) for one in again)

    def row(self) -> str:
        first = self.requests[0]
        within = sum(request.latency_ms <= request.raw_tail_ms for request in self.requests)
        return (
            f"| {first.backend} | {first.n} | {first.others} | {len(self.requests)} | {self.measured_ms:.0f} | "
            f"{self.predicted_ms:.0f} | {self.predicted_ms / self.measured_ms - 1:+.1%} | "
            f"{first.pace:.2f} | {self.paced_ms / self.measured_ms - 1:+.1%} | "
            f"{self.corrected_ms / self.measured_ms - 1:+.1%} | {within}/{len(self.requests)} |"
        )


def cells(requests: Sequence[Request]) -> list[Cell]:
    def key(request: Request) -> tuple[str, int, int]:
        return request.backend, request.others, request.n

    return [Cell(list(group)) for _, group in itertools.groupby(sorted(requests, key=key), key)]


def report(requests: Sequence[Request], whole: int) -> str:
    """Errors are over the cells with as many requests as were asked for; an interrupted one tells no median."""
    found = [cell for cell in cells(requests) if len(cell.requests) >= whole]
    if not found:
        return "no cell was finished"
    requests = [request for cell in found for request in cell.requests]
    lines = [
        "| engine | N | others | requests | measured p50, ms | predicted p50 | error | pace | at this pace | "
        "corrected | within p95 |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
        *(cell.row() for cell in found),
        "",
    ]
    for name, error_of, tail_of in (
        ("profile alone", lambda cell: cell.predicted_ms, lambda request: request.raw_tail_ms),
        ("at the machine's pace", lambda cell: cell.paced_ms, lambda request: request.raw_tail_ms * request.pace),
        ("with online correction", lambda cell: cell.corrected_ms, lambda request: request.tail_ms),
    ):
        errors = [abs(error_of(cell) / cell.measured_ms - 1) for cell in found]
        within = sum(request.latency_ms <= tail_of(request) for request in requests) / len(requests)
        lines.append(
            f"{name}: median absolute error of the predicted p50 over {len(found)} cells "
            f"{statistics.median(errors):.1%} (worst {max(errors):.1%}); {within:.1%} of {len(requests)} requests "
            "within the predicted p95"
        )
    noise = statistics.median(cell.noise() for cell in found)
    lines.append(f"a measured p50 is itself known to {noise:.1%} (median over the cells; bootstrap, median deviation)")
    return "\n".join(lines)


class Client:
    """Asks the proxy pinned questions and reads each prediction from its trace."""

    def __init__(self, url: str, questions: Iterator[str]) -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=120)
        self._questions = questions

    async def aclose(self) -> None:
        await self._http.aclose()

    async def ask(self, model: str, n: int, others: int, *, greedy: bool) -> Request:
        message = {"role": "user", "content": next(self._questions)}
        body = {"model": model, "messages": [message], "temperature": 0 if greedy else 1}
        pin = {"x-tts-n": str(n), "x-slo-latency-ms": "60000"}  # an SLO, so that one branch is planned as well
        if n > 1:
            pin["x-tts-strategy"] = "self-consistency"
        began = time.perf_counter()
        response = await self._http.post("/v1/chat/completions", json=body, headers=pin)
        latency_ms = (time.perf_counter() - began) * 1e3
        response.raise_for_status()
        trace = await self._trace(response.json()["usage"]["tts"]["trace_id"])
        plan, told = trace["plan"], trace["plan"]["predicted"]
        return Request(
            backend=plan["backend"],
            n=n,
            others=others,
            latency_ms=latency_ms,
            median_ms=told["median_ms"],
            tail_ms=told["latency_ms"],
            bias=told["bias"],
            spread=told["spread"],
            **as_run(trace),
        )

    async def _trace(self, trace_id: str) -> dict[str, Any]:
        for _ in range(200):
            response = await self._http.get(f"/v1/traces/{trace_id}")
            if response.status_code == 200:
                return response.json()
            await asyncio.sleep(0.02)
        raise RuntimeError(f"the trace {trace_id} was not written")


def as_run(trace: dict[str, Any]) -> dict[str, Any]:
    """What of a request's trace it takes to run it once more on a simulated engine."""
    scores = [branch for branch in trace["branches"] if branch.get("role") == "score"]
    generated = [branch for branch in trace["branches"] if branch not in scores]
    return {
        "prompt_tokens": generated[0]["prompt_tokens"],
        "scored_ms": round(sum(branch["end_ms"] - branch["start_ms"] for branch in scores), 3),
        "branches": [
            (branch["start_ms"], branch.get("completion_tokens", 0), branch["outcome"] == "completed")
            for branch in generated
        ],
    }


def questions(block: int) -> Iterator[str]:
    """Without end; every `block` of them in a row is spread evenly over the difficulties, so that few requests tell a
    median well. No table was made from any."""
    pool = sorted(
        load_task(TASK, count=QUESTIONS).questions, key=lambda question: (len(question.label), question.label)
    )
    for offset in itertools.count():
        for stratum in range(block):
            low, high = stratum * QUESTIONS // block, (stratum + 1) * QUESTIONS // block
            yield pool[low + offset * 7 % (high - low)].question


@contextlib.asynccontextmanager
async def kept_running(count: int, once: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """`count` requests of somebody else at any time. Raises what one of them failed with: the load was not there."""

    async def again_and_again() -> None:
        while True:
            await once()

    tasks = [asyncio.create_task(again_and_again()) for _ in range(count)]
    try:
        await asyncio.sleep(SETTLE_S if count else 0)
        yield
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception):
            raise end


@contextlib.asynccontextmanager
async def others(model: str, backend: BackendConfig, count: int) -> AsyncIterator[None]:
    """Others' load on the engine itself, not through the proxy."""
    opened = open_backend(backend, model, None, time.monotonic)
    bench, asked = EngineBench(opened), questions(40)
    temperature = 0.0 if backend.sampling == "greedy" else 1.0
    try:
        async with kept_running(
            count, lambda: bench.chat(next(asked), 1, temperature=temperature, max_tokens=OTHERS_TOKENS)
        ):
            yield
    finally:
        await opened.pool.aclose()


async def one_engine(
    args: argparse.Namespace, config: Config, model: ModelConfig, backend: BackendConfig, say: Record
) -> None:
    async with Engines(engine(config, model, backend, args.engine_python)) as engines:
        await engines.start(print)
        await running_engine(args, args.config, config, model, backend, say)


async def running_engine(
    args: argparse.Namespace, path: Path, config: Config, model: ModelConfig, backend: BackendConfig, say: Record
) -> None:
    greedy = backend.sampling == "greedy"
    if args.profile:
        await profile_fleet(config, backend.name, budget_s=Duration().convert(args.profile, None, None))
    async with (
        proxy(path, config) as url,
        contextlib.aclosing(Client(url, questions(args.requests + 1))) as client,
    ):
        pace = await machine_pace(model, backend)
        for count in (0, OTHERS):
            for n in SIZES[:1] if greedy else SIZES:
                cell = []
                async with others(model.name, backend, count):
                    await client.ask(model.name, n, count, greedy=greedy)  # not counted: the first of its kind
                    for _ in range(args.requests):
                        cell.append(await client.ask(model.name, n, count, greedy=greedy))
                before, pace = pace, await machine_pace(model, backend)
                cell = [replace(request, pace=math.sqrt(before * pace)) for request in cell]
                for request in cell:
                    say(request)
                print(Cell(cell).row(), flush=True)


async def side_by_side(args: argparse.Namespace) -> None:
    """A process for each engine, since one would be too slow to read for all. One that fails takes no other with it."""

    async def measured(index: int, name: str) -> None:
        told = ["--child", "--apart", name, "--port", str(FIRST_PORT + index), "--requests", str(args.requests)]
        told += ["--more", "--config", str(args.config), *(["--profile", args.profile] if args.profile else [])]
        process = await asyncio.create_subprocess_exec(sys.executable, __file__, *told)
        try:
            if await process.wait():
                print(f"the measurement of {name} failed", flush=True)
        finally:
            if process.returncode is None:  # cancelled
                process.terminate()
                await process.wait()

    async with asyncio.TaskGroup() as group:
        for index, name in enumerate(args.apart.split(",")):
            group.create_task(measured(index, name))


async def machine_pace(model: ModelConfig, backend: BackendConfig) -> float:
    """Seconds now over seconds as profiled, over a few of the profile's own cells."""
    assert backend.profile is not None
    await asyncio.sleep(SETTLE_S)  # until the engine has dropped what was cancelled
    opened = open_backend(backend, model.name, None, time.monotonic)
    try:
        return (await check_profile(Job(opened, backend.profile, 0.0), PACE_CELLS)).ratio
    finally:
        await opened.pool.aclose()


async def all_engines(args: argparse.Namespace, config: Config, say: Record) -> None:
    """Every engine up, four clients at once, each with pinned N; the proxy chooses the engine."""
    async with Engines(specs(config, args.engine_python, OUT / "logs", Machine.here())) as engines:
        await engines.start(print)
        async with (
            proxy(args.config, config) as url,
            contextlib.aclosing(Client(url, questions(args.requests))) as client,
        ):
            models = [model for model in config.models if model.backends]

            async def visitor(index: int) -> None:
                for turn in range(args.requests):
                    n = SIZES[(turn + index) % len(SIZES)]
                    say(await client.ask(models[(turn + index) % len(models)].name, n, -1, greedy=False))

            await asyncio.gather(*(visitor(index) for index in range(4)))


class Record:
    """Keeps every request on disk as soon as it is told: an interrupted run loses one cell at most."""

    def __init__(self, path: Path, *, more: bool) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_text().splitlines() if more and path.exists() else []
        self.requests = [Request(**json.loads(line)) for line in before]
        if not more:
            path.write_text("")

    def __call__(self, request: Request) -> None:
        self.requests.append(request)
        with self._path.open("a") as file:
            file.write(json.dumps(asdict(request)) + "\n")


def stored(paths: Sequence[Path], names: str | None = None) -> list[Request]:
    """What earlier runs left, of these engines."""
    found = []
    for path in paths:
        lines = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        found += [Request(**json.loads(line)) for line in lines.splitlines()]
    return [request for request in found if names is None or request.backend in names.split(",")]


async def run(args: argparse.Namespace) -> None:
    config = load(args.config)
    record = Record(OUT / ("prediction-together.jsonl" if args.together else "prediction.jsonl"), more=args.more)
    if args.together:
        await all_engines(args, config, record)
    if args.child:
        await running_engine(args, *alone(args.config, args.apart, args.port), record)
        return
    if args.apart:
        await side_by_side(args)
        record = Record(OUT / "prediction.jsonl", more=True)
    started = [] if args.together or args.apart else [model for model in config.models if model.backends]
    for model in started:
        for backend in model.backends:
            if args.only is None or backend.name in args.only.split(","):
                await one_engine(args, config, model, backend, record)
    told = report(record.requests, 1 if args.together else args.requests)
    (OUT / ("prediction-together.md" if args.together else "prediction.md")).write_text(told + "\n")
    print(told)
    expected = 1.96 * math.sqrt(0.95 * 0.05 / max(1, len(record.requests)))
    print(f"(95% of {len(record.requests)} requests is known to ±{expected:.1%})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "examples/demo-fleet.yaml")
    parser.add_argument("--engine-python", default=str(ROOT / ".venv-vllm/bin/python"))
    parser.add_argument("--requests", type=int, default=40, help="per cell")
    parser.add_argument("--profile", metavar="BUDGET", help="measure each engine's profile first, for so long: 90s")
    parser.add_argument("--only", help="names of backends, with commas")
    parser.add_argument("--together", action="store_true")
    parser.add_argument("--apart", metavar="NAMES", help="engines that run already, each on a GPU of its own")
    parser.add_argument("--port", type=int, default=FIRST_PORT, help=argparse.SUPPRESS)  # of a --child's proxy
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)  # one engine of --apart
    parser.add_argument("--told", type=Path, nargs="+", metavar="FILE", help="measure nothing: what these tell")
    parser.add_argument("--more", action="store_true", help="keep the requests of earlier runs and report on all")
    args = parser.parse_args()
    if args.told:
        print(report(stored(args.told, args.only), args.requests))
    else:
        asyncio.run(run(args))


if __name__ == "__main__":
    main()
