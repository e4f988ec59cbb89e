"""A load test without a server: the workload against a configuration's fleet in virtual time."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from types import TracebackType
from typing import Self

from profiler.loadtest import LoadTestError
from profiler.loadtest.result import Result
from profiler.loadtest.run import Ran, Watch
from profiler.loadtest.schedule import Schedule
from proxy.config import Config
from proxy.errors import UnknownModel
from proxy.simulated_fleet import Simulation, made_up_answers
from proxy.virtual.fleet import VirtualFleet
from proxy.virtual.traffic import VirtualTraffic
from strategies.registry import Registry

SLICE_S = 1.0  # of virtual time, between looks at whether to stop


class Virtual:
    """Implements `proxy.load_target.Target`. Every run is of an idle fleet that has learned nothing yet. `model` empty:
    the configuration's first."""

    def __init__(
        self,
        name: str,
        config: Config,
        *,
        model: str = "",
        how: Simulation | None = None,
        timeout_s: float = 120.0,
    ) -> None:
        self.url, self.model = f"virtual time: {name}", model
        self._config, self._how, self._timeout_s = config, how or Simulation(), timeout_s
        self._registry = Registry.installed()
        self._most_under_way = 0

    async def __aenter__(self) -> Self:
        self.model = self.model or self._config.models[0].name
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is open."""

    async def send(self, planned: Schedule, watch: Watch, stop: asyncio.Event) -> Ran:
        """Raises ConfigError, ProfileError, QualityError, LoadTestError."""
        traffic = VirtualTraffic(self._fleet(), planned.requests, self.model, timeout_s=self._timeout_s, watch=watch)
        try:
            traffic.check()
        except UnknownModel as error:
            raise LoadTestError(f"--model: {error.message}") from None
        gc.freeze()  # tables live as long as the run: looking through them again and again takes a third of it
        try:
            while not traffic.over and not stop.is_set():
                traffic.run(SLICE_S)
                await asyncio.sleep(0)  # a signal may have come
        finally:
            gc.unfreeze()
        unfinished = traffic.sent - len(traffic.results)
        traffic.stop()
        self._most_under_way = traffic.most_under_way
        whole = traffic.sent == len(planned.requests) and not unfinished
        lasted_s = planned.lasts_s if whole else max(min(planned.lasts_s, traffic.now_s), 1e-9)
        return Ran(traffic.results, lasted_s, unfinished, len(planned.requests) - traffic.sent)

    async def complete(self, results: list[Result], step: Callable[[], None]) -> None:
        """Nothing is missing."""

    def _fleet(self) -> VirtualFleet:
        return VirtualFleet.of(self._config, self._how, registry=self._registry, seed=self._how.seed)

    @property
    def notes(self) -> list[str]:
        invented = made_up_answers(self._config)
        notes = [f"{name} has no quality table: its questions and answers are invented" for name in invented]
        if self._config.pooled():
            names = ", ".join(one.name for one in self._config.pooled())
            notes.append(f"reward and embedding models are not simulated: no plan uses {names}")
        most = self._config.admission.max_in_flight
        if self._most_under_way > most:
            notes.append(
                f"{self._most_under_way} requests were under way at once; a proxy lets in {most} of a model "
                "(admission.max_in_flight) and lets the others wait, which is not simulated here"
            )
        return notes
