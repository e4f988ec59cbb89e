"""The server's life: it starts, says when it is leaving, lets what runs finish, cuts the rest, and exits with 0.

On SIGTERM or SIGINT: /ready answers 503 at once; for `server.drain_delay_s` everything is served as before, so that
load balancers notice; then nobody new is let in, and what runs has until shortly before `server.grace_s` is over. A
second signal ends everything now.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable

import uvicorn

from proxy.live import Live
from proxy.server_protocol import DrainableState, ServerProtocol

log = logging.getLogger("paretoproxy")

CUT_SHARE = 0.2  # of the grace, kept for ending what does not end by itself …
CUT_AT_MOST_S = 4.0  # … half of it for answers, half for closing connections and writing traces
TICK_S = 0.02
FORCED_CLOSE_S = 1.0
STUCK_S = 5.0  # beyond the grace: then the process is ended from a thread, whatever holds it


class Server(uvicorn.Server):
    """uvicorn's server with that way of ending. `cut`: how many requests were still running at the end of the grace."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.server_state: DrainableState = DrainableState()
        self.cut = 0
        self.parent: int | None = None  # a pipe that ends with the parent process, and so does this one
        self._stop_at: float | None = None  # loop time of the first signal

    @property
    def live(self) -> Live | None:
        """None until the application has started."""
        lifespan = getattr(self, "lifespan", None)
        return lifespan.state.get("live") if lifespan is not None else None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Until a signal. On the loop's own handlers: uvicorn's would be raised again at the end, and end the process
        by the signal instead of with 0."""
        loop = asyncio.get_running_loop()
        handlers: dict[int, Callable[[], None]] = {signal.SIGTERM: self.stop, signal.SIGINT: self.stop}
        handlers[signal.SIGHUP] = self._reload
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        if self.parent is not None:
            loop.add_reader(self.parent, self._orphaned)
        try:
            await self._serve(sockets)
        finally:
            if self.parent is not None:
                loop.remove_reader(self.parent)
            for number in handlers:
                loop.remove_signal_handler(number)

    def stop(self) -> None:
        """Leave; asked a second time, at once."""
        if self.should_exit:
            self.force_exit = True
            return
        self.should_exit = True
        self._stop_at = asyncio.get_running_loop().time()
        self._announce()

    def _orphaned(self) -> None:
        assert self.parent is not None
        asyncio.get_running_loop().remove_reader(self.parent)
        if not self.should_exit:
            log.warning("the supervisor has died: this worker drains")
            self.stop()

    def _reload(self) -> None:
        live = self.live
        if live is not None and live.reloader is not None:
            live.reloader.ask()

    def _announce(self) -> None:
        """To load balancers by /ready, to clients by `connection: close` on every answer from here on."""
        self.server_state.draining = True
        if (live := self.live) is not None:
            live.draining = True
        for connection in self.server_state.connections:
            if isinstance(connection, ServerProtocol):
                connection.answer_last()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        live = self.live
        assert live is not None
        loop, limits = asyncio.get_running_loop(), live.service.config.server
        ends = (self._stop_at or loop.time()) + limits.grace_s
        last_resort = threading.Timer(limits.grace_s + STUCK_S, os._exit, (1,))
        last_resort.daemon = True
        last_resort.start()
        self._announce()
        state = self.server_state
        if limits.drain_delay_s > 0:
            log.info("draining: still serving for %g s, as load balancers learn of it", limits.drain_delay_s)
            await self._until(lambda: False, ends - limits.grace_s + limits.drain_delay_s)
        for server in self.servers:
            server.close()
        for listener in sockets or ():
            listener.close()
        for connection in list(state.connections):
            connection.shutdown()
        reserve_s = min(CUT_AT_MOST_S, CUT_SHARE * limits.grace_s)
        log.info("draining: %d requests are running", len(state.tasks))
        await self._until(lambda: not state.connections and not state.tasks, ends - reserve_s)
        await self._cut_rest(ends - reserve_s / 2)
        await self._close(loop.time() + FORCED_CLOSE_S if self.force_exit else ends)
        last_resort.cancel()
        log.info("drained: %d requests were cut", self.cut)

    async def _until(self, over: Callable[[], bool], ends: float) -> None:
        """Until then, but no longer once a second signal came."""
        loop = asyncio.get_running_loop()
        while not over() and loop.time() < ends and not self.force_exit:  # noqa: ASYNC110 (uvicorn tells no event)
            await asyncio.sleep(TICK_S)

    async def _cut_rest(self, ends: float) -> None:
        """First so that every client is told, then by force."""
        state = self.server_state
        if not state.tasks:
            return
        self.cut = len(state.tasks)
        log.warning("%s: %d requests are cut", "asked twice" if self.force_exit else "the grace is over", self.cut)
        for connection in list(state.connections):
            if isinstance(connection, ServerProtocol):
                connection.cut()
        if self.force_exit:
            await asyncio.sleep(2 * TICK_S)  # a turn for their answers and traces
        await self._until(lambda: not state.tasks, ends)
        for task in list(state.tasks):
            task.cancel("the proxy is shutting down")
        if state.tasks:
            await asyncio.wait(list(state.tasks), timeout=TICK_S)

    async def _close(self, ends: float) -> None:
        """Close the service; what is queued of traces is written."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(max(FORCED_CLOSE_S, ends - loop.time())):
                await self.lifespan.shutdown()
        except TimeoutError:
            log.error("the service did not close in time; traces of the last moments may be lost")
