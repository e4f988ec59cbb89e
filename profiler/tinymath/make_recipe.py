"""What `make` is told: parts, shares of the time, sizes, and the knobs of the traces."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from profiler.tinymath.traces import Habits


@dataclass(frozen=True, slots=True)
class Shape:
    """Width and depth of a model; heads of 32."""

    hidden_size: int
    layers: int


PARTS: Final = ("tokenizer", "data", "s", "m", "texts", "draft", "prm", "orm")
POLICIES: Final = ("s", "m")
"""The last one is the main policy: verifiers start from its weights."""
SHARES: Final[Mapping[str, float]] = {
    "data": 0.06,
    "s": 0.18,
    "m": 0.27,
    "texts": 0.08,
    "draft": 0.08,
    "prm": 0.14,
    "orm": 0.09,
}
"""Shares of the minutes; evaluations take the rest."""
SHAPES: Final[Mapping[str, Shape]] = {"s": Shape(128, 4), "m": Shape(256, 6), "draft": Shape(96, 2)}
TINY_SHAPES: Final[Mapping[str, Shape]] = {"s": Shape(32, 1), "m": Shape(64, 2), "draft": Shape(32, 1)}
EXAMPLES: Final = 1_000_000
LEARNING_RATES: Final[Mapping[str, float]] = {"s": 3e-3, "m": 2e-3, "draft": 4e-3, "prm": 6e-4, "orm": 3e-4}


@dataclass(frozen=True, slots=True)
class Recipe:
    """One run. Sizes are counts, times are derived from `minutes`."""

    out: Path
    minutes: float
    start: Path | None = None
    until: str | None = None
    only: tuple[str, ...] = ()
    habits: Habits = field(default_factory=Habits)
    shapes: Mapping[str, Shape] = field(default_factory=lambda: SHAPES)
    rate_factor: float = 1.0
    examples: int = EXAMPLES
    batch_size: int = 96
    evaluation_questions: int = 256
    max_new_tokens: int = 1280
    texts_per_batch: int = 1536
    synthetic_chunk: int = 2000
    synthetic_chunks: int = 60
    verifier_batch_tokens: int = 98_304
    compiled: bool = True
    seed: int = 0

    def parts(self) -> tuple[str, ...]:
        """The parts asked for, in order."""
        last = len(PARTS) if self.until is None else PARTS.index(self.until) + 1
        return tuple(part for part in PARTS[:last] if not self.only or part in self.only)

    def seconds(self, part: str) -> float:
        """The time of a part, its evaluation not counted."""
        return self.minutes * 60 * SHARES.get(part, 0.0)

    def learning_rate(self, part: str) -> float:
        return LEARNING_RATES[part] * self.rate_factor

    def as_json(self) -> dict[str, Any]:
        start = None if self.start is None else self.start.name
        shapes = {name: asdict(shape) for name, shape in self.shapes.items()}
        return {**asdict(self), "out": self.out.name, "start": start, "shapes": shapes}


def tiny(recipe: Recipe) -> Recipe:
    """The same parts so small that a CPU makes them in a minute; the models learn next to nothing."""
    return replace(
        recipe,
        shapes=TINY_SHAPES,
        examples=200,
        batch_size=4,
        evaluation_questions=2,
        max_new_tokens=64,
        texts_per_batch=4,
        synthetic_chunk=50,
        synthetic_chunks=2,
        verifier_batch_tokens=4096,
    )


def parse_recipe(arguments: Sequence[str] | None = None) -> Recipe:
    habits = Habits()
    parser = argparse.ArgumentParser(
        prog="python -m profiler.tinymath.make",
        description="Make tokenizer, data, policies, draft and verifiers of the built-in task.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="directory for every part; what is there is not made again")
    add("--minutes", type=float, default=12.0, help="time for all parts together")
    add("--start", type=Path, help="an earlier family's directory: its weights are trained on, not new ones")
    add("--until", choices=PARTS, help="stop after this part")
    add("--only", nargs="+", choices=PARTS, default=(), help="make these parts only")
    add("--tiny", action="store_true", help="sizes for a try on a CPU")
    add("--forgotten", type=int, nargs=4, default=habits.forgotten, help="digits whose carry each approach forgets")
    add("--careful", type=int, nargs=4, default=habits.careful, help="the same in a re-check")
    add("--shares", type=float, nargs=4, default=habits.shares, help="how frequent each approach is")
    add("--slip", type=float, default=habits.slip, help="probability of a random wrong result, a line")
    add("--recheck", type=float, default=habits.recheck, help="probability that a first pass is re-checked")
    add("--examples", type=int, default=EXAMPLES, help="conversations in the training data, at most")
    add("--rate-factor", type=float, default=1.0, help="scales every learning rate")
    add("--compiled", action=argparse.BooleanOptionalAction, default=True, help="torch.compile, on a GPU")
    add("--seed", type=int, default=0, help="of the initial weights")
    values = parser.parse_args(arguments)
    if values.start is not None and not any((values.start / part).is_dir() for part in SHAPES):
        parser.error(f"--start {values.start}: there is no family ({', '.join(SHAPES)})")
    habits = replace(
        habits,
        forgotten=tuple(values.forgotten),
        careful=tuple(values.careful),
        shares=tuple(values.shares),
        slip=values.slip,
        recheck=values.recheck,
    )
    recipe = Recipe(
        out=values.out,
        minutes=values.minutes,
        start=values.start,
        until=values.until,
        only=tuple(values.only),
        habits=habits,
        examples=values.examples,
        rate_factor=values.rate_factor,
        compiled=values.compiled,
        seed=values.seed,
    )
    return tiny(recipe) if values.tiny else recipe
