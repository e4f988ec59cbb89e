"""What `scale_fleet.py` measures at one size, in a process of its own. Times are of this thread's CPU: on a shared
machine that leaves out the waiting, though not what neighbours do to its caches and its clock.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import uvloop
from scale_files import CHOICE_OF_ALL, CHOICE_OF_FOUR, TASK, TINYMATH, metrics_page

from profiler.quality_file import read_samples
from profiler.simulation.clock import LoopClock
from profiler.simulation.loop import run_virtually
from proxy import catalog_build, load_metrics
from proxy.catalog import Catalog, Served
from proxy.config import Config, load
from proxy.console_fleet import FleetReader
from proxy.controls import Slo
from proxy.handler import Handler
from proxy.in_process import in_process_service
from proxy.in_process_client import ask
from proxy.live import Live
from proxy.metrics import Metrics
from proxy.planner import choose
from proxy.plans import Ask
from proxy.probe import LOAD_EVERY_S, probe
from proxy.reload import Reloader
from proxy.simulated_fleet import simulated_backends
from proxy.trace import BranchTrace, PlanTrace, Trace
from proxy.trace_store import TraceStore
from strategies.registry import Registry

DECISIONS, LOOKS, REQUESTS, RELOADS = 300, 8, 240, 5
STRATEGIES = (("none", 1), ("self-consistency", 8), ("first-finish", 4))
QUESTIONS = list(read_samples(TINYMATH / "quality/tinymath-s.tinymath.samples.jsonl"))
Figures = dict[str, float]


def measure(path: Path) -> Figures:
    """All figures of one configuration, by name."""
    figures: Figures = {}
    registry = Registry.installed()
    before_mb = _rss_mb()
    with _timed(figures, "load_s"):
        config = load(path, {})
    with _timed(figures, "build_s"):
        catalog = catalog_build.build(config, registry, time.monotonic)
    gc.collect()
    figures["build_mb"] = _rss_mb() - before_mb
    gc.freeze()
    _decisions(figures, catalog)
    figures["decided_mb"] = _rss_mb() - before_mb
    _scrapes(figures, catalog)
    _pages(figures, catalog)
    figures["all_mb"] = _rss_mb()
    _requests(figures, config)
    figures.update(asyncio.run(_operating(path, config)))
    return figures


@contextmanager
def _timed(figures: Figures, name: str) -> Iterator[None]:
    began = time.thread_time()
    yield
    figures[name] = time.thread_time() - began


def _rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _ms(work: Callable[[], object]) -> float:
    began = time.thread_time()
    work()
    return (time.thread_time() - began) * 1e3


def _process_ms(work: Callable[[], object]) -> float:
    """Of all threads."""
    began = time.process_time()
    work()
    return (time.process_time() - began) * 1e3


# -- decisions --


def _decisions(figures: Figures, catalog: Catalog) -> None:
    """Cold: the first of its kind, which builds the model's tables; again for another limit of tokens."""
    rng = Random(0)
    for name in ("m0", CHOICE_OF_FOUR, CHOICE_OF_ALL):
        models = catalog.find(name)
        assert models is not None
        figures[f"{name}.cold_ms"] = _ms(lambda models=models: choose(_ask(), models))
        figures[f"{name}.cold_limit_ms"] = _ms(lambda models=models: choose(_ask(100), models))
        figures[f"{name}.candidates"] = choose(_ask(), models).considered
        times = [_one_decision(models, rng) for _ in range(DECISIONS)]
        figures[f"{name}.ms"], figures[f"{name}.p99_ms"] = (float(np.quantile(times, q)) for q in (0.5, 0.99))
    served = catalog.served["m0"]
    figures["pass.cold_ms"] = _ms(served.fastest)
    figures["pass.us"] = 1e3 * float(np.median([_ms(served.fastest) for _ in range(DECISIONS)]))


def _ask(max_tokens: int | None = None) -> Ask:
    return Ask(Slo(latency_ms=5000), TASK, 60, max_tokens, greedy=False)


def _one_decision(models: Sequence[Served], rng: Random) -> float:
    """Every decision sees another load."""
    for served in models:
        for backend in served.backends:
            backend.gpu_time.others = rng.random() * 30
    return _ms(lambda: choose(_ask(), models, rng))


# -- probes --


def _scrapes(figures: Figures, catalog: Catalog) -> None:
    """CPU of looking at every backend once, over its own connection; the engine is another process."""
    page = metrics_page().decode()
    figures["page_lines"], figures["page_kb"] = page.count("\n"), len(page) / 1e3
    load_metrics.parse(page)
    figures["parse_us"] = 1e3 * _ms(lambda: [load_metrics.parse(page) for _ in range(200)]) / 200
    looks_ms = uvloop.run(_look(catalog))
    figures["look_us"] = 1e3 * looks_ms / len(catalog.backends)
    figures["probe_cores"] = looks_ms / 1e3 / LOAD_EVERY_S


