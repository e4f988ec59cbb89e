"""The test of agreement on simulated engines, drawn from the stored samples of the built-in reasoners.

The 64 stored samples of a question are dealt anew per engine: 32 are the reference, others are what the engine says.
So an engine that changes nothing is exactly one that agrees, and the reference has the noise of 32 samples.
"""

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import pytest

from profiler.agree import AgreementTest, Limits, Standing
from profiler.quality_file import StoredQuestion, StoredSample, read_samples

QUALITY = Path(__file__).resolve().parents[2] / "profiler/tinymath/quality"
Change = Callable[[StoredSample, random.Random], StoredSample]


@cache
def pool(model: str) -> list[StoredQuestion]:
    return list(read_samples(QUALITY / f"{model}.tinymath.samples.jsonl"))


def sampled(model: str, seed: int, change: Change, limits: Limits | None = None) -> Standing:
    """What the test says of one simulated engine, four samples a question."""
    rng, limits = random.Random(seed), limits or Limits()
    test = AgreementTest("sampled", limits)
    for question in rng.sample(pool(model), limits.questions):
        dealt = rng.sample(question.samples, 36)
        fresh = [change(sample, rng) for sample in dealt[:4]]
        standing = test.add(msgspec.structs.replace(question, samples=dealt[4:]), fresh)
        if standing.verdict != "undecided":
            break
    return standing


def greedy(seed: int, change: Callable[[StoredQuestion, random.Random], StoredSample]) -> Standing:
    """The same at temperature 0."""
    rng, limits = random.Random(seed), Limits()
    test = AgreementTest("greedy", limits)
    for question in rng.sample(pool("tinymath-s"), limits.questions):
        standing = test.add(question, [change(question, rng)])
        if standing.verdict != "undecided":
            break
    return standing


def unchanged(sample: StoredSample, rng: random.Random) -> StoredSample:
    return sample


def less_accurate(by: float, of: float) -> Change:
    """Of an accuracy `of`, `by` is lost, whatever the question."""

    def change(sample: StoredSample, rng: random.Random) -> StoredSample:
        wrong = StoredSample("0", sample.tokens, sample.finish_reason, False)
        return wrong if sample.correct and rng.random() < by / of else sample

    return change


def longer(sample: StoredSample, rng: random.Random) -> StoredSample:
    return StoredSample(sample.answer, round(sample.tokens * 1.2), sample.finish_reason, sample.correct)


def near_random(sample: StoredSample, rng: random.Random) -> StoredSample:
    """As vLLM's CPU build speculates above temperature 0: it rambles, and is right by chance only."""
    return StoredSample(None, rng.randint(sample.tokens, max(1024, sample.tokens)), "stop", rng.random() < 0.04)


@pytest.mark.parametrize("model", ["tinymath-s", "tinymath-m"])
def test_engines_that_agree_are_hardly_ever_called_wrong(model: str) -> None:
    """At a generous alpha, so that sixty engines suffice to see that it is kept; few are called wrong."""
    said = [sampled(model, seed, unchanged, Limits(alpha=0.05)).verdict for seed in range(60)]
    assert said.count("differs") <= 0.05 * 60
    assert said.count("undecided") == 0


def test_at_the_default_alpha_a_false_alarm_is_rare() -> None:
    said = [sampled("tinymath-s", 1000 + seed, unchanged).verdict for seed in range(50)]
    assert said.count("differs") <= 1  # 0.05 are expected at most


@pytest.mark.parametrize(("model", "accuracy"), [("tinymath-s", 0.521), ("tinymath-m", 0.555)])
def test_an_accuracy_lower_by_015_is_mostly_named_within_sixty_questions(model: str, accuracy: float) -> None:
    """Of 120 such engines 92 and 90."""
    standings = [sampled(model, seed, less_accurate(0.15, accuracy)) for seed in range(40)]
    named = [standing for standing in standings if standing.verdict == "differs"]
    assert len(named) >= 28
    assert np.median([standing.questions for standing in named]) < 45
    assert sum(standing.reason.startswith("accuracy 0.") for standing in named) >= 28


@pytest.mark.parametrize("model", ["tinymath-s", "tinymath-m"])
def test_right_answers_that_are_a_fifth_longer_are_named_for_their_length(model: str) -> None:
    standings = [sampled(model, seed, longer) for seed in range(40)]
    assert {standing.verdict for standing in standings} == {"differs"}
    assert np.median([standing.questions for standing in standings]) < 20
    assert all("completion lengths" in standing.reason for standing in standings)
    assert 1.1 < np.mean([standing.length_ratio for standing in standings]) < 1.3


def test_a_broken_engine_is_named_after_a_few_questions() -> None:
    standings = [sampled("tinymath-s", seed, near_random) for seed in range(20)]
    assert {standing.verdict for standing in standings} == {"differs"}
    assert max(standing.questions for standing in standings) <= 15


def test_with_many_samples_agreement_is_said_before_the_questions_run_out() -> None:
    """The interval of the accuracy's difference then lies within the margin, and it holds the truth: no difference."""
    standing = sampled("tinymath-m", 1, unchanged, Limits(margin=0.1, questions=200))
    assert (standing.verdict, standing.questions < 200) == ("agrees", True)
    low, high = standing.difference
    assert -0.1 <= low < 0 < high <= 0.1


def test_the_interval_holds_the_true_difference_at_all_questions_together() -> None:
    """Of 100 engines that are 0.15 worse, at most a twentieth may ever have an interval without it."""
    missed = 0
    for seed in range(100):
        standing = sampled("tinymath-s", seed, less_accurate(0.15, 0.521), Limits(alpha=1e-12, questions=40))
        missed += not standing.difference[0] <= -0.15 <= standing.difference[1]
    assert missed <= 5


def test_until_something_is_shown_it_is_undecided() -> None:
    assert sampled("tinymath-s", 3, unchanged, Limits(questions=1)).verdict == "agrees"
    test = AgreementTest("sampled")
    assert test.standing.verdict == "undecided"
    question = pool("tinymath-s")[0]
    assert test.add(question, question.samples[:4]).verdict == "undecided"


def test_a_question_without_answers_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one fresh"):
        AgreementTest("sampled").add(pool("tinymath-s")[0], [])


def test_at_temperature_0_the_same_answers_agree() -> None:
    standing = greedy(0, lambda question, rng: question.greedy)
    assert (standing.verdict, standing.questions, standing.length_ratio) == ("agrees", 60, 1.0)


def test_rounding_that_changes_one_answer_in_ten_still_agrees() -> None:
    said = [
        greedy(seed, lambda q, rng: rng.choice(q.samples) if rng.random() < 0.1 else q.greedy).verdict
        for seed in range(200)
    ]
    assert said.count("differs") <= 1


def test_an_engine_that_ignores_temperature_0_is_named_for_its_answers() -> None:
    standings = [greedy(seed, lambda question, rng: rng.choice(question.samples)) for seed in range(20)]
    named = [standing for standing in standings if standing.verdict == "differs"]
    assert len(named) >= 14
    assert sum("not the stored ones" in standing.reason for standing in named) > len(named) / 2


def test_wrong_answers_at_temperature_0_are_named_at_once() -> None:
    standing = greedy(0, lambda question, rng: StoredSample("0", question.greedy.tokens, "stop", False))
    assert standing.verdict == "differs"
    assert standing.questions <= 20
