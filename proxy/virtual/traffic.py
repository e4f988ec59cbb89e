"""A schedule of requests sent to a fleet in virtual time."""

from __future__ import annotations

from collections.abc import Sequence

from profiler.loadtest.result import Result
from profiler.loadtest.run import Watch
from profiler.loadtest.schedule import Planned
from profiler.simulation.asked import Refused
from proxy.errors import ProxyError, UnknownModel
from proxy.probe import LOAD_EVERY_S
from proxy.virtual.fleet import VirtualFleet
from proxy.virtual.request import VirtualRequest
from proxy.virtual.wording import Wordings


class VirtualTraffic:
    """The open loop: every request arrives at its time, whatever became of those before it. `results` in the order of
    their ends; `most_under_way`: requests at one time."""

    def __init__(
        self,
        fleet: VirtualFleet,
        requests: Sequence[Planned],
        model: str,
        *,
        timeout_s: float,
        watch: Watch | None = None,
    ) -> None:
        self.results: list[Result] = []
        self.sent = self.most_under_way = 0
        self._fleet, self._requests, self._timeout_s, self._watch = fleet, requests, timeout_s, watch
        self._wordings = Wordings(fleet, model)
        self._under_way: dict[VirtualRequest, None] = {}
        self._began_s = fleet.clock.now()
        self._await_next()
        self._look()

    @property
    def over(self) -> bool:
        return len(self.results) == len(self._requests)

    @property
    def now_s(self) -> float:
        """Since the start."""
        return self._fleet.clock.now() - self._began_s

    def check(self) -> None:
        """Raises UnknownModel where nobody serves the model that is asked for."""
        try:
            for planned in self._requests[:1]:
                self._wordings.of(planned)
        except UnknownModel:
            raise
        except (ProxyError, Refused):
            pass  # of this request, and told in its row

    def run(self, for_s: float = float("inf")) -> None:
        """So many seconds further, or to the end."""
        self._fleet.clock.run(self._fleet.clock.now() + for_s)

    def stop(self) -> None:
        """What is under way is cancelled and has no result; nothing more is sent."""
        self._requests = self._requests[: len(self.results)]
        for request in list(self._under_way):
            request.break_off()
        self._under_way.clear()

    def _look(self) -> None:
        if not self.over:
            self._fleet.look()
            self._fleet.clock.at(self._fleet.clock.now() + LOAD_EVERY_S, self._look)

    def _await_next(self) -> None:
        if self.sent < len(self._requests):
            self._fleet.clock.at(self._began_s + self._requests[self.sent].at_s, self._arrive)

    def _arrive(self) -> None:
        if self.sent >= len(self._requests):  # stopped
            return
        planned = self._requests[self.sent]
        self.sent += 1
        self._await_next()
        request = VirtualRequest(self._fleet, self._wordings, planned, self._timeout_s, self._ended)
        self._under_way[request] = None
        self.most_under_way = max(self.most_under_way, len(self._under_way))
        if self._watch is not None:
            self._watch.sent(planned)
        request.begin()

    def _ended(self, request: VirtualRequest, result: Result) -> None:
        self._under_way.pop(request, None)
        self.results.append(result)
        if self._watch is not None:
            self._watch.ended(result)
