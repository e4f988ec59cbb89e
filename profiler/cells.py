"""What is measured of an engine: cells, as asked for and as found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import median

from profiler.steptime import KV_BLOCK_TOKENS

BESIDE_PROMPT = 32  # tokens of the prompts of branches that decode beside a mixed cell's
BESIDE_OUTPUTS = 4  # they run this many times as long as those that come


@dataclass(frozen=True, slots=True)
class CellSpec:
    """`batch` branches together, each `prompt` tokens in and `output` out, with one shared prompt or distinct ones.

    `beside`: branches that decode already when these come (mixed prefill and decode).
    """

    batch: int
    prompt: int
    output: int
    shared: bool = False
    beside: int = 0

    @property
    def computed_tokens(self) -> float:
        """Prompt tokens that no cache saves."""
        if self.shared:
            return self.prompt + (self.batch - 1) * KV_BLOCK_TOKENS
        return self.batch * self.prompt

    @property
    def attended_tokens2(self) -> float:
        """Sum over computed prompts of their squared length."""
        return (1 if self.shared else self.batch) * float(self.prompt) ** 2

    @property
    def cached_tokens(self) -> float:
        """Prompt tokens that are looked up in the prefix cache."""
        return (self.batch - 1) * self.prompt if self.shared else 0.0

    @property
    def mean_kv_tokens(self) -> float:
        """Tokens of the branches' own KV cache read by a step, averaged over the decode."""
        own = self.output / 2 + (0 if self.shared else self.prompt)
        return self.batch * own + self.beside * (BESIDE_PROMPT + BESIDE_OUTPUTS * self.output / 2)

    @property
    def shared_kv_tokens(self) -> float:
        """The same of the prompt that they share, counted for each."""
        return self.batch * self.prompt if self.shared else 0.0

    @property
    def peak_kv_tokens(self) -> float:
        """The most that the KV cache must hold."""
        prompts = 1 if self.shared else self.batch
        return prompts * self.prompt + (self.batch + BESIDE_OUTPUTS * self.beside) * self.output


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement, medians over `repeats`, in seconds. `ttft_s`: until the last branch has its first token;
    `tpot_s`: per later token of a branch; `latency_s`: until the last branch has ended.

    `acceptance_length`: tokens that a step gave a branch, by the engine's counters; 1 without speculation. `held_up_s`:
    by how much the branches beside were delayed, in a mixed cell. `held_out`: judges the fit and is not used in it.
    """

    spec: CellSpec
    ttft_s: float
    tpot_s: float
    latency_s: float
    repeats: int = 1
    acceptance_length: float = 1.0
    held_up_s: float | None = None
    held_out: bool = False


def merged(cells: Iterable[Cell]) -> list[Cell]:
    """Each held-out cell once, with medians over its visits; where it was visited first."""
    found: dict[CellSpec | int, list[Cell]] = {}
    for number, cell in enumerate(cells):
        found.setdefault(cell.spec if cell.held_out else number, []).append(cell)
    return [_one(visits) for visits in found.values()]


def _one(visits: list[Cell]) -> Cell:
    if len(visits) == 1:
        return visits[0]
    return replace(
        visits[0],
        ttft_s=median(cell.ttft_s for cell in visits),
        tpot_s=median(cell.tpot_s for cell in visits),
        latency_s=median(cell.latency_s for cell in visits),
        repeats=sum(cell.repeats for cell in visits),
        acceptance_length=median(cell.acceptance_length for cell in visits),
    )
