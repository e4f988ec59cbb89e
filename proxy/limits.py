"""What API keys may use: reserved before anything is spent, settled with what it cost.

A request is admitted where each of its key's limits still has room for what such a request is expected to take; that
much is charged at once, so that the next one sees it, and corrected when the request is over. So a key can exceed a
limit only by what its running requests turn out to take beyond what was expected of them: with `concurrent_requests: C`
by at most C times its dearest request. A minute's bucket goes below zero then, and nothing is admitted until it has
refilled: over time the rate holds exactly.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import ceil
from time import time
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from proxy.client_keys import Caller, KeyLimits
from proxy.errors import LimitExceeded, Unavailable

log = logging.getLogger("paretoproxy.limits")

DAY_S = 86_400
FIRST_GUESS_TOKENS = 256.0  # of an answer, before the key has had one
GAIN = 0.1  # of the mean over a key's requests
LIMITS = ("concurrent_requests", "requests_per_minute", "tokens_per_minute", "tokens_per_day", "usd_per_day")


@dataclass(frozen=True, slots=True)
class Amount:
    """What a request takes, or is expected to."""

    tokens: float = 0.0
    usd: float = 0.0


@dataclass(frozen=True, slots=True)
class Refused:
    """`limit`: which one; `retry_after_s`: until it has room."""

    limit: str
    retry_after_s: float


class SharedLimits(Protocol):
    """Counters that several replicas share."""

    async def take(self, key: str, limits: KeyLimits, amount: Amount, lease: str) -> Refused | None:
        """None: it was admitted and charged. Raises SharedLimitsDown."""
        ...

    def settle(self, key: str, more: Amount, lease: str) -> None:
        """Charge so much more (or less), and free its place; off the request's way. Raises nothing."""
        ...

    async def start(self) -> None: ...
    async def aclose(self) -> None: ...


class SharedLimitsDown(Exception):
    """The shared counters cannot be asked."""


@dataclass(slots=True)
class _Usage:
    """Of one key. The levels are what is left of the minute's buckets."""

    requests_left: float
    tokens_left: float
    at: float
    day: int
    day_tokens: float = 0.0
    day_usd: float = 0.0
    running: int = 0


