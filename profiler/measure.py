"""Measuring one engine: cell after cell within a time budget, over an injected way to run branches."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Protocol

from profiler.cell_choice import LONG_RUN_S, REPEATS, CellChoice
from profiler.cells import BESIDE_OUTPUTS, BESIDE_PROMPT, Cell, CellSpec

DISAGREE = 1.15  # two runs of one cell that differ by this factor are settled by a third


@dataclass(frozen=True, slots=True)
class Timing:
    """One finished branch, in seconds since it was sent. `tokens`: completion tokens."""

    first_token_s: float
    end_s: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Counters:
    """Totals of the engine since its start: tokens generated for anybody, and draft tokens accepted among them."""

    generated: float
    accepted: float


class Bench(Protocol):
    """Runs `len(prompts)` branches together, each a list of token ids and exactly `output` tokens long."""

    async def run(self, prompts: Sequence[Sequence[int]], output: int) -> list[Timing]: ...

    async def run_beside(
        self, beside: Sequence[Sequence[int]], beside_output: int, prompts: Sequence[Sequence[int]], output: int
    ) -> tuple[list[Timing], list[Timing]]:
        """The same while `beside` decode already; timings of those beside and of those that came."""
        ...

    async def counters(self) -> Counters: ...


class EngineShared(Exception):
    """Others' tokens were generated while a cell was measured: its times are not the engine's alone."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A cell and the seconds that it took to measure."""

    cell: Cell
    took_s: float


async def measure(
    bench: Bench,
    choice: CellChoice,
    vocabulary: Sequence[int],
    clock: Callable[[], float],
    before: Sequence[Measured] = (),
    *,
    alone: bool = True,
    seed: int = 0,
) -> AsyncGenerator[Measured]:
    """Cells as they are measured, going on from those of `before`. The first run warms the engine up and is thrown
    away. Raises EngineShared, where `alone`, for the tokens of others."""
    rng = random.Random(f"{seed} {len(before)}")  # a resumed run must not meet its old prompts in the prefix cache
    cells, spent_s = [one.cell for one in before], sum(one.took_s for one in before)
    await bench.run(prompts_of(CellSpec(2, 32, 16, shared=True), vocabulary, rng), 16)
    while (following := choice.next_spec(cells, spent_s)) is not None:
        spec, held_out = following
        began = clock()
        repeats = 1 if held_out else REPEATS  # those held out are visited again later
        cell = await measure_cell(bench, spec, vocabulary, rng, held_out=held_out, alone=alone, repeats=repeats)
        took_s = clock() - began
        cells.append(cell)
        spent_s += took_s
        yield Measured(cell, took_s)


async def measure_cell(
    bench: Bench,
    spec: CellSpec,
    vocabulary: Sequence[int],
    rng: random.Random,
    *,
    held_out: bool = False,
    alone: bool = True,
    repeats: int = REPEATS,
) -> Cell:
    """One cell. Raises EngineShared."""
    before = await bench.counters()
    runs: list[list[Timing]] = []
    held_up, own = [], 0
    while not _enough(runs, repeats):
        if spec.beside:
            run, delay_s, extra = await _mixed(bench, spec, vocabulary, rng)
            held_up.append(delay_s)
            own += extra
        else:
            run = await bench.run(prompts_of(spec, vocabulary, rng), spec.output)
        runs.append(run)
        own += sum(timing.tokens for timing in run)
    after = await bench.counters()
    generated, accepted = after.generated - before.generated, after.accepted - before.accepted
    if alone and generated > own * 1.02 + 2:
        raise EngineShared(
            f"the engine generated {generated:.0f} tokens during a measurement that asked for {own}: others use it"
        )
    branches = [timing for run in runs for timing in run]
    return Cell(
        spec=spec,
        ttft_s=median(max(timing.first_token_s for timing in run) for run in runs),
        tpot_s=median((t.end_s - t.first_token_s) / max(t.tokens - 1, 1) for t in branches),
        latency_s=median(max(timing.end_s for timing in run) for run in runs),
        repeats=len(runs),
        acceptance_length=generated / max(generated - accepted, 1.0) if accepted > 0 else 1.0,
        held_up_s=median(held_up) if held_up else None,
        held_out=held_out,
    )


def _enough(runs: Sequence[Sequence[Timing]], repeats: int) -> bool:
    """A long run averages over its own steps; two short ones that disagree need a third."""
    took = [max(timing.end_s for timing in run) for run in runs]
    if took and took[0] > LONG_RUN_S:
        return True
    return len(runs) > repeats or (len(runs) == repeats and max(took) <= DISAGREE * min(took))


async def _mixed(
    bench: Bench, spec: CellSpec, vocabulary: Sequence[int], rng: random.Random
) -> tuple[list[Timing], float, int]:
    """Those beside run once alone, then again while the others come: by how much their end is later. Gives the timings
    of those that came, that delay, and the tokens of those beside."""
    beside = CellSpec(spec.beside, BESIDE_PROMPT, spec.output * BESIDE_OUTPUTS, shared=spec.beside > 1)
    alone = await bench.run(prompts_of(beside, vocabulary, rng), beside.output)
    together, came = await bench.run_beside(
        prompts_of(beside, vocabulary, rng), beside.output, prompts_of(spec, vocabulary, rng), spec.output
    )
    delay_s = median(timing.end_s for timing in together) - median(timing.end_s for timing in alone)
    return came, delay_s, sum(timing.tokens for timing in (*alone, *together))


def prompts_of(spec: CellSpec, vocabulary: Sequence[int], rng: random.Random) -> list[list[int]]:
    """Random token ids, never met before: the prefix cache helps only where `shared` says so."""
    fresh = [rng.choices(vocabulary, k=spec.prompt) for _ in range(1 if spec.shared else spec.batch)]
    return list(itertools.islice(itertools.cycle(fresh), spec.batch))
