"""Measuring one engine: a small grid of cells, each repeated, over an injected way to run branches."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Protocol

from profiler.steptime import Cell


@dataclass(frozen=True, slots=True)
class Timing:
    """One finished branch, in seconds since it was sent. `tokens`: completion tokens."""

    first_token_s: float
    end_s: float
    tokens: int


class Bench(Protocol):
    """Runs `len(prompts)` branches together, each a list of token ids and exactly `output` tokens long."""

    async def run(self, prompts: Sequence[Sequence[int]], output: int) -> list[Timing]: ...


@dataclass(frozen=True, slots=True)
class CellSpec:
    batch: int
    prompt: int
    output: int
    shared: bool


def small_grid(max_batch: int, max_prompt: int) -> list[CellSpec]:
    """One connection to `max_batch`, short and longer prompts, distinct and shared: under a minute on a tiny CPU
    engine."""
    batches = [b for b in (1, 2, 4, 8, 16, 32) if b <= max_batch]
    short, long = 32, min(384, max_prompt)
    grid = [CellSpec(batch, short, 64, True) for batch in batches]
    grid += [CellSpec(batch, long, 48, batch > 1) for batch in batches if batch in (1, 4, 16)]
    grid += [CellSpec(1, short, 192, False), CellSpec(4, short, 160, True), CellSpec(16, short, 160, True)]
    grid += [CellSpec(4, long, 16, False)]
    return grid


async def measure(
    bench: Bench, grid: Sequence[CellSpec], vocabulary: Sequence[int], *, repeats: int = 2, seed: int = 0
) -> AsyncIterator[Cell]:
    """Cells as they are measured; the first run of all warms the engine up and is thrown away."""
    rng = random.Random(seed)
    await bench.run(_prompts(CellSpec(2, 32, 16, True), vocabulary, rng), 16)
    for spec in grid:
        runs = [await bench.run(_prompts(spec, vocabulary, rng), spec.output) for _ in range(repeats)]
        yield _cell(spec, runs)


def _prompts(spec: CellSpec, vocabulary: Sequence[int], rng: random.Random) -> list[list[int]]:
    """Random token ids, never met before: the prefix cache helps only where `shared` says so."""
    fresh = [rng.choices(vocabulary, k=spec.prompt) for _ in range(1 if spec.shared else spec.batch)]
    return list(itertools.islice(itertools.cycle(fresh), spec.batch))


def _cell(spec: CellSpec, runs: Sequence[Sequence[Timing]]) -> Cell:
    branches = [timing for run in runs for timing in run]
    return Cell(
        batch=spec.batch,
        prompt=spec.prompt,
        output=spec.output,
        shared=spec.shared,
        ttft_s=median(timing.first_token_s for timing in branches),
        tpot_s=median((t.end_s - t.first_token_s) / max(t.tokens - 1, 1) for t in branches),
        latency_s=median(max(timing.end_s for timing in run) for run in runs),
    )
