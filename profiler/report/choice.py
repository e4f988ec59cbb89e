"""What to run within a deadline, and what the usual advice would have named instead.

*System-optimal for a deadline*: of the plans whose tail latency is within it, the one with the highest lower bound of
accuracy; of those within `QUALITY_TIE` of it the cheapest.

*Compute-optimal for the same accuracy*, the usual advice: of all settings of all models, whatever they take, the one
with the least compute whose lower bound is as high (less the tie), on its model's plain engine. It knows tokens and
model sizes, and neither latency nor engines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby

from profiler.report.points import Engine, Point

QUALITY_TIE = 0.005  # as the planner has it: half a point of accuracy is not worth paying for


class ComputeUnit(StrEnum):
    """What compute is counted in."""

    TOKENS = "generated tokens"
    TOKENS_TIMES_PARAMETERS = "generated tokens × parameters of the model"


@dataclass(frozen=True, slots=True)
class Choice:
    """Both plans for one deadline; both None where nothing meets it."""

    system: Point | None
    compute: Point | None

    @property
    def differ(self) -> bool:
        return self.system is not self.compute


@dataclass(frozen=True, slots=True)
class Step:
    """The choice for deadlines from `from_ms` up to the next step's; `compute_in_time`: the same all along."""

    from_ms: float
    choice: Choice
    compute_in_time: bool


def system_optimal(points: Sequence[Point], deadline_ms: float) -> Point | None:
    """None where no plan's tail latency is within the deadline."""
    feasible = [point for point in points if point.tail_ms <= deadline_ms]
    if not feasible:
        return None
    best = max(point.accuracy_lower for point in feasible)
    near = [point for point in feasible if point.accuracy_lower >= best - QUALITY_TIE]
    return min(near, key=_cost_key(near))


def compute_optimal(points: Sequence[Point], accuracy_lower: float) -> Point | None:
    """The setting with the least compute that is at least as accurate, less the tie; None where there is none.

    Equal compute: the more accurate one.
    """
    enough = [point for point in plain(points) if point.accuracy_lower >= accuracy_lower - QUALITY_TIE]
    unit = compute_unit(points)
    return min(enough, key=lambda point: (compute(point, unit), -point.accuracy_lower), default=None)


def choose(points: Sequence[Point], deadline_ms: float) -> Choice:
    system = system_optimal(points, deadline_ms)
    return Choice(system, None if system is None else compute_optimal(points, system.accuracy_lower))


def steps(points: Sequence[Point]) -> list[Step]:
    """The choice as a function of the deadline, which changes only where another plan comes into reach."""
    found = [Step(0.0, Choice(None, None), False)]
    for from_ms in sorted({point.tail_ms for point in points}):
        choice = choose(points, from_ms)
        in_time = choice.compute is not None and choice.compute.tail_ms <= from_ms
        if (choice, in_time) != (found[-1].choice, found[-1].compute_in_time):
            found.append(Step(from_ms, choice, in_time))
    return found


def at(found: Sequence[Step], deadline_ms: float) -> Step:
    """The step that holds for the deadline."""
    return [step for step in found if step.from_ms <= deadline_ms][-1]


def plain(points: Sequence[Point]) -> list[Point]:
    """Each setting once, on the plainest engine of its model that can run it."""

    def setting(point: Point) -> tuple[str, str, str, bool]:
        return point.engine.model, point.strategy, repr(sorted(point.params.items())), point.greedy

    ordered = sorted(points, key=setting)
    return [min(same, key=lambda point: _plainness(point.engine)) for _, same in groupby(ordered, setting)]


def compute_unit(points: Sequence[Point]) -> ComputeUnit:
    """Sizes count only where several models are compared and all their sizes are known: half a sum would favour the
    unknown ones. With tokens alone a large model looks as cheap as a small one."""
    sizes = {point.engine.model: point.engine.parameters for point in points}
    known = len(sizes) > 1 and all(size is not None for size in sizes.values())
    return ComputeUnit.TOKENS_TIMES_PARAMETERS if known else ComputeUnit.TOKENS


def compute(point: Point, unit: ComputeUnit) -> float:
    if unit is ComputeUnit.TOKENS:
        return point.mean_tokens
    assert point.engine.parameters is not None
    return point.mean_tokens * point.engine.parameters


def _plainness(engine: Engine) -> tuple[bool, int]:
    """Lowest first: without speculation the lowest TP degree; where all speculate, the first given."""
    speculative = engine.speculative is not None
    return speculative, 0 if speculative else engine.tensor_parallel_size


def _cost_key(points: Sequence[Point]) -> Callable[[Point], tuple[float, float]]:
    """By dollars where all have a price, else by GPU-seconds, both of an idle engine; then by latency."""
    priced = all(point.idle_cost_usd is not None for point in points)

    def key(point: Point) -> tuple[float, float]:
        usd = point.idle_cost_usd if priced else None
        return point.idle_gpu_seconds if usd is None else usd, point.tail_ms

    return key
