"""When an attempt that came to nothing is made again, and when.

Only while the client has no byte, within the attempts, the deadline, and a budget. Full jitter (uniform between zero
and a bound that doubles), so that requests that failed together do not come back together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from random import Random
from typing import TYPE_CHECKING, Literal

from proxy.reliability.budget import Budget
from proxy.reliability.settings import RetriesConfig
from proxy.upstream.connection import Headers
from proxy.upstream.errors import (
    BadResponse,
    ConnectFailed,
    ConnectionLost,
    PoolClosed,
    ReadTimeout,
    SinkFailed,
    UpstreamError,
)
from proxy.upstream.fetch import fetch

if TYPE_CHECKING:
    from proxy.backend import Backend

RETRIED_STATUS = frozenset({429, 502, 503, 504})
Reason = Literal["connect", "lost", "timeout", "bad-response", "status", "stream", "ours"]
Kind = Literal["pass-through", "plan", "branch", "side-call"]
Denied = Literal["attempts", "budget", "deadline", "retry-after", "silent"]
_REASONS: dict[type[UpstreamError], Reason] = {
    ConnectFailed: "connect",
    ConnectionLost: "lost",
    ReadTimeout: "timeout",
    BadResponse: "bad-response",
    SinkFailed: "ours",
    PoolClosed: "ours",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt came to nothing. `safe`: the message without what the backend said, for traces; `kind`: the
    error's class, or the status; `status`: the backend's answer, 0 where it gave none."""

    reason: Reason
    message: str
    safe: str
    kind: str = "status"
    status: int = 0
    retry_after_s: float | None = None

    @property
    def broke(self) -> bool:
        """The connection did, or never was: the backend no longer works on the request."""
        return self.reason in ("connect", "lost")


def failure_of(error: UpstreamError) -> Failure:
    return Failure(_REASONS.get(type(error), "stream"), str(error), error.safe, type(error).__name__)


def failure_of_status(status: int, headers: Headers = ()) -> Failure:  # type: ignore[assignment]
    waits = next((retry_after_s(value) for name, value in headers if name == b"retry-after"), None)
    message = f"it answered {status}"
    return Failure("status", message, message, str(status), status, waits)


def retry_after_s(value: bytes, now: datetime | None = None) -> float | None:
    """Seconds, or a date (RFC 9110 §10.2.3); None where it is neither."""
    text = value.decode("latin-1").strip()
    if text.isdecimal() and len(text) < 10:
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return max(0.0, (at - (now or datetime.now(UTC))).total_seconds())


def tell(backend: Backend, mark: int, now: float, error: UpstreamError, *, in_a_row: bool = True) -> None:
    """The backend's health of a failure. What is our own doing, or may be the request's, does not count in a row; nor
    what another branch of the same request has told already (`in_a_row` False)."""
    reason = failure_of(error).reason
    if reason == "ours":
        backend.health.released(mark)
    else:
        backend.health.failed(mark, now, error.safe, in_a_row=in_a_row and reason != "stream")


class Retries:
    """Of one process. `counts`: retries by (kind, reason); `denied`: those that were wanted and not made, by why."""

    def __init__(self, config: RetriesConfig, rng: Random, clock: Callable[[], float]) -> None:
        self.config = config
        self.budget = Budget(config.budget, config.reserve)
        self.counts: dict[tuple[Kind, Reason], int] = {}
        self.denied: dict[Denied, int] = {}
        self.clock = clock
        self._rng = rng

    def delay_s(
        self,
        kind: Kind,
        failure: Failure,
        left: Backend,
        *,
        attempts: int,
        elsewhere: bool,
        until: float | None = None,
    ) -> float | None:
        """Seconds to wait before the next attempt; None: there is none.

        `left`: the backend that failed, its health told already; `attempts`: made so far; `elsewhere`: the next one
        goes to another backend, whom `left`'s Retry-After does not concern; `until`: the deadline, in the clock's time.

        What leaves a backend that is out because its connections break is moved, not multiplied: nothing comes back to
        that backend, and it has dropped the work. So it costs nothing of the budget; without this a backend that dies
        with more requests than the budget would fail the rest of them, with healthy ones beside it.
        """
        config, now = self.config, self.clock()
        if attempts >= config.max_attempts:
            return self._denied("attempts")
        most_s = min(config.max_backoff_ms, config.backoff_ms * 2.0 ** (attempts - 1)) / 1e3
        delay_s = self._rng.uniform(0, most_s)
        if failure.reason == "timeout" and not elsewhere:
            return self._denied("silent")  # for as long as the read time limit: it would be so again
        if failure.status == 429 and failure.retry_after_s is None and not elsewhere:
            return self._denied("retry-after")  # it has had enough of us, and does not say for how long
        if failure.retry_after_s is not None and not elsewhere:
            if failure.retry_after_s * 1e3 > config.max_wait_ms:
                return self._denied("retry-after")
            delay_s += failure.retry_after_s
        if until is not None and now + delay_s >= until:
            return self._denied("deadline")
        moved = failure.broke and elsewhere and left.health.state != "closed"
        if not moved and not self.budget.take(now):
            return self._denied("budget")
        key = (kind, failure.reason)
        self.counts[key] = self.counts.get(key, 0) + 1
        return delay_s

    def _denied(self, why: Denied) -> float | None:
        self.denied[why] = self.denied.get(why, 0) + 1
        return None


async def fetch_again(backend: Backend, request: bytes, timeout_s: float, retries: Retries | None) -> tuple[int, bytes]:
    """(status, body) of a small request that is no branch: scores, a judge's word. Made again on the same backend; the
    caller's own deadline cancels it. Raises UpstreamError, TimeoutError."""
    attempts, health = 0, backend.health
    failed: UpstreamError | None
    clock = retries.clock if retries is not None else asyncio.get_running_loop().time
    until = clock() + timeout_s
    while True:
        attempts += 1
        mark, failed = health.begin(), None
        try:
            status, body = await fetch(backend.pool, request, max(0.0, until - clock()))
        except UpstreamError as error:
            tell(backend, mark, clock(), error)
            failure, failed = failure_of(error), error
        except TimeoutError as error:
            health.failed(mark, clock(), str(error))
            raise
        except BaseException:
            health.released(mark)
            raise
        else:
            health.status(mark, clock(), status)
            if status not in RETRIED_STATUS:
                return status, body
            failure = failure_of_status(status)
        delay_s = None
        if retries is not None and failure.reason != "ours":
            delay_s = retries.delay_s("side-call", failure, backend, attempts=attempts, elsewhere=False, until=until)
        if delay_s is None:
            if failed is not None:
                raise failed
            return status, body
        await asyncio.sleep(delay_s)
