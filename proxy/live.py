"""Which service new requests get. A reload replaces it whole, in one assignment; requests keep the one that they
started with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from proxy.handler import RELAYED_PATHS, SCALED_PATHS, Handler
from proxy.service import Service

if TYPE_CHECKING:
    from proxy.reload import Reloader
    from proxy.worker_metrics import Exchange


class Generation:
    """One service with its handlers by path. `requests`: how many run on it."""

    __slots__ = ("_handler", "handlers", "requests", "service")

    def __init__(self, service: Service) -> None:
        self.service = service
        self._handler = Handler(service)
        self.handlers: Mapping[str, Handler] = dict.fromkeys((*SCALED_PATHS, *RELAYED_PATHS), self._handler)
        self.requests = 0

    def close(self) -> None:
        """Once no request runs on it."""
        self._handler.close()


class Live:
    """`draining`: the process is about to end. `reloader`: None where there is no file to watch; `exchange`: None where
    there is but one worker."""

    def __init__(self, service: Service) -> None:
        self.current = Generation(service)
        self.draining = False
        self.reloader: Reloader | None = None
        self.exchange: Exchange | None = None

    @property
    def service(self) -> Service:
        return self.current.service

    def replace(self, service: Service) -> Generation:
        """New requests run on `service` from here on; what was there before."""
        before, self.current = self.current, Generation(service)
        return before

    async def aclose(self) -> None:
        """End the service, and what a reload has left of earlier ones."""
        if self.reloader is not None:
            await self.reloader.aclose()
        self.current.close()
        await self.service.aclose()
        if self.exchange is not None:
            await self.exchange.aclose()
