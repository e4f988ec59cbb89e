"""Limits that replicas share, on a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.client_keys import Caller, KeyLimits
from proxy.errors import LimitExceeded
from proxy.limits import Amount, Limiter, SharedLimitsDown
from proxy.redis_limits import RedisLimits

pytest.importorskip("redis")
pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs the redis-server command")


class Server:
    """A Redis that can be stopped and started again. It keeps nothing on disk."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as port:
            port.bind(("127.0.0.1", 0))
            self.port = int(port.getsockname()[1])
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder)]
        self._process = await asyncio.create_subprocess_exec(
            "redis-server", *options, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.close()
                    await writer.wait_closed()
                    return
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            await self._process.wait()
            self._process = None


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    server = Server(tmp_path)
    await server.start()
    yield server
    await server.stop()


@contextlib.asynccontextmanager
async def replica(server: Server, lease_s: float = 60, timeout_s: float = 5) -> AsyncIterator[RedisLimits]:
    limits = RedisLimits(server.url, lease_s=lease_s, timeout_s=timeout_s)
    await limits.start()
    try:
        yield limits
    finally:
        await limits.aclose()


def lease() -> str:
    return uuid.uuid4().hex


ONE = Amount(10, 0.01)


async def settled(*replicas: RedisLimits) -> None:
    async with asyncio.timeout(20):
        while any(one._settles for one in replicas):
            await asyncio.sleep(0.01)


async def test_replicas_count_requests_together(server: Server) -> None:
    limits = KeyLimits(requests_per_minute=6)
    async with replica(server) as a, replica(server) as b:
        took = await asyncio.gather(*(one.take("team", limits, ONE, lease()) for one in [a, b] * 8))
        refused = [each for each in took if each is not None]
        assert (len(took) - len(refused), {each.limit for each in refused}) == (6, {"requests_per_minute"})
        assert all(0 < each.retry_after_s <= 10 for each in refused)
        assert await b.take("other", limits, ONE, lease()) is None, "keys do not share"


async def test_a_place_is_freed_by_settling_and_by_its_lease(server: Server) -> None:
    limits = KeyLimits(concurrent_requests=2)
    async with replica(server, lease_s=1.0) as a, replica(server) as b:
        held, lost = lease(), lease()
        assert await a.take("team", limits, ONE, lost) is None  # of a replica that dies
        assert await b.take("team", limits, ONE, held) is None
        over = await b.take("team", limits, ONE, lease())
        assert over is not None and over.limit == "concurrent_requests"
        b.settle("team", Amount(), held)
        await settled(b)
        assert await b.take("team", limits, ONE, lease()) is None
        await asyncio.sleep(1.2)
        assert await b.take("team", limits, ONE, lease()) is None


async def test_tokens_and_dollars_are_reserved_and_settled(server: Server) -> None:
    limits = KeyLimits(tokens_per_day=100, usd_per_day=1, tokens_per_minute=1000)
    async with replica(server) as a, replica(server) as b:
        first = lease()
        assert await a.take("team", limits, Amount(90, 0.5), first) is None
        over = await b.take("team", limits, Amount(20, 0.1), lease())
        assert over is not None and over.limit == "tokens_per_day"
        assert 0 < over.retry_after_s <= 86_400
        a.settle("team", Amount(-80, 0.4), first)  # fewer tokens, more dollars than expected
        await settled(a)
        assert await b.take("team", limits, Amount(20, 0.05), lease()) is None
        over = await b.take("team", limits, Amount(20, 0.1), lease())
        assert over is not None and over.limit == "usd_per_day"


async def test_it_counts_as_one_process_does(server: Server) -> None:
    """The script and `LocalLimits` are told the same."""
    limits = {"requests_per_minute": 1000, "tokens_per_day": 300, "concurrent_requests": 3}
    caller = Caller("team", limits=KeyLimits.model_validate(limits))
    by_limiter = []
    async with replica(server) as shared:
        for limiter in (Limiter(shared), Limiter()):
            running, told = [], list[str]()
            by_limiter.append(told)
            for step in range(12):
                try:
                    running.append(await limiter.admit(caller, lease(), 20, 60))
                    told.append("")
                except LimitExceeded as error:
                    told.append(error.limit)
                if step % 3 == 2 and running:
                    admission = running.pop(0)
                    assert admission is not None
                    limiter.settle(admission, Amount(70, 0))
                    await settled(shared)
    assert by_limiter[0] == by_limiter[1]
    assert {"", "tokens_per_day", "concurrent_requests"} == set(by_limiter[0])


async def test_an_outage_is_told_at_once_and_made_up_for(server: Server) -> None:
    limits = KeyLimits(concurrent_requests=1)
    async with replica(server) as a:
        held = lease()
        assert await a.take("team", limits, ONE, held) is None
        await server.stop()
        with pytest.raises(SharedLimitsDown) as error:
            await a.take("team", limits, ONE, lease())
        assert server.url not in str(error.value)
        began = time.monotonic()
        with pytest.raises(SharedLimitsDown):
            await a.take("team", limits, ONE, lease())
        assert time.monotonic() - began < 0.5, "nobody waits for it again so soon"
        await server.start()  # it has forgotten all, as after a crash
        await asyncio.sleep(1.1)
        a.settle("team", Amount(), held)
        await settled(a)
        assert await a.take("team", limits, ONE, lease()) is None
