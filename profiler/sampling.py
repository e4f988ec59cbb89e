"""From a generated text to a stored sample: the answer as extracted, whether it is right, what it took."""

from __future__ import annotations

from collections.abc import Sequence

from profiler.quality_file import Curve, Quality, StoredQuestion, StoredSample, curve
from profiler.tasks import TaskQuestion
from strategies.answers import Equivalence, Grouper
from strategies.answers.grouping import AnswerKind
from strategies.registry import Registry

Generated = tuple[str, int, str]  # text, completion tokens, finish reason


async def store(
    question: TaskQuestion,
    kind: AnswerKind,
    greedy: Generated,
    samples: Sequence[Generated],
    prompt_tokens: int,
    equivalence: Equivalence | None = None,
) -> StoredQuestion:
    """Group all answers with the gold one: a sample is right if it falls into the gold answer's class."""
    grouper = Grouper(kind, equivalence)
    gold = await grouper.group(_as_answer(question.answer, kind))
    gold_group = gold.group if gold is not None else None
    names: dict[int, str] = {}

    async def one(generated: Generated) -> StoredSample:
        text, tokens, finish = generated
        answer = await grouper.group(text)
        if answer is None:
            return StoredSample(None, tokens, finish, False)
        names.setdefault(answer.group, answer.text)
        return StoredSample(names[answer.group], tokens, finish, answer.group == gold_group)

    return StoredQuestion(
        question=question.question,
        answer=question.answer,
        group=question.label or "",
        prompt_tokens=prompt_tokens,
        greedy=await one(greedy),
        samples=[await one(sample) for sample in samples],
    )


def _as_answer(gold: str, kind: AnswerKind) -> str:
    return f"\\boxed{{{gold}}}" if kind in ("math", "choice") else gold


def quality(
    model: str,
    task: str,
    kind: str,
    temperature: float,
    pool: list[StoredQuestion],
    registry: Registry,
    environment: dict[str, object],
) -> Quality:
    """The table of every strategy setting that the pool has enough samples for. CPU-bound: seconds."""
    return Quality(
        model=model,
        task=task,
        answers=kind,
        temperature=temperature,
        questions=len(pool),
        samples_per_question=min(len(question.samples) for question in pool),
        mean_prompt_tokens=sum(question.prompt_tokens for question in pool) / len(pool),
        curves=list(curves(pool, registry)),
        environment=environment,
    )


def curves(pool: list[StoredQuestion], registry: Registry) -> list[Curve]:
    """Sampled settings, then the greedy `none`. A setting needs at most half the samples, so that draws differ."""
    room = min(len(question.samples) for question in pool) // 2
    found = []
    for strategy in registry:
        for params in strategy.grid():
            shape = strategy(params).shape()
            if shape.branches <= max(room, 1):
                found.append(curve(strategy.name, params.model_dump(), shape, pool, greedy=False))
    found.append(curve("none", {}, registry.build("none", {}).shape(), pool, greedy=True))
    return found
