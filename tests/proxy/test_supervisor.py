"""The supervisor alone: its workers are coroutines that have counted one request each."""

import asyncio
import socket

import pytest
from prometheus_client.core import CounterMetricFamily

from proxy.supervisor import Supervisor
from proxy.worker_metrics import GONE, Exchange, merged, read_folder

WORKERS = 8
KILLED = -9


class Mortal(Supervisor):
    """The first life of each ends together with all others'; the second looks at what those left, and ends all."""

    def __init__(self, *, unwritable: bool = False) -> None:
        self.listener = socket.socket()
        super().__init__(self.listener, [], WORKERS)
        self.together = asyncio.Barrier(WORKERS)
        self.left = 0.0
        if unwritable:
            (self._folder / f"{GONE}.json").mkdir()

    async def _live(self, name: str) -> int:
        exchange = Exchange(self._folder, name, lambda: [CounterMetricFamily("asked", "-", value=1)])
        await exchange.start()
        await exchange.aclose()
        if name.endswith("-1"):
            await self.together.wait()
            return KILLED
        _, gone = read_folder(self._folder)
        counters = merged([], gone) if gone is not None else []
        self.left = max(self.left, sum(sample.value for counter in counters for sample in counter.samples))
        self._stop()
        return 0


async def test_the_counts_of_workers_that_end_together_are_kept() -> None:
    supervisor = Mortal()
    assert await supervisor.run() == 0
    assert supervisor.left >= WORKERS


async def test_a_count_that_cannot_be_kept_ends_nobody(caplog: pytest.LogCaptureFixture) -> None:
    supervisor = Mortal(unwritable=True)
    assert await supervisor.run() == 0
    assert sum("has counted is lost" in line for line in caplog.messages) >= WORKERS
