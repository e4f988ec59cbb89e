"""Several workers on one port: started, restarted when they die, told to end, and buried.

The supervisor listens and never accepts: workers inherit the socket, so that connections that wait are lost with no
worker. Each worker is `paretoproxy serve` again, which is told its place by `Place`; it ends by itself when the
supervisor dies, because the pipe at its standard input ends with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from proxy.worker_metrics import bury

log = logging.getLogger("paretoproxy")

BACKLOG = 2048
BACK_OFF_S = 0.5
MOST_BACK_OFF_S = 30.0
SETTLED_S = 10.0  # who lives so long starts again at once


class Place(NamedTuple):
    """A worker's: `fd` of the listening socket, and the folder in which all tell their metrics."""

    name: str
    fd: int
    folder: Path

    def __str__(self) -> str:
        return f"{self.name}:{self.fd}:{self.folder}"

    @classmethod
    def parse(cls, text: str) -> Place:
        name, fd, folder = text.split(":", 2)
        return cls(name, int(fd), Path(folder))


class Supervisor:
    """`run` returns the exit status: 0 where every worker ended as it was told to."""

    def __init__(self, listener: socket.socket, arguments: Sequence[str], workers: int) -> None:
        self._listener, self._arguments, self._workers = listener, list(arguments), workers
        self._folder = Path(tempfile.mkdtemp(prefix="paretoproxy-"))
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()
        self._burying = asyncio.Lock()  # who end together are added to one file one after another
        self._asked = 0
        self._failed = False

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._tell, signal.SIGHUP)
        try:
            async with asyncio.TaskGroup() as places:
                for index in range(self._workers):
                    places.create_task(self._keep(index))
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)
        return int(self._failed)

    def _stop(self) -> None:
        """Asked twice, the workers are asked twice, and end at once; asked once more, they are killed. Else each sees
        to it that it ends: see `server.py`."""
        self._asked += 1
        self._stopping.set()
        self._listener.close()
        self._tell(signal.SIGTERM if self._asked <= 2 else signal.SIGKILL)

    def _tell(self, number: signal.Signals) -> None:
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    async def _keep(self, index: int) -> None:
        """One place: somebody in it until all end."""
        back_off_s, life, served = BACK_OFF_S, 0, False
        while not self._stopping.is_set():
            life += 1
            began, name = time.monotonic(), f"{index}-{life}"
            status = await self._live(name)
            served = served or (self._folder / f"{name}.json").exists()
            await self._bury(name)
            if self._stopping.is_set():
                if status not in (0, -signal.SIGTERM):  # the latter: before it could serve
                    log.error("worker %s ended with %d as all were told to end", name, status)
                    self._failed = True
                return
            if not served:
                log.error("worker %s could not start; all are stopped", name)
                self._failed = True
                self._stop()
                return
            lived_s = time.monotonic() - began
            back_off_s = BACK_OFF_S if lived_s > SETTLED_S else min(MOST_BACK_OFF_S, 2 * back_off_s)
            log.error("worker %s ended with %d; another one starts in %g s", name, status, back_off_s)
            await asyncio.wait([stop := asyncio.create_task(self._stopping.wait())], timeout=back_off_s)
            stop.cancel()

    async def _bury(self, name: str) -> None:
        async with self._burying:
            try:
                await asyncio.to_thread(bury, self._folder, name)
            except OSError as error:
                log.error("what worker %s has counted is lost: %s", name, error)

    async def _live(self, name: str) -> int:
        """One worker from start to end; its exit status."""
        place = Place(name, self._listener.fileno(), self._folder)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "proxy.cli", "serve", *self._arguments, "--place", str(place)),
            pass_fds=[place.fd],
            stdin=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in a terminal reaches the supervisor alone, which tells the workers once
        )
        self._running[name] = process
        if self._stopping.is_set():
            process.send_signal(signal.SIGTERM)
        try:
            return await process.wait()
        finally:
            del self._running[name]


def listen(host: str, port: int) -> socket.socket:
    """The socket that all workers share. Raises OSError."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener
