"""Measuring within a budget, on an engine whose speed is known and whose clock is virtual."""

import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from profiler import cell_choice, profile_file
from profiler.cell_choice import LONG_RUN_S, VISIT_AFTER, VISITS, CellChoice, Limits
from profiler.cell_log import CellLog
from profiler.cells import CellSpec
from profiler.fit import predict_latency_s
from profiler.measure import Counters, EngineShared, Measured, Timing, measure
from profiler.steptime import StepTime

TRUE = StepTime((1, 8, 64), (6e-3, 6.5e-3, 12e-3), 2e-8, 8e-3, 2e-5, 2e-10, 5e-4, 1e-6, 1e-8, stall=0.8)
LIMITS = Limits(max_batch=64, max_len=4096, kv_tokens=60_000)
VOCABULARY = range(100)


class VirtualEngine:
    """Takes exactly as long as `TRUE` says, times noise and the machine's pace of the moment. `foreign`: tokens that
    somebody else has it generate, a run."""

    def __init__(
        self,
        *,
        truth: StepTime = TRUE,
        noise: float = 0.0,
        acceptance: float = 1.0,
        foreign: int = 0,
        pace: Callable[[float], float] = lambda now_s: 1.0,
    ) -> None:
        self._truth = truth
        self._pace = pace
        self.now_s = 0.0
        self.runs: list[CellSpec] = []
        self._rng = random.Random(1)
        self._noise, self._acceptance, self._foreign = noise, acceptance, foreign
        self._generated = self._accepted = 0.0

    def clock(self) -> float:
        return self.now_s

    async def run(self, prompts: Sequence[Sequence[int]], output: int) -> list[Timing]:
        spec = _spec(prompts, output)
        self.runs.append(spec)
        prefill_s = (
            self._truth.p0_s + self._truth.p_branch_s * (spec.batch - 1) + self._truth.p_tok_s * spec.computed_tokens
        )
        prefill_s += self._truth.p_tok2_s * spec.attended_tokens2 + self._truth.p_cached_s * spec.cached_tokens
        return self._timings(spec, prefill_s, output)

    async def run_beside(
        self, beside: Sequence[Sequence[int]], beside_output: int, prompts: Sequence[Sequence[int]], output: int
    ) -> tuple[list[Timing], list[Timing]]:
        alone = _spec(beside, beside_output)
        prefill_s = float(self._truth.prefill_s(len(prompts[0])))
        came = self._timings(_spec(prompts, output), prefill_s, output, also=alone.batch)
        together = await self.run(beside, beside_output)
        slowed_s = float(self._truth.g_s(alone.batch + len(prompts)) - self._truth.g_s(alone.batch)) * (output - 1)
        delay_s = self._truth.stall * float(self._truth.computing_s(len(prompts[0]))) + slowed_s
        return [Timing(t.first_token_s, t.end_s + delay_s, t.tokens) for t in together], came

    async def counters(self) -> Counters:
        return Counters(self._generated, self._accepted)

    def _timings(self, spec: CellSpec, prefill_s: float, output: int, also: int = 0) -> list[Timing]:
        factor = (1 + self._noise * self._rng.gauss(0, 1)) * self._pace(self.now_s)
        step_s = self._truth.step_of(spec.batch + also, spec.mean_kv_tokens, spec.shared_kv_tokens) / self._acceptance
        end_s = (prefill_s + (output - 1) * step_s) * factor
        self.now_s += end_s
        self._generated += spec.batch * output + self._foreign
        self._accepted += spec.batch * output * (1 - 1 / self._acceptance)
        return [Timing(prefill_s * factor, end_s, output)] * spec.batch


def _spec(prompts: Sequence[Sequence[int]], output: int) -> CellSpec:
    shared = len(prompts) > 1 and prompts[0] == prompts[1]
    return CellSpec(len(prompts), len(prompts[0]), output, shared)


async def measured(engine: VirtualEngine, budget_s: float, before: Sequence[Measured] = ()) -> list[Measured]:
    choice = CellChoice(LIMITS, budget_s)
    return [one async for one in measure(engine, choice, VOCABULARY, engine.clock, before)]


def _profile(found: Sequence[Measured]) -> profile_file.Profile:
    return profile_file.make("b", {}, [one.cell for one in found], LIMITS.max_batch)


@pytest.mark.parametrize("budget_s", [20, 60, 300])
async def test_the_budget_is_kept(budget_s: float) -> None:
    engine = VirtualEngine()
    found = await measured(engine, budget_s)
    assert 0.8 * budget_s < sum(one.took_s for one in found) <= 1.05 * budget_s
    assert engine.now_s <= 1.05 * budget_s + 1


async def test_cells_span_batches_prompts_outputs_prefixes_and_mixed_load() -> None:
    specs = [one.cell.spec for one in await measured(VirtualEngine(), 120)]
    assert {1, 64} <= {spec.batch for spec in specs}
    assert min(spec.prompt for spec in specs) <= 32 < 2000 < max(spec.prompt for spec in specs)
    assert min(spec.output for spec in specs) <= 32 < 256 < max(spec.output for spec in specs)
    assert {spec.shared for spec in specs if spec.batch > 1} == {True, False}
    assert any(spec.beside for spec in specs)
    assert all(LIMITS.admit(spec) for spec in specs)


async def test_a_fifth_of_the_cells_is_held_out_and_lies_anywhere_in_the_range() -> None:
    found = await measured(VirtualEngine(), 300)
    held_out = {one.cell.spec for one in found if one.cell.held_out}
    others = [one for one in found if not one.cell.held_out]
    assert len(held_out) >= (len(held_out) + len(others)) / 5
    assert any(spec.batch & (spec.batch - 1) for spec in held_out)  # not a power of two: the grid has no such


async def test_a_held_out_cell_is_visited_three_times_apart() -> None:
    found = [one.cell for one in await measured(VirtualEngine(), 300)]
    visits: dict[CellSpec, list[int]] = {}
    for number, cell in enumerate(found):
        if cell.held_out and cell.latency_s <= LONG_RUN_S:
            visits.setdefault(cell.spec, []).append(number)
    assert {len(numbers) for numbers in visits.values()} == {VISITS}
    apart = [later - earlier for numbers in visits.values() for earlier, later in pairwise(numbers)]
    assert min(apart) > 1 and sum(gap > VISIT_AFTER for gap in apart) > 0.8 * len(
        apart
    )  # the last are visited as the budget allows


