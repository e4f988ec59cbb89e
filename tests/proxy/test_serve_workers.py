"""Several workers on one port: one page of metrics, one store of traces; who dies is replaced; all drain together."""

import asyncio
import os
import signal
from pathlib import Path

from scripted_backend import ScriptedBackend, says
from served import ServedProxy, serving, write_fleet


async def test_workers_share_a_port_are_restarted_and_drain(tmp_path: Path) -> None:
    backend, config = ScriptedBackend(), tmp_path / "fleet.yaml"
    await backend.start()
    write_fleet(config, backend, grace_s=20, workers=2)
    async with serving(config) as proxy:
        workers = await _workers(proxy, 2)
        for _ in range(10):
            answers = await asyncio.gather(*(proxy.ask() for _ in range(4)))
            assert {answer.status_code for answer in answers} == {200}
        await _counted(proxy, 40)
        async with asyncio.timeout(10):
            while len(proxy.traces()) < 40:  # a crash may lose the last second's
                await asyncio.sleep(0.1)

        os.kill(workers[0], signal.SIGKILL)
        assert await _workers(proxy, 2, without=workers[0])
        await _counted(proxy, 40, "what the dead have counted is not lost")
        assert {answer.status_code for answer in await asyncio.gather(*(proxy.ask() for _ in range(4)))} == {200}

        held = asyncio.Event()
        backend.will(*[says("late", when=held)] * 4)
        late = [asyncio.create_task(proxy.ask()) for _ in range(4)]
        await backend.generation(47)
        proxy.signal(signal.SIGTERM)
        await proxy.says("requests are running", 30)
        held.set()
        assert {answer.status_code for answer in await asyncio.gather(*late)} == {200}
        assert await proxy.exit_status(40) == 0, proxy.log
        assert len(proxy.traces()) == 48, "of all workers, in one store"
    await backend.stop()


async def test_workers_end_with_their_supervisor(tmp_path: Path) -> None:
    backend, config = ScriptedBackend(), tmp_path / "fleet.yaml"
    await backend.start()
    write_fleet(config, backend, workers=2)
    async with serving(config) as proxy:
        workers = await _workers(proxy, 2)
        proxy.process.kill()
        async with asyncio.timeout(20):
            while any(Path(f"/proc/{pid}").exists() for pid in workers):
                await asyncio.sleep(0.05)
    await backend.stop()


async def _workers(proxy: ServedProxy, count: int, without: int | None = None) -> list[int]:
    """Their process ids, once so many serve."""
    children = Path(f"/proc/{proxy.process.pid}/task/{proxy.process.pid}/children")
    async with asyncio.timeout(120):
        while True:
            found = [int(pid) for pid in children.read_text().split() if int(pid) != without]
            told = await proxy.metric("paretoproxy_workers")
            if len(found) == told == count:
                return found
            await asyncio.sleep(0.1)


async def _counted(proxy: ServedProxy, requests: int, why: str = "") -> None:
    async with asyncio.timeout(5):
        while (told := await proxy.metric("paretoproxy_requests_total")) != requests:
            assert told < requests, why
            await asyncio.sleep(0.1)
