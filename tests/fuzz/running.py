"""A whole proxy over a scripted backend in a thread of its own, for tests that call it from outside."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "proxy"))

from http_rig import Fleet, RunningProxy


@contextmanager
def running_proxy(folder: Path, **sections: Any) -> Iterator[RunningProxy]:
    """Started, and stopped without a rest on leaving."""
    started, stop = threading.Event(), list[tuple[asyncio.AbstractEventLoop, asyncio.Event]]()
    found, failed = list[RunningProxy](), list[BaseException]()

    async def run() -> None:
        fleet, end = Fleet(folder), asyncio.Event()
        stop.append((asyncio.get_running_loop(), end))
        try:
            await fleet.backend()
            found.append(await fleet.proxy(**sections))
            await found[0].probed()
            started.set()
            await end.wait()
        finally:
            await fleet.close()

    def work() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:
            failed.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=work, name="proxy")
    thread.start()
    started.wait(60)
    try:
        if failed:
            raise failed[0]
        yield found[0]
    finally:
        loop, end = stop[0]
        if thread.is_alive():
            loop.call_soon_threadsafe(end.set)
        thread.join(60)
    if failed:
        raise failed[0]
