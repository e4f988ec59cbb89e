"""Mathematical equivalence in a worker process that is killed when it hangs."""

import asyncio
import multiprocessing
import os
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing
from multiprocessing.connection import wait
from pathlib import Path

import pytest
from answers_comparisons import ENDLESS, FIFO, equal_text, nothing

from strategies.answers import Closed, Grouper, MathVerifyPool, OutOfTime, Overloaded, Undecided


@pytest.fixture
async def pool() -> AsyncIterator[MathVerifyPool]:
    """A pool whose worker compares text, started, with a limit that a hang meets soon."""
    async with aclosing(MathVerifyPool(limit_s=0.3, patience_s=30, compare=equal_text, prepare=nothing)) as pool:
        await pool.warm()
        yield pool


def _workers() -> list[multiprocessing.process.BaseProcess]:
    return multiprocessing.active_children()


async def _ended(*workers: multiprocessing.process.BaseProcess) -> bool:
    sentinels = [worker.sentinel for worker in workers]
    return len(await asyncio.to_thread(wait, sentinels, 20)) == len(sentinels)


async def _under_way(pool: MathVerifyPool, a: str, b: str = "b") -> asyncio.Task[bool]:
    task = asyncio.create_task(pool.same(a, b))
    await asyncio.sleep(0)
    return task


async def test_math_verify_knows_what_keys_cannot() -> None:
    async with aclosing(MathVerifyPool(limit_s=20, patience_s=60)) as pool:
        assert await pool.same(r"\sqrt{8}", r"2\sqrt{2}")
        assert await pool.same("(x+1)^2", "x^2 + 2x + 1")
        assert await pool.same("[1,2)", r"1 \le x < 2")  # holds in one order only
        assert await pool.same(r"1 \le x < 2", "[1,2)")
        assert not await pool.same("x+1", "x+2")
        assert not await pool.same("{{{", "x")


async def test_a_hanging_worker_is_killed_at_its_limit_and_replaced(pool: MathVerifyPool) -> None:
    (hung,) = _workers()
    with pytest.raises(OutOfTime):
        await pool.same(ENDLESS, "b")
    assert await _ended(hung)
    assert await pool.same("b", "b")
    assert pool.undecided == 1


async def test_a_vote_goes_on_without_the_hung_comparison(pool: MathVerifyPool) -> None:
    grouper = Grouper("math", pool)
    answers = [await grouper.group(rf"\boxed{{{answer}}}") for answer in (ENDLESS, "x+1", "x + 1", "7")]
    assert [answer and answer.group for answer in answers] == [0, 1, 1, 2]
    assert grouper.undecided == 1


async def test_a_failing_comparison_is_undecided_and_its_worker_lives(pool: MathVerifyPool) -> None:
    before = _workers()
    with pytest.raises(Undecided, match="not an answer"):
        await pool.same("broken", "b")
    assert not await pool.same("a", "b")
    assert _workers() == before


async def test_a_cancelled_call_leaves_no_work_behind(tmp_path: Path) -> None:
    fifo = tmp_path / FIFO
    os.mkfifo(fifo)
    async with aclosing(MathVerifyPool(limit_s=60, patience_s=60, compare=equal_text, prepare=nothing)) as pool:
        task = await _under_way(pool, ENDLESS, str(fifo))
        await asyncio.to_thread(fifo.read_text)
        await _cancelled_work_ends(pool, task)


async def _cancelled_work_ends(pool: MathVerifyPool, task: asyncio.Task[bool]) -> None:
    (hung,) = _workers()
    waiting = await _under_way(pool, "a")
    for call in (waiting, task):
        call.cancel()
    assert all(
        isinstance(e, asyncio.CancelledError) for e in await asyncio.gather(task, waiting, return_exceptions=True)
    )
    assert await _ended(hung)
    assert await pool.same("b", "b")
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert pool.undecided == 0


async def test_patience_ends_before_a_long_limit() -> None:
    slow = MathVerifyPool(limit_s=60, patience_s=0.01, compare=equal_text, prepare=nothing)
    async with aclosing(slow) as pool:
        with pytest.raises(OutOfTime):
            await pool.same(ENDLESS, "b")


async def test_too_many_waiting_calls_are_turned_away_at_once() -> None:
    async with aclosing(MathVerifyPool(max_waiting=1, compare=equal_text, prepare=nothing)) as pool:
        first = await _under_way(pool, ENDLESS)
        with pytest.raises(Overloaded):
            await pool.same("a", "b")
        first.cancel()


async def test_long_answers_are_not_compared() -> None:
    async with aclosing(MathVerifyPool(max_chars=10, compare=equal_text, prepare=nothing)) as pool:
        with pytest.raises(Undecided):
            await pool.same("x" * 11, "x" * 11)
        assert _workers() == []  # nothing was worth a process yet


async def test_closing_ends_calls_and_processes(pool: MathVerifyPool) -> None:
    workers = _workers()
    calls = [await _under_way(pool, ENDLESS), await _under_way(pool, "a")]
    await pool.aclose()
    assert [type(e) for e in await asyncio.gather(*calls, return_exceptions=True)] == [Closed, Closed]
    assert await _ended(*workers)
    assert _workers() == []
    with pytest.raises(Closed):
        await pool.same("a", "b")
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_closing_while_the_worker_starts() -> None:
    pool = MathVerifyPool(compare=equal_text, prepare=nothing)
    call = await _under_way(pool, "a")
    await pool.aclose()
    assert isinstance((await asyncio.gather(call, return_exceptions=True))[0], Closed)
    assert _workers() == []


async def test_a_worker_that_dies_idle_is_replaced(pool: MathVerifyPool) -> None:
    (worker,) = _workers()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    assert await _ended(worker)
    outcomes = await asyncio.gather(*(pool.same("b", "b") for _ in range(3)), return_exceptions=True)
    assert outcomes[-1] is True  # the first call may find the dead worker's pool
