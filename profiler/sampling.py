"""From a generated text to a stored sample: the answer as extracted, whether it is right, what it took."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from profiler.budgets import budget_curve, budget_grid
from profiler.lengths import lengths
from profiler.marking import Generated, Marking
from profiler.quality_file import Curve, Quality, StoredQuestion, curve
from profiler.quality_sections import AgreementCurve, BudgetCurve
from profiler.runs import Run
from profiler.runs import curves as run_curves
from profiler.tasks import TaskQuestion
from profiler.vote_agreement import agreement_curve
from strategies.answers import Equivalence
from strategies.answers.grouping import AnswerKind
from strategies.base import Need, Shape
from strategies.registry import Registry


async def store(
    question: TaskQuestion,
    kind: AnswerKind,
    greedy: Generated,
    samples: Sequence[Generated],
    prompt_tokens: int,
    equivalence: Equivalence | None = None,
) -> StoredQuestion:
    """Group all answers with the gold one: a sample is right if it falls into the gold answer's class."""
    marking = Marking(kind, question.answer, equivalence)
    return StoredQuestion(
        question=question.question,
        answer=question.answer,
        group=question.label or "",
        prompt_tokens=prompt_tokens,
        greedy=await marking.mark(greedy),
        samples=[await marking.mark(sample) for sample in samples],
    )


def quality(
    model: str,
    task: str,
    kind: str,
    temperature: float,
    pool: list[StoredQuestion],
    registry: Registry,
    environment: dict[str, object],
    runs: Sequence[Run] = (),
) -> Quality:
    """The table of every strategy setting that the pool has enough samples for, or that `runs` were made of, and what
    else the samples say. CPU-bound: seconds."""
    derived = list(curves(pool, registry))
    known = {(curve.strategy, repr(curve.params), curve.greedy) for curve in derived}
    measured = [c for c in run_curves(runs) if (c.strategy, repr(c.params), c.greedy) not in known]
    return Quality(
        model=model,
        task=task,
        answers=kind,
        temperature=temperature,
        questions=len(pool),
        samples_per_question=min(len(question.samples) for question in pool),
        mean_prompt_tokens=sum(question.prompt_tokens for question in pool) / len(pool),
        curves=[*derived, *measured],
        environment=environment,
        budgets=budgets(pool, registry),
        agreement=agreements(pool, registry),
        lengths=lengths(pool),
    )


def curves(pool: list[StoredQuestion], registry: Registry) -> list[Curve]:
    """One curve per setting."""
    return [curve(name, params, shape, pool, greedy=greedy) for name, params, shape, greedy in settings(pool, registry)]


def budgets(pool: list[StoredQuestion], registry: Registry) -> list[BudgetCurve]:
    """One curve over token budgets per setting."""
    grid = budget_grid(pool)
    return [
        budget_curve(name, params, shape, pool, grid, greedy=greedy)
        for name, params, shape, greedy in settings(pool, registry)
    ]


def agreements(pool: list[StoredQuestion], registry: Registry) -> list[AgreementCurve]:
    """One curve from agreement to correctness per setting that votes."""
    return [
        agreement_curve(name, params, shape, pool)
        for name, params, shape, _ in settings(pool, registry)
        if Need.ANSWERS in registry.get(name).needs
    ]


def settings(pool: list[StoredQuestion], registry: Registry) -> Iterator[tuple[str, dict[str, object], Shape, bool]]:
    """Strategy, parameters, shape, and whether at temperature 0: sampled settings, then the greedy `none`. A setting
    needs at most half the samples, so that draws differ."""
    room = min(len(question.samples) for question in pool) // 2
    for strategy in registry:
        for params in strategy.grid():
            shape = strategy(params).shape()
            if shape.votes and shape.branches <= max(room, 1):
                yield strategy.name, params.model_dump(), shape, False
    yield "none", {}, registry.build("none", {}).shape(), True
