"""Where a load test's requests go: a server, or a fleet in virtual time (`proxy.virtual.target`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from profiler.loadtest.result import Result
from profiler.loadtest.run import Ran, Watch, run
from profiler.loadtest.schedule import Schedule
from proxy.load_callers import HttpCaller


class Target(Protocol):
    """Entered before the first request, which may raise LoadTestError. `url`: what a report says was asked; `model`:
    its name, known once entered."""

    url: str
    model: str

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def send(self, planned: Schedule, watch: Watch, stop: asyncio.Event) -> Ran:
        """Everything, or until `stop` is set."""
        ...

    @property
    def notes(self) -> list[str]:
        """What the last run was not, for its report."""
        ...

    async def complete(self, results: list[Result], step: Callable[[], None]) -> None:
        """With what answers do not tell; `step` after each."""
        ...


class Server:
    """Any that speaks OpenAI's HTTP. `model` empty: the first that it lists."""

    def __init__(self, url: str, *, model: str = "", api_key: str | None = None, timeout_s: float = 120.0) -> None:
        """Raises Unreachable for a URL that is none."""
        self.url, self.model = url, model
        self._caller = HttpCaller(url, model=model, api_key=api_key, timeout_s=timeout_s)

    async def __aenter__(self) -> Self:
        try:
            self.model = await self._caller.find_model()
        except BaseException:
            await self._caller.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._caller.aclose()

    async def send(self, planned: Schedule, watch: Watch, stop: asyncio.Event) -> Ran:
        return await run(planned, self._caller, watch=watch, stop=stop)

    @property
    def notes(self) -> list[str]:
        return []

    async def complete(self, results: list[Result], step: Callable[[], None]) -> None:
        await self._caller.read_traces(results, step)
