"""Which cell to measure next: the one that tells most per second about what the model cannot yet predict.

The step-time model is linear in its coefficients, so what is known of them is a Gaussian, and measuring a cell with
terms x lowers the mean predictive variance over all candidates by Σ_j (x_j' P x)² / (σ² + x' P x) (V-optimal design,
Fedorov 1972), P being the coefficients' covariance. Divided by the cell's predicted seconds, that is the choice. Every
fourth cell, but towards the end, is drawn at random from anywhere in the range instead, also between the grid's points,
and held out of the fit, about a fifth in all: the profile's errors are told on those. Unless it takes long, each is
visited again twice, later: a machine's pace changes within seconds, and runs one after the other share it.

Batch sizes double, and a cliff that the engine's flags hint at is measured on both sides; where a step turns out much
longer at the next one, another is put between: an engine leaves its captured graphs, or its weights are no longer what
it waits for.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from profiler.cells import BESIDE_OUTPUTS, Cell, CellSpec, merged
from profiler.fit import fit, noise, predict_latency_s, prefill_terms, step_terms
from profiler.steptime import StepTime

STEEP, NARROW = 1.35, 1.2  # a rise of g that is looked into, and a ratio of batch sizes that is not
HELD_OUT_EVERY = 4
MIXED_AT = (7, 13, 19)  # which cells measure prompts beside running decodes
PER_CELL_S = 0.15  # what a cell costs besides its predicted time
LARGEST_SHARE = 0.12  # of the budget, for one cell
REPEATS = 2
VISITS = 3  # of a held-out cell: a yardstick must not itself be a hiccup
VISIT_AFTER = 12  # cells between two of them
LONG_RUN_S = 3.0  # a run this long is not repeated
SHORTEST_OUTPUT = 64  # with fewer tokens a large batch never runs together: the first end before the last begin


@dataclass(frozen=True, slots=True)
class Limits:
    """What the engine takes: branches at once, tokens of one branch, tokens in the KV cache. `cliff`: a batch size
    beyond which a step may take much longer; it and the next one are measured."""

    max_batch: int
    max_len: int
    kv_tokens: float
    max_output: int = 1024
    cliff: int | None = None

    def admit(self, spec: CellSpec) -> bool:
        return (
            spec.batch + spec.beside <= self.max_batch
            and spec.prompt + spec.output * (BESIDE_OUTPUTS if spec.beside else 1) <= self.max_len
            and spec.peak_kv_tokens <= 0.9 * self.kv_tokens
        )


class CellChoice:
    """Iterates over a budget: `next_spec` until it gives None. Deterministic for a seed and the measured times."""

    def __init__(self, limits: Limits, budget_s: float, *, seed: int = 0) -> None:
        self._limits = limits
        self._budget_s = budget_s
        self._rng = random.Random(seed)
        self._longest_prompt = max(32, limits.max_len - max(64, min(limits.max_output, limits.max_len // 4)))
        self._knots, self._prompts, self._outputs = _axes(limits, self._longest_prompt)
        self._grid = self._cells_at(self._knots)
        self._seeds = self._first_cells(self._prompts, self._outputs)

    def next_spec(self, cells: Sequence[Cell], spent_s: float) -> tuple[CellSpec, bool] | None:
        """The next cell and whether it is held out; None when the budget is used up or nothing is left."""
        if len(cells) < len(self._seeds):
            return self._seeds[len(cells)], False
        left_s = self._budget_s - spent_s
        model = fit(cells)
        self._refine(model)
        if (again := self._visit(cells, model, left_s)) is not None:
            return again, True
        number = len(merged(cells)) + 1
        if number in MIXED_AT and (mixed := self._mixed(model, left_s)) is not None:
            return mixed, False
        if number % HELD_OUT_EVERY == 0 and (drawn := self._draw(cells, model, left_s)) is not None:
            return drawn, True
        best = self._most_telling(cells, model, left_s)
        return None if best is None else (best, False)

    def cost_s(self, model: StepTime, spec: CellSpec) -> float:
        alone = predict_latency_s(model, Cell(spec, 0, 0, 0))
        beside = 2 * BESIDE_OUTPUTS * spec.output * model.step_of(spec.beside + spec.batch, spec.mean_kv_tokens)
        runs = 1 if alone > LONG_RUN_S else REPEATS + 0.5
        return runs * (alone + (beside if spec.beside else 0.0)) + PER_CELL_S

    def _visit(self, cells: Sequence[Cell], model: StepTime, left_s: float) -> CellSpec | None:
        """The held-out cell to measure once more now: the one that waits longest, once it has waited, or at once when
        the budget is only enough for the visits that are missing."""
        last = {cell.spec: number for number, cell in enumerate(cells) if cell.held_out}
        waiting = _waiting(cells)
        missing_s = self._missing_s(waiting, model)
        pause = 0 if self._ending(missing_s, left_s) else VISIT_AFTER
        due = [
            cell.spec
            for cell in sorted(waiting, key=lambda cell: last[cell.spec])
            if len(cells) - last[cell.spec] > pause and self._visit_s(model, cell.spec) <= left_s
        ]
        return due[0] if due else None

    def _missing_s(self, waiting: Sequence[Cell], model: StepTime) -> float:
        return sum((VISITS - cell.repeats) * self._visit_s(model, cell.spec) for cell in waiting)

    def _ending(self, missing_s: float, left_s: float) -> bool:
        """Whether the budget is only enough for the visits that are missing, and one cell more."""
        return left_s <= missing_s + LARGEST_SHARE * self._budget_s

    def _visit_s(self, model: StepTime, spec: CellSpec) -> float:
        return predict_latency_s(model, Cell(spec, 0, 0, 0)) + PER_CELL_S

    def _first_cells(self, prompts: Sequence[int], outputs: Sequence[int]) -> list[CellSpec]:
        """Enough to fit a first, rough model."""
        few, short, long, output = min(8, self._limits.max_batch), prompts[0], prompts[len(prompts) // 2], outputs[0]
        wanted = [
            CellSpec(1, short, output),
            CellSpec(few, short, output, shared=few > 1),
            CellSpec(1, long, output),
            CellSpec(max(2, few // 4), long, output),
        ]
        return [spec for spec in wanted if self._limits.admit(spec)]

    def _cells_at(self, batches: Sequence[int]) -> list[CellSpec]:
        return [
            spec
            for batch in batches
            for prompt in self._prompts
            for output in self._outputs
            for shared in ((False, True) if batch > 1 else (False,))
            if self._limits.admit(spec := CellSpec(batch, prompt, output, shared))
        ]

    def _refine(self, model: StepTime) -> None:
        """Put a batch size between two measured neighbours where the step rises steeply."""
        for low, high in pairwise([int(batch) for batch in model.batches]):
            steep = float(model.g_s(high)) > STEEP * float(model.g_s(low))
            between = any(low < knot < high for knot in self._knots)
            middle = (low + high) // 2
            if steep and high > NARROW * low and middle > low and not between:
                self._knots = sorted([*self._knots, middle])
                self._grid += self._cells_at([middle])

    def _affordable(self, model: StepTime, spec: CellSpec, left_s: float) -> bool:
        return self.cost_s(model, spec) <= min(left_s, max(LARGEST_SHARE * self._budget_s, 1.0))

    def _most_telling(self, cells: Sequence[Cell], model: StepTime, left_s: float) -> CellSpec | None:
        seen = {cell.spec for cell in cells}
        open_specs = [spec for spec in self._grid if spec not in seen and self._affordable(model, spec, left_s)]
        if not open_specs:
            return None
        targets = np.array([self._terms(model, spec) for spec in self._grid])
        scale = np.maximum(np.abs(targets).max(axis=0), 1e-300)
        targets = targets / scale
        known = np.eye(targets.shape[1])
        for cell in cells:
            if not cell.held_out and not cell.spec.beside:
                row = self._terms(model, cell.spec) / scale
                known += np.outer(row, row) / float(noise(cell.latency_s)) ** 2
        covariance = np.linalg.inv(known)
        options = np.array([self._terms(model, spec) for spec in open_specs]) / scale
        shifted = options @ covariance
        sigma = noise(np.array([predict_latency_s(model, Cell(spec, 0, 0, 0)) for spec in open_specs]))
        gains = ((shifted @ targets.T) ** 2).sum(axis=1) / (sigma**2 + (shifted * options).sum(axis=1))
        costs = np.array([self.cost_s(model, spec) for spec in open_specs])
        return open_specs[int(np.argmax(gains / costs))]

    def _terms(self, model: StepTime, spec: CellSpec) -> np.ndarray:
        """The model's terms relative to the predicted latency: a row of the design."""
        steps = spec.output - 1
        terms = np.array([*prefill_terms(spec), 1.0, *(steps * term for term in step_terms(spec, self._knots))])
        return terms / max(predict_latency_s(model, Cell(spec, 0, 0, 0)), 1e-9)

    def _draw(self, cells: Sequence[Cell], model: StepTime, left_s: float) -> CellSpec | None:
        """None towards the end of the budget, too: three visits one after the other are none."""
        seen = {cell.spec for cell in cells}
        if any(cell.held_out for cell in cells) and self._ending(self._missing_s(_waiting(cells), model), left_s):
            return None
        for _ in range(50):
            batch = _log_uniform(self._rng, 1, self._limits.max_batch)
            prompt = _log_uniform(self._rng, 32, self._longest_prompt)
            output = _log_uniform(self._rng, SHORTEST_OUTPUT, min(self._limits.max_output, self._limits.max_len // 2))
            spec = CellSpec(batch, prompt, output, batch > 1 and self._rng.random() < 0.5)
            affordable = self._affordable(model, spec, left_s) and VISITS * self._visit_s(model, spec) <= left_s
            if self._limits.admit(spec) and affordable and spec not in seen:
                return spec
        return None

    def _mixed(self, model: StepTime, left_s: float) -> CellSpec | None:
        for _ in range(50):
            beside = _log_uniform(self._rng, 1, max(1, min(32, self._limits.max_batch // 2)))
            prompt = _log_uniform(self._rng, max(32, self._longest_prompt // 4), self._longest_prompt)
            spec = CellSpec(1, prompt, 24, False, beside)
            if self._limits.admit(spec) and self._affordable(model, spec, left_s):
                return spec
        return None


def _waiting(cells: Sequence[Cell]) -> list[Cell]:
    """Held-out cells that are to be visited again; long runs are not."""
    return [cell for cell in merged(cells) if cell.held_out and cell.repeats < VISITS and cell.latency_s <= LONG_RUN_S]


def _axes(limits: Limits, longest_prompt: int) -> tuple[list[int], list[int], list[int]]:
    edge = () if limits.cliff is None else (limits.cliff, limits.cliff + 1)
    doubling = (2**power for power in range(limits.max_batch.bit_length()))
    batches = sorted({batch for batch in (*doubling, *edge) if 1 <= batch <= limits.max_batch})
    prompts = sorted({*(4**power * 32 for power in range(8) if 4**power * 32 < longest_prompt), longest_prompt})
    most = min(limits.max_output, limits.max_len - prompts[0])
    outputs = sorted({*(size for size in (SHORTEST_OUTPUT, 4 * SHORTEST_OUTPUT) if size < most), most})
    return batches, prompts, outputs


def _log_uniform(rng: random.Random, low: int, high: int) -> int:
    return min(high, round(low * (high / low) ** rng.random())) if high > low else low
