"""Every combination that the planner may choose gives the model's true accuracy: each engine against the stored table.

The test is paired: question i was right in a share p_i of its stored samples, so over fresh samples the number of
right answers has mean Σ p_i
and variance Σ p_i (1 − p_i), plus the stored share's own sampling error.
"""

from __future__ import annotations

import asyncio
import math

import pytest
from conftest import pool_of

from profiler.quality_file import StoredQuestion
from profiler.tasks import load_task
from proxy.bench import EngineBench
from proxy.slo_table import is_correct

QUESTIONS = 24
SAMPLES = 3
PARALLEL = 8
LIMIT_Z = 3.5  # two-sided chance of a false alarm: 1 in 2,000


def _expected(pool: list[StoredQuestion], samples: int) -> tuple[float, float]:
    """Mean and variance of right answers over `samples` fresh ones of each question."""
    mean = variance = 0.0
    for question in pool:
        stored = len(question.samples)
        p = (sum(sample.correct for sample in question.samples) + 0.5) / (stored + 1)
        mean += samples * p
        variance += samples * p * (1 - p) * (1 + samples / stored)
    return mean, variance


async def _right(bench: EngineBench, pool: list[StoredQuestion], samples: int, temperature: float) -> int:
    task, gate = load_task("tinymath"), asyncio.Semaphore(PARALLEL)

    async def one(question: StoredQuestion) -> int:
        async with gate:
            branches = await bench.chat(question.question, samples, temperature=temperature, max_tokens=1024)
        return sum([await is_correct(branch.text, question.answer, task) for branch in branches])

    return sum(await asyncio.gather(*(one(question) for question in pool)))


def _z(right: int, pool: list[StoredQuestion], samples: int) -> float:
    mean, variance = _expected(pool, samples)
    return (right - mean) / math.sqrt(variance)


@pytest.mark.parametrize(
    ("bench", "model"),
    [("s-tp1", "tinymath-s"), ("m-tp1", "tinymath-m")],
    indirect=["bench"],
)
async def test_sampling_on_each_engine_is_as_right_as_the_table(bench: EngineBench, model: str) -> None:
    pool = pool_of(model)[:QUESTIONS]
    right = await _right(bench, pool, SAMPLES, temperature=1.0)
    print(f"{model}: {right} right of {QUESTIONS * SAMPLES}, expected {_expected(pool, SAMPLES)[0]:.1f}")
    assert abs(_z(right, pool, SAMPLES)) < LIMIT_Z


@pytest.mark.parametrize(
    ("bench", "model"),
    [("s-tp1", "tinymath-s"), ("s-ngram", "tinymath-s"), ("m-tp1", "tinymath-m")],
    indirect=["bench"],
)
async def test_greedy_on_each_engine_is_as_right_as_the_table(bench: EngineBench, model: str) -> None:
    """Greedy runs are deterministic up to rounding: few questions may differ from the stored ones."""
    pool = pool_of(model)[:QUESTIONS]
    right = await _right(bench, pool, 1, temperature=0.0)
    stored = sum(question.greedy.correct for question in pool)
    print(f"{model} greedy: {right} right of {QUESTIONS}, stored {stored}")
    assert abs(right - stored) <= 5


@pytest.mark.parametrize("bench", ["s-ngram"], indirect=True)
async def test_sampling_under_speculation_is_wrong_here_which_is_why_the_fleet_forbids_it(bench: EngineBench) -> None:
    """Shows that the check can fail. A vLLM CPU release that samples rightly makes this fail: then lift `sampling:
    greedy`."""
    pool = pool_of("tinymath-s")[:20]
    right = await _right(bench, pool, 2, temperature=1.0)
    assert _z(right, pool, 2) < -LIMIT_Z