async def test_a_machine_that_is_slow_for_seconds_does_not_make_the_yardstick_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three runs one after the other would all be in the slow four of thirty seconds."""

    async def misled() -> float:
        engine = VirtualEngine(pace=lambda now_s: 1.5 if now_s % 30 < 4 else 1.0)
        cells = [one for one in _profile(await measured(engine, 600)).cells if one.held_out and one.repeats == VISITS]
        assert len(cells) > 20
        return sum(abs(one.latency_s / predict_latency_s(TRUE, one) - 1) > 0.1 for one in cells) / len(cells)

    apart = await misled()
    monkeypatch.setattr(cell_choice, "VISIT_AFTER", 0)
    assert 2 * apart < await misled()


async def test_a_noisy_engine_is_known_to_a_few_percent_after_a_minute() -> None:
    found = await measured(VirtualEngine(noise=0.03), 60)
    profile = _profile(found)
    error = profile.errors["latency"]
    assert error.held_out and error.median < 0.05 and error.worst < 0.2
    for batch in (1, 8, 24, 64):
        assert profile.step_time.step_of(batch, 0) == pytest.approx(TRUE.step_of(batch, 0), rel=0.1)
    assert profile.step_time.stall == pytest.approx(TRUE.stall, abs=0.2)


async def test_no_cell_is_measured_twice() -> None:
    specs = [one.cell.spec for one in await measured(VirtualEngine(), 120) if not one.cell.held_out]
    assert len(set(specs)) == len(specs)


async def test_acceptance_comes_from_the_engines_counters() -> None:
    found = await measured(VirtualEngine(acceptance=2.5), 30)
    assert {round(one.cell.acceptance_length, 6) for one in found if not one.cell.spec.beside} == {2.5}
    assert _profile(found).acceptance_length == pytest.approx(2.5, rel=0.05)


async def test_somebody_elses_tokens_end_the_measurement() -> None:
    with pytest.raises(EngineShared, match="others use it"):
        await measured(VirtualEngine(foreign=50), 30)


async def test_unless_told_to_measure_beside_them() -> None:
    engine = VirtualEngine(foreign=50)
    found = measure(engine, CellChoice(LIMITS, 20), VOCABULARY, engine.clock, alone=False)
    assert len([one async for one in found]) > 5


async def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    environment = {"model": "m", "date": "2026-01-01"}
    log = CellLog(tmp_path / "b.cells.jsonl", environment)
    assert log.resume() == []
    first = await measured(VirtualEngine(), 20)
    for one in first:
        log.append(one)
    with (tmp_path / "b.cells.jsonl").open("ab") as file:
        file.write(b'{"cell": {"sp')  # the power went

    kept = CellLog(tmp_path / "b.cells.jsonl", {**environment, "date": "2026-01-02"}).resume()
    assert kept == first
    engine = VirtualEngine()
    rest = await measured(engine, 60, kept)
    assert sum(one.took_s for one in [*kept, *rest]) <= 1.05 * 60
    assert not {one.cell.spec for one in kept} & {one.cell.spec for one in rest}


async def test_the_journal_of_another_engine_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "b.cells.jsonl"
    log = CellLog(path, {"model": "m"})
    log.resume()
    log.append((await measured(VirtualEngine(), 5))[0])
    assert CellLog(path, {"model": "other"}).resume() == []
    assert CellLog(path, {"model": "other"}).resume() == []  # and the file is the other's now
    log.remove()
    assert not path.exists()


async def test_a_cliff_between_batch_sizes_is_looked_into() -> None:
    """Beyond 100 branches this engine leaves its captured graphs: a step takes three times as long."""
    cliff = StepTime((1, 64, 100, 101, 128), (5e-3, 6e-3, 6.5e-3, 20e-3, 21e-3), 1e-9, 8e-3, 1e-6)
    limits = Limits(max_batch=128, max_len=4096, kv_tokens=500_000)
    engine = VirtualEngine(truth=cliff)
    choice = CellChoice(limits, 120)
    cells = [one.cell async for one in measure(engine, choice, VOCABULARY, engine.clock)]
    batches = {cell.spec.batch for cell in cells if not cell.held_out and 64 < cell.spec.batch < 128}
    assert len(batches) >= 2
    model = profile_file.make("b", {}, cells, 128).step_time
    assert model.step_of(90, 0) == pytest.approx(cliff.step_of(90, 0), rel=0.15)


async def test_a_cliff_that_is_known_is_measured_on_both_sides() -> None:
    cliff = StepTime((1, 64, 102, 103, 128), (5e-3, 6e-3, 6.5e-3, 20e-3, 21e-3), 1e-9, 8e-3, 1e-6)
    limits = Limits(max_batch=128, max_len=4096, kv_tokens=500_000, cliff=102)
    engine = VirtualEngine(truth=cliff)
    cells = [one.cell async for one in measure(engine, CellChoice(limits, 120), VOCABULARY, engine.clock)]
    assert {102, 103} <= {cell.spec.batch for cell in cells if not cell.held_out}
    model = profile_file.make("b", {}, cells, 128).step_time
    for batch in (98, 101, 104, 110):
        assert model.step_of(batch, 0) == pytest.approx(cliff.step_of(batch, 0), rel=0.1)


async def test_a_cliff_between_neighbours_leaves_nothing_to_look_into() -> None:
    steep = StepTime((1, 2, 3, 4, 64), (2e-3, 6e-3, 12e-3, 24e-3, 30e-3), 1e-9, 8e-3, 1e-6)
    engine = VirtualEngine(truth=steep)
    cells = [one.cell async for one in measure(engine, CellChoice(LIMITS, 60), VOCABULARY, engine.clock)]
    assert {1, 2, 3, 4} <= {cell.spec.batch for cell in cells if not cell.held_out}
