"""One try of a relayed request on one backend: metered, in the trace, and told to the backend's health, whatever
becomes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from proxy.backend import Backend
from proxy.catalog import Served
from proxy.relay import RelaySink
from proxy.reliability.retrying import RETRIED_STATUS, Failure, failure_of, failure_of_status, tell
from proxy.trace import BranchTrace, Trace


class Attempt:
    """Sent when it is made; `end` it once. `why`: what it was made for, None for a request's first. `number`: among the
    request's; `choices`: answers asked for, which the engine runs as a branch each; `lasted_s`: once it has ended."""

    __slots__ = (
        "_clock",
        "_health_mark",
        "_mark",
        "_told",
        "backend",
        "choices",
        "lasted_s",
        "number",
        "served",
        "sink",
        "started_at",
        "why",
    )

    def __init__(
        self,
        served: Served,
        backend: Backend,
        request: bytes,
        sink: RelaySink,
        clock: Callable[[], float],
        why: Literal["retry", "hedge"] | None,
        number: int,
        choices: int,
    ) -> None:
        self.served = served
        self.backend = backend
        self.sink = sink
        self.why = why
        self.number = number
        self.choices = choices
        self.lasted_s = 0.0
        self.started_at = clock()
        self._clock = clock
        self._mark = backend.gpu_time.enter(choices)
        backend.overrun.began()
        self._health_mark = backend.health.begin()
        self._told = False
        sink.exchange = backend.pool.send(request, sink)

    def failure(self) -> Failure | None:
        """Asked while the client has no byte: why another backend may be tried; None for an answer. Tells the
        backend's health."""
        sink, health = self.sink, self.backend.health
        if sink.error is not None:
            failure = failure_of(sink.error)
            if not self._told:
                tell(self.backend, self._health_mark, self._clock(), sink.error)
        elif sink.status in RETRIED_STATUS:
            failure = failure_of_status(sink.status, sink.headers)
            if not self._told:
                health.status(self._health_mark, self._clock(), sink.status)
        else:
            if health.state == "half-open" and sink.status < 500:
                health.alive(self._health_mark)
            return None
        self._told = True
        return failure

    def end(
        self, trace: Trace, arrived_at: float, outcome: str, error: str | None, error_type: str | None
    ) -> BranchTrace:
        """Close the connection where it is not over, and put the attempt into the trace."""
        sink, backend, now = self.sink, self.backend, self._clock()
        if sink.exchange is not None:
            sink.exchange.cancel()
        gpu_seconds = backend.gpu_time.leave(self._mark, self.choices)
        if not self._told:
            self._tell(now)
        self.lasted_s = now - self.started_at
        if sink.events and sink.first_at is not None:
            trace.ttft_ms = round((sink.first_at - arrived_at) * 1e3, 3)
        row = BranchTrace(
            index=len(trace.branches),
            backend=backend.name,
            outcome=outcome,
            start_ms=round((self.started_at - arrived_at) * 1e3, 3),
            end_ms=round((now - arrived_at) * 1e3, 3),
            gpu_seconds=round(gpu_seconds, 9),
            first_token_ms=trace.ttft_ms if sink.first_at is not None else None,
            error=error,
            error_type=error_type,
            attempt=self.why,
        )
        trace.branches.append(row)
        return row

    def _tell(self, now: float) -> None:
        self._told = True
        sink, mark = self.sink, self._health_mark
        if sink.error is not None:
            tell(self.backend, mark, now, sink.error)
        elif sink.ended:
            self.backend.health.status(mark, now, sink.status)
        elif sink.begun or sink.tail:
            self.backend.health.alive(mark)
        else:
            self.backend.health.released(mark)
