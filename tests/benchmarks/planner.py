"""Decisions per second of the planner at 10 to 10,000 candidates, and of a pinned request. Run: make bench-planner.

Candidates are backends × settings with invented numbers; every decision sees another load, so nothing is remembered.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable

import numpy as np

from profiler.prediction import Setting
from profiler.profile_file import wide_prior
from proxy.backend import open_backend
from proxy.catalog import Served, TaskTable
from proxy.config import BackendConfig, ModelConfig
from proxy.controls import Slo
from proxy.planner import choose
from proxy.plans import Ask, Pinned

SETTINGS = 10
ROUNDS = 7


def main() -> None:
    print("| candidates | µs per decision | decisions/s |")
    print("|---:|---:|---:|")
    for backends in (1, 10, 100, 1000):
        count = backends * SETTINGS
        micros = measure(lambda backends=backends: fleet(backends), Ask(Slo(latency_ms=5000), "t", 300, None, False))
        print(f"| {count:,} | {micros:,.0f} | {1e6 / micros:,.0f} |")
    pinned = Ask(Slo(), "t", 300, None, False, pinned=Pinned("self-consistency", {"n": 16}, 16))
    micros = measure(lambda: fleet(1), pinned)
    print(f"| 1, pinned | {micros:,.0f} | {1e6 / micros:,.0f} |")


def measure(build: Callable[[], Served], ask: Ask) -> float:
    """Median over rounds of the mean µs of a decision."""
    served = build()
    choose(ask, [served])  # builds the tables
    repeats = max(20, 4000 // len(served.backends))
    rng = random.Random(0)
    rounds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(repeats):
            served.backends[rng.randrange(len(served.backends))].gpu_time.others = rng.random() * 64
            choose(ask, [served], rng)
        rounds.append((time.perf_counter() - began) / repeats * 1e6)
    return statistics.median(rounds)


def fleet(backends: int) -> Served:
    rng = np.random.default_rng(0)
    settings = tuple(_setting(rng, i + 1) for i in range(SETTINGS))
    configs = [BackendConfig(name=f"b{i}", url="http://127.0.0.1:1", gpu_hour_usd=3.0) for i in range(backends)]
    opened = [open_backend(config, "m", wide_prior(config.name), time.monotonic) for config in configs]
    tables: dict[str | None, TaskTable] = {None: TaskTable("t", "math", settings, False, 100.0)}
    return Served(ModelConfig(name="m", backends=configs), opened, tables, "t", None, 0.95)


def _setting(rng: np.random.Generator, n: int) -> Setting:
    lengths = np.sort(rng.lognormal(6, 0.5, (128, n)), axis=1)
    params = {"n": n} if n > 1 else {}
    name = "self-consistency" if n > 1 else "none"
    accuracy = 0.5 + 0.02 * n
    return Setting(name, params, n, False, accuracy, accuracy - 0.03, False, lengths)


if __name__ == "__main__":
    main()
