"""An asyncio program in virtual time: hours take nothing, and the order is that of the clock."""

import asyncio
import threading
import time

import pytest

from profiler.simulation.clock import LoopClock, VirtualClock
from profiler.simulation.loop import DeadlockError, VirtualLoop, run_virtually


def test_sleeping_jumps() -> None:
    async def main() -> float:
        began = asyncio.get_running_loop().time()
        await asyncio.gather(asyncio.sleep(3600), asyncio.sleep(7200))
        return asyncio.get_running_loop().time() - began

    began = time.monotonic()
    assert run_virtually(main()) == pytest.approx(7200)
    assert time.monotonic() - began < 60


def test_timeouts_are_virtual() -> None:
    async def main() -> list[str]:
        order = []

        async def late(name: str, seconds: float) -> None:
            await asyncio.sleep(seconds)
            order.append(name)

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.gather(late("b", 2), late("a", 1), late("never", 6))
        return order

    assert run_virtually(main()) == ["a", "b"]


def test_a_thread_takes_the_walls_time_and_virtual_time_waits_for_it() -> None:
    async def main() -> float:
        loop, go = asyncio.get_running_loop(), threading.Event()
        ticks = []

        async def tick() -> None:
            while True:
                await asyncio.sleep(1)
                ticks.append(loop.time())

        ticking = asyncio.create_task(tick())
        began = loop.time()
        threading.Timer(0.05, go.set).start()
        await asyncio.to_thread(go.wait)
        ticking.cancel()
        return loop.time() - began

    assert run_virtually(main()) == 0


def test_waiting_for_nothing_is_an_error_and_not_a_hang() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(DeadlockError):
        run_virtually(main())


def test_a_loops_clock_runs_events_in_order_of_time_then_of_asking_and_forgets_cancelled_ones() -> None:
    def run(clock: VirtualClock | LoopClock) -> list[tuple[str, float]]:
        began, seen = clock.now(), []

        def note(name: str) -> None:
            seen.append((name, round(clock.now() - began, 9)))

        def more() -> None:
            note("more")
            clock.at(clock.now(), lambda: note("at once"))
            clock.at(clock.now() + 1, lambda: note("later"))

        clock.at(began + 2, lambda: note("c"))
        clock.at(began + 1, lambda: note("a"))
        clock.at(began + 1, more)
        clock.at(began + 1.5, lambda: note("never")).cancel()
        return seen

    pure = VirtualClock()
    expected = run(pure)
    pure.run()

    async def main() -> list[tuple[str, float]]:
        seen = run(LoopClock(asyncio.get_running_loop()))
        await asyncio.sleep(10)
        return seen

    assert run_virtually(main()) == expected
    assert expected == [("a", 1), ("more", 1), ("at once", 1), ("c", 2), ("later", 2)]


def test_an_event_that_raises_does_not_stop_the_others() -> None:
    async def main() -> list[str]:
        loop, seen = asyncio.get_running_loop(), []
        loop.set_exception_handler(lambda loop, context: seen.append(type(context["exception"]).__name__))
        clock = LoopClock(loop)
        clock.at(clock.now() + 1, lambda: 1 / 0)
        clock.at(clock.now() + 1, lambda: seen.append("still"))
        await asyncio.sleep(2)
        return seen

    assert run_virtually(main()) == ["ZeroDivisionError", "still"]


def test_the_loop_closes_what_it_opened() -> None:
    loop = VirtualLoop()
    assert loop.run_until_complete(asyncio.sleep(1, "done")) == "done"
    loop.close()
    assert loop.is_closed()
