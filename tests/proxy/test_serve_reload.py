"""SIGHUP to a real process, under load."""

import asyncio
import signal
from pathlib import Path

from scripted_backend import ScriptedBackend
from served import serving, write_fleet


async def test_sighup_reads_the_file_again_and_no_request_fails(tmp_path: Path) -> None:
    a, b, config = ScriptedBackend("a"), ScriptedBackend("b"), tmp_path / "fleet.yaml"
    for backend in (a, b):
        await backend.start()
    write_fleet(config, a)
    async with serving(config) as proxy:
        ended = asyncio.Event()
        statuses: list[int] = []

        async def ask_on() -> None:
            while not ended.is_set():
                statuses.append((await proxy.ask()).status_code)

        load = [asyncio.create_task(ask_on()) for _ in range(3)]
        for turn, (names, fleet) in enumerate({"new: b": (a, b), "leaving: a": (b,), "new: a": (a, b)}.items(), 1):
            write_fleet(config, *fleet)
            proxy.signal(signal.SIGHUP)
            await proxy.says(names, 30)
            assert await proxy.metric("paretoproxy_config_reloads_total", result="ok") >= turn
        ended.set()
        await asyncio.gather(*load)
        assert set(statuses) == {200} and a.generations and b.generations
        proxy.signal(signal.SIGTERM)
        assert await proxy.exit_status(30) == 0
        assert len(proxy.traces()) == len(statuses)
    for backend in (a, b):
        await backend.stop()
