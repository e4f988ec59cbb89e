"""Asking an engine: in order, under the table's own sampling, no longer than needed."""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from profiler import quality_file
from profiler.agree import Limits, Standing
from profiler.agree_run import AgreementRun, Effort, Reference, reference, samples_path
from profiler.quality_file import Quality, StoredQuestion, StoredSample


def stored(number: int) -> StoredQuestion:
    """Right half of the time, ten to seventeen tokens long; rightly answered at temperature 0."""
    samples = [StoredSample("4" if i % 2 else "5", 10 + i, "stop", bool(i % 2)) for i in range(8)]
    return StoredQuestion(f"q{number}", "4", "all", 7, StoredSample("4", 12, "stop", True), samples)


POOL = [stored(number) for number in range(30)]
REFERENCE = Reference("math", "math", 0.8, 64, POOL)


@dataclass
class Text:
    text: str
    completion_tokens: int
    finish_reason: str | None = "stop"


@dataclass
class Engine:
    """Draws from the stored samples, changed by `speaks`. `asked`: (question, count, temperature, max_tokens)."""

    speaks: Callable[[StoredSample], Text] = lambda sample: Text(f"so \\boxed{{{sample.answer}}}", sample.tokens)
    slowness_s: float = 0.0
    asked: list[tuple[str, int, float, int]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    rng: random.Random = field(default_factory=lambda: random.Random(0))

    async def chat(self, question: str, count: int, *, temperature: float, max_tokens: int) -> Sequence[Text]:
        self.asked.append((question, count, temperature, max_tokens))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(self.slowness_s)
        finally:
            self.at_once -= 1
        known = next(known for known in POOL if known.question == question)
        drawn = [known.greedy] if temperature == 0 else self.rng.sample(known.samples, count)
        return [self.speaks(sample) for sample in drawn]


async def test_an_engine_that_draws_the_same_agrees_in_both_settings() -> None:
    for setting in ("sampled", "greedy"):
        engine = Engine()
        standing = await AgreementRun(engine, REFERENCE, setting, Limits(questions=20)).run()  # type: ignore[arg-type]
        assert (standing.verdict, standing.questions) == ("agrees", 20)


async def test_it_samples_as_the_table_was_sampled() -> None:
    engine = Engine()
    await AgreementRun(engine, REFERENCE, "sampled", Limits(questions=5), Effort(samples=3)).run()
    assert {asked[1:] for asked in engine.asked} == {(3, 0.8, 64)}
    await AgreementRun(engine := Engine(), REFERENCE, "greedy", Limits(questions=5)).run()
    assert {asked[1:] for asked in engine.asked} == {(1, 0.0, 64)}


async def test_a_wrong_engine_is_named_and_not_asked_much_further() -> None:
    engine = Engine(lambda sample: Text("\\boxed{9}", sample.tokens))
    standing = await AgreementRun(engine, REFERENCE, "sampled", effort=Effort(parallel=2)).run()
    assert (standing.verdict, standing.accuracy) == ("differs", 0.0)
    assert standing.questions <= len(engine.asked) <= standing.questions + 2
    assert engine.at_once == 0


async def test_answers_are_compared_as_the_task_compares_them() -> None:
    """4, 4.0 and 8/2 are one answer: neither right nor unchanged is a matter of spelling."""
    engine = Engine(lambda sample: Text("\\boxed{4.0}" if sample.correct else "\\boxed{5.0}", sample.tokens))
    standing = await AgreementRun(engine, REFERENCE, "greedy", Limits(questions=20)).run()
    assert (standing.verdict, standing.accuracy) == ("agrees", 1.0)
    assert standing.evidence["answers"] < 0


async def test_a_few_questions_at_a_time_and_every_standing_is_told() -> None:
    engine, told = Engine(slowness_s=0.001), list[Standing]()
    await AgreementRun(engine, REFERENCE, "sampled", Limits(questions=12), Effort(parallel=3)).run(told.append)
    assert engine.most_at_once == 3
    assert [standing.questions for standing in told] == list(range(1, 13))


async def test_no_more_questions_than_are_stored() -> None:
    standing = await AgreementRun(Engine(), REFERENCE, "sampled", Limits(questions=500)).run()
    assert (standing.verdict, standing.questions) == ("agrees", 30)


async def test_without_the_time_for_it_nothing_is_decided() -> None:
    engine = Engine(slowness_s=0.02)
    standing = await AgreementRun(engine, REFERENCE, "sampled", effort=Effort(parallel=1, budget_s=0.05)).run()
    assert standing.verdict == "undecided"
    assert (standing.questions < 10, engine.at_once) == (True, 0)


async def test_an_engine_that_fails_ends_the_run_and_leaves_nothing_behind() -> None:
    def fails(sample: StoredSample) -> Text:
        raise ConnectionError("gone")

    engine = Engine(fails)
    with pytest.raises(ConnectionError):
        await AgreementRun(engine, REFERENCE, "sampled").run()
    assert engine.at_once == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_the_samples_lie_beside_the_table(tmp_path: Path) -> None:
    table = tmp_path / "m.math.quality.json"
    quality = Quality("m", "math", "math", 0.8, 30, 8, 7.0, [], {"max_tokens": 64})
    quality_file.write(quality, table)
    assert reference(table) is None
    samples_path(table).write_bytes(b"".join(msgspec.json.encode(question) + b"\n" for question in POOL))
    assert reference(table) == REFERENCE


def test_a_table_that_does_not_say_how_long_answers_might_be_is_no_reference(tmp_path: Path) -> None:
    table = tmp_path / "m.math.quality.json"
    quality_file.write(Quality("m", "math", "math", 0.8, 30, 8, 7.0, []), table)
    samples_path(table).write_bytes(msgspec.json.encode(POOL[0]) + b"\n")
    assert reference(table) is None