class LocalLimits:
    """Counters of this process. `clock`: Unix seconds."""

    def __init__(self, clock: Callable[[], float] = time) -> None:
        self._clock = clock
        self._usage: dict[str, _Usage] = {}  # by key: as many as the file of keys has

    def take(self, key: str, limits: KeyLimits, amount: Amount) -> Refused | None:
        """None: it was admitted and charged."""
        usage = self._now(key, limits)
        refused = _refused(usage, limits, amount)
        if refused is None:
            usage.requests_left -= 1
            usage.running += 1
            self._charge(usage, amount)
        return refused

    def settle(self, key: str, limits: KeyLimits, more: Amount) -> None:
        usage = self._now(key, limits)
        usage.running = max(0, usage.running - 1)
        self._charge(usage, more)

    def _charge(self, usage: _Usage, amount: Amount) -> None:
        usage.tokens_left -= amount.tokens
        usage.day_tokens = max(0.0, usage.day_tokens + amount.tokens)
        usage.day_usd = max(0.0, usage.day_usd + amount.usd)

    def _now(self, key: str, limits: KeyLimits) -> _Usage:
        """The key's counters, refilled up to now."""
        now = self._clock()
        per_minute = limits.requests_per_minute or 0, limits.tokens_per_minute or 0
        usage = self._usage.get(key)
        if usage is None:
            usage = self._usage[key] = _Usage(*per_minute, now, int(now // DAY_S))
        passed_s, usage.at = max(0.0, now - usage.at), now  # a clock that is set back refills nothing
        usage.requests_left = _refilled(usage.requests_left, per_minute[0], passed_s)
        usage.tokens_left = _refilled(usage.tokens_left, per_minute[1], passed_s)
        if usage.day != int(now // DAY_S):
            usage.day, usage.day_tokens, usage.day_usd = int(now // DAY_S), 0.0, 0.0
        return usage


def _refilled(left: float, per_minute: int, passed_s: float) -> float:
    """0 where there is no such limit, so that none is owed should there be one later."""
    return min(per_minute, left + per_minute * passed_s / 60) if per_minute else 0.0


def _refused(usage: _Usage, limits: KeyLimits, amount: Amount) -> Refused | None:
    """A request that is expected to take more than a whole limit is admitted where all of it is left."""
    if limits.concurrent_requests is not None and usage.running >= limits.concurrent_requests:
        return Refused("concurrent_requests", 1.0)
    if (most := limits.requests_per_minute) is not None and usage.requests_left < 1:
        return Refused("requests_per_minute", (1 - usage.requests_left) * 60 / most)
    if (most := limits.tokens_per_minute) is not None and usage.tokens_left < (need := min(amount.tokens, most)):
        return Refused("tokens_per_minute", (need - usage.tokens_left) * 60 / most)
    to_midnight_s = (usage.day + 1) * DAY_S - usage.at
    if (most := limits.tokens_per_day) is not None and _full(usage.day_tokens, amount.tokens, most):
        return Refused("tokens_per_day", to_midnight_s)
    if (usd := limits.usd_per_day) is not None and _full(usage.day_usd, amount.usd, usd):
        return Refused("usd_per_day", to_midnight_s)
    return None


def _full(used: float, more: float, most: float) -> bool:
    return used >= most or (used > 0 and used + more > most)


@dataclass(slots=True)
class _Mean:
    """Of a key's latest requests. None: it had none."""

    tokens: float | None = None
    usd: float = 0.0

    def observe(self, took: Amount) -> None:
        if self.tokens is None:
            self.tokens, self.usd = took.tokens, took.usd
        else:
            self.tokens += GAIN * (took.tokens - self.tokens)
            self.usd += GAIN * (took.usd - self.usd)


@dataclass(frozen=True, slots=True)
class Admission:
    """One admitted request, to be settled exactly once. `shared`: where it was charged."""

    key: str
    limits: KeyLimits
    expected: Amount
    lease: str
    shared: bool


@dataclass(slots=True, eq=False)
class Limiter(Collector):
    """The counters in use. `shared`: None where each process counts for itself; `refuse_when_down`: what to do while
    they cannot be asked, instead of counting here."""

    shared: SharedLimits | None = None
    refuse_when_down: bool = False
    local: LocalLimits = field(default_factory=LocalLimits)
    down: bool = False
    refusals: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LIMITS, 0))
    _means: dict[str, _Mean] = field(default_factory=dict)

    async def admit(
        self, caller: Caller, lease: str, prompt_tokens: float = 0.0, most_tokens: float | None = None
    ) -> Admission | None:
        """None: the key has no such limits. `lease`: an id of the request. `most_tokens`: of its answers, where that is
        known. Raises LimitExceeded; Unavailable where the counters are down and the operator wants that refused."""
        limits = caller.limits
        if caller.name is None or not limits.metered:
            return None
        expected = self._expected(caller.name, prompt_tokens, most_tokens)
        refused, shared = await self._take(caller.name, limits, expected, lease)
        if refused is not None:
            self.refusals[refused.limit] += 1
            raise _told(caller.name, limits, refused)
        return Admission(caller.name, limits, expected, lease, shared)

    def settle(self, admission: Admission, took: Amount) -> None:
        """The request is over; `took`: all that it cost, also where it failed."""
        if took.tokens:
            self._means.setdefault(admission.key, _Mean()).observe(took)
        expected = admission.expected
        more = Amount(took.tokens - expected.tokens, took.usd - expected.usd)
        if admission.shared and self.shared is not None:
            self.shared.settle(admission.key, more, admission.lease)
        else:
            self.local.settle(admission.key, admission.limits, more)

    def _expected(self, key: str, prompt_tokens: float, most_tokens: float | None) -> Amount:
        mean = self._means.get(key, _Mean())
        tokens = prompt_tokens + FIRST_GUESS_TOKENS if mean.tokens is None else max(mean.tokens, prompt_tokens)
        if most_tokens is not None:
            tokens = min(tokens, prompt_tokens + most_tokens)
        return Amount(tokens, mean.usd)

    async def _take(self, key: str, limits: KeyLimits, amount: Amount, lease: str) -> tuple[Refused | None, bool]:
        if self.shared is None:
            return self.local.take(key, limits, amount), False
        try:
            refused = await self.shared.take(key, limits, amount, lease)
        except SharedLimitsDown as error:
            self._note(error)
            if self.refuse_when_down:
                raise Unavailable("The limits of API keys cannot be checked now.", code="limits_unavailable") from None
            return self.local.take(key, limits, amount), False
        self._note(None)
        return refused, True

    def _note(self, problem: Exception | None) -> None:
        """Said once, when it changes."""
        if (problem is not None) == self.down:
            return
        self.down = problem is not None
        if problem is not None:
            then = "requests of limited keys are refused" if self.refuse_when_down else "each replica counts for itself"
            log.error("the shared limits of API keys are down (%s): %s", problem, then)
        else:
            log.warning("the shared limits of API keys are back")

    def collect(self) -> Iterator[Metric]:
        refusals = CounterMetricFamily("paretoproxy_limit_refusals", "Requests over a key's limit", labels=["limit"])
        for limit, count in self.refusals.items():
            refusals.add_metric([limit], count)
        yield refusals
        if self.shared is not None:
            up = "1 if replicas share the limits of API keys, 0 while the shared counters are down"
            yield GaugeMetricFamily("paretoproxy_limits_shared", up, value=float(not self.down))


_UNITS = {
    "concurrent_requests": "requests at once",
    "requests_per_minute": "requests a minute",
    "tokens_per_minute": "tokens a minute",
    "tokens_per_day": "tokens a day (UTC)",
    "usd_per_day": "US dollars a day (UTC)",
}


def _told(key: str, limits: KeyLimits, refused: Refused) -> LimitExceeded:
    limit = refused.limit
    retry_after_s = max(1, ceil(refused.retry_after_s))
    message = (
        f"The API key {key!r} is at its limit of {getattr(limits, limit):g} {_UNITS[limit]} ({limit}); "
        f"try again in {retry_after_s} s."
    )
    return LimitExceeded(message, limit, retry_after_s)