async def _look(catalog: Catalog) -> float:
    """Milliseconds of CPU for one look at all."""

    async def all_once() -> None:
        await asyncio.gather(*(probe(backend, 20) for backend in catalog.backends))

    await all_once()  # opens the connections
    began = time.thread_time()
    for _ in range(LOOKS):
        await all_once()
    took_ms = (time.thread_time() - began) * 1e3 / LOOKS
    assert all(backend.load is not None for backend in catalog.backends)
    for backend in catalog.backends:
        await backend.pool.aclose()
    return took_ms


# -- the proxy's own page --


def _pages(figures: Figures, catalog: Catalog) -> None:
    """Every model has answered with three strategies, every backend has branches of three outcomes."""
    metrics = Metrics(catalog.backends, TraceStore(None, 1), catalog.served.values())
    for served in catalog.served.values():
        for strategy, n in STRATEGIES:
            for status in ("met", "missed"):
                trace = Trace(id="0", received_at=0.0, path="/", slo_status=status, latency_ms=700)
                trace.plan = PlanTrace(served.backends[0].name, served.name, strategy, n, 76)
                trace.branches = [
                    BranchTrace(i, backend.name, outcome, 0.0, 1.0, 0.1, completion_tokens=9)
                    for i, backend in enumerate(served.backends)
                    for outcome in ("completed", "cancelled", "failed")
                ]
                metrics.observe(trace, served.name)
                metrics.count(trace, served.name)
    page = asyncio.run(metrics.page())
    figures["own_samples"] = sum(not line.startswith(b"#") for line in page.splitlines())
    figures["own_kb"] = len(page) / 1e3
    figures["own_held_ms"] = float(np.median([_ms(metrics.read) for _ in range(7)]))
    figures["own_ms"] = float(np.median([_process_ms(lambda: asyncio.run(metrics.page())) for _ in range(7)]))


# -- whole requests --


def _requests(figures: Figures, config: Config) -> None:
    """The whole proxy on simulated engines, without sockets, in virtual time; the engines' own work is in it."""
    kinds: dict[str, dict[str, Any]] = {
        "pass": {},
        "vote": {"tts": {"strategy": "self-consistency", "n": 4}},
        "free": {"slo": {"latency_ms": 5000}},
    }
    for name, members in kinds.items():
        figures[f"request.{name}_ms"] = run_virtually(_serve_requests(config, members))


async def _serve_requests(config: Config, members: dict[str, Any]) -> float:
    """Milliseconds of CPU a request, to the models in turn, eight at a time."""
    loop = asyncio.get_running_loop()
    service = await in_process_service(config, simulated_backends(config, LoopClock(loop)), few_chunks=True)
    try:
        await asyncio.sleep(1)  # all backends have been looked at, and asked what they can
        for prober in service.probers:
            await prober.aclose()  # its cost is measured apart
        handler = Handler(service)
        names = list(service.catalog.served)
        for name in names:  # builds the tables
            await ask(handler, _body(name, 0, members))
        gc.collect()
        gc.freeze()
        began = time.thread_time()
        for start in range(0, REQUESTS, 8):
            several = [_body(names[i % len(names)], i, members) for i in range(start, start + 8)]
            answers = await asyncio.gather(*(ask(handler, body) for body in several))
            assert all(answer.status == 200 for answer in answers), answers[0].body
        return (time.thread_time() - began) * 1e3 / REQUESTS
    finally:
        await service.aclose()


# -- operating --


async def _operating(path: Path, config: Config) -> Figures:
    """A look of the console at the fleet, and a reload after which every backend stays, on engines without sockets."""
    loop = asyncio.get_running_loop()
    live = Live(await in_process_service(config, simulated_backends(config, LoopClock(loop))))
    reloader = Reloader(path, live, {})
    reader = FleetReader(itertools.count().__next__)  # later each time: the last reading is never fresh enough
    looks_ms, reloads_ms, held_ms = [], [], []
    try:
        body = await reader.body(live.service)  # reads the verdicts' files, once
        for _ in range(LOOKS):
            began = time.thread_time()
            body = await reader.body(live.service)
            looks_ms.append((time.thread_time() - began) * 1e3)
        for _ in range(RELOADS):
            for prober in live.service.probers:  # what they cost meanwhile is measured apart
                await prober.aclose()
            began, held = time.process_time(), time.thread_time()
            assert await reloader.reload()
            reloads_ms.append((time.process_time() - began) * 1e3)
            held_ms.append((time.thread_time() - held) * 1e3)
    finally:
        await reloader.aclose()
        await live.aclose()
    return {
        "console_ms": float(np.median(looks_ms)),
        "console_kb": len(body) / 1e3,
        "reload_ms": float(np.median(reloads_ms)),
        "reload_held_ms": float(np.median(held_ms)),
    }


def _body(model: str, number: int, members: dict[str, Any]) -> dict[str, Any]:
    question = QUESTIONS[number % len(QUESTIONS)].question
    return {"model": model, "messages": [{"role": "user", "content": question}], **members}
