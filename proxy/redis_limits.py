"""Limits of API keys that replicas share through Redis: one script, and so one round trip, per check and per settle.

The script does what `limits.LocalLimits` does, by Redis' clock. A place among the running requests is a lease that ends
by itself, so that a replica that died does not keep it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from typing import TYPE_CHECKING, Any

from proxy.client_keys import KeyLimits
from proxy.limits import LIMITS, Amount, Refused, SharedLimitsDown

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = logging.getLogger("paretoproxy.limits")

TIMEOUT_S = 0.25
AGAIN_AFTER_S = 1.0  # once it did not answer: requests meanwhile do not wait for it
MAX_SETTLES = 10_000
KEPT_S = 2 * 86_400

# Both scripts begin by bringing the counters up to now. KEYS: the counters, the running requests' leases.
# A limit of 0 is none.
_NOW = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local day = math.floor(now / 86400)
local had = redis.call('HMGET', KEYS[1], 'requests', 'tokens', 'at', 'day', 'day_tokens', 'day_usd')
local function bucket(left, most)
  local passed = math.max(0, now - (tonumber(had[3]) or now))
  if most == 0 then return 0 end
  return math.min(most, (tonumber(left) or most) + most * passed / 60)
end
local requests, tokens = bucket(had[1], tonumber(ARGV[1])), bucket(had[2], tonumber(ARGV[2]))
local day_tokens, day_usd = tonumber(had[5]) or 0, tonumber(had[6]) or 0
if tonumber(had[4]) ~= day then day_tokens, day_usd = 0, 0 end
local function keep(more_tokens, more_usd)
  redis.call('HSET', KEYS[1], 'requests', requests, 'tokens', tokens - more_tokens, 'at', string.format('%.6f', now),
    'day', day, 'day_tokens', math.max(0, day_tokens + more_tokens), 'day_usd', math.max(0, day_usd + more_usd))
  redis.call('EXPIRE', KEYS[1], ARGV[3])
end
"""
# ARGV: requests and tokens a minute, seconds to keep, tokens and dollars a day, at once, expected tokens and dollars,
# lease, its seconds.
_TAKE = (
    _NOW
    + """
local rpm, tpm, tpd, usd, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[4]), tonumber(ARGV[5]),
  tonumber(ARGV[6])
local need, cost = tonumber(ARGV[7]), tonumber(ARGV[8])
local function full(used, more, of) return used >= of or (used > 0 and used + more > of) end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
local midnight = tostring((day + 1) * 86400 - now)
if most > 0 and redis.call('ZCARD', KEYS[2]) >= most then return {1, '1'} end
if rpm > 0 and requests < 1 then return {2, tostring((1 - requests) * 60 / rpm)} end
if tpm > 0 and tokens < math.min(need, tpm) then return {3, tostring((math.min(need, tpm) - tokens) * 60 / tpm)} end
if tpd > 0 and full(day_tokens, need, tpd) then return {4, midnight} end
if usd > 0 and full(day_usd, cost, usd) then return {5, midnight} end
requests = requests - 1
keep(need, cost)
redis.call('ZADD', KEYS[2], now + tonumber(ARGV[10]), ARGV[9])
redis.call('EXPIRE', KEYS[2], ARGV[3])
return {0, '0'}
"""
)
# ARGV: requests and tokens a minute, seconds to keep, further tokens and dollars, lease, whether only if it is held.
_SETTLE = (
    _NOW
    + """
if redis.call('ZREM', KEYS[2], ARGV[6]) == 1 or ARGV[7] == '0' then keep(tonumber(ARGV[4]), tonumber(ARGV[5])) end
return 0
"""
)


class MissingPackage(Exception):
    """The `redis` package is not installed."""


class RedisLimits:
    """`lease_s`: longer than any request may take. Start it on the loop that uses it."""

    def __init__(self, url: str, *, lease_s: float, prefix: str = "paretoproxy", timeout_s: float = TIMEOUT_S) -> None:
        """Raises MissingPackage; ValueError for what is no Redis URL."""
        try:
            from redis.asyncio import BlockingConnectionPool, Redis
        except ImportError:
            raise MissingPackage("limits.redis_url needs the redis package: pip install 'paretoproxy[redis]'") from None
        pool = BlockingConnectionPool.from_url(
            url, max_connections=32, timeout=timeout_s, socket_timeout=timeout_s, socket_connect_timeout=timeout_s
        )
        self._redis: Redis = Redis.from_pool(pool)
        self._take: Any = self._redis.register_script(_TAKE)
        self._settle: Any = self._redis.register_script(_SETTLE)
        self._lease_s = lease_s
        self._prefix = prefix
        self._timeout_s = timeout_s
        self._limits: dict[str, KeyLimits] = {}  # of the keys seen: a settle refills by them
        self._settles: deque[tuple[str, Amount, str, bool]] = deque()
        self._wake = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._not_before = 0.0
        self.dropped = 0

    async def start(self) -> None:
        self._worker = asyncio.get_running_loop().create_task(self._settle_all())

    async def take(self, key: str, limits: KeyLimits, amount: Amount, lease: str) -> Refused | None:
        """Raises SharedLimitsDown, within `timeout_s`."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._not_before:
            raise SharedLimitsDown("it did not answer a moment ago")
        self._limits[key] = limits
        args = [
            *self._per_minute(limits),
            limits.tokens_per_day or 0,
            limits.usd_per_day or 0,
            limits.concurrent_requests or 0,
            amount.tokens,
            amount.usd,
            lease,
            self._lease_s,
        ]
        try:
            which, after = await self._run(self._take, key, args)
        except SharedLimitsDown:
            self._not_before = loop.time() + AGAIN_AFTER_S
            self._queue(key, Amount(-amount.tokens, -amount.usd), lease, True)  # it may have been charged all the same
            raise
        return None if not which else Refused(LIMITS[which - 1], float(after))

    def settle(self, key: str, more: Amount, lease: str) -> None:
        self._queue(key, more, lease, False)

    def _queue(self, key: str, more: Amount, lease: str, if_held: bool) -> None:
        if len(self._settles) >= MAX_SETTLES:
            self.dropped += 1
            return
        self._settles.append((key, more, lease, if_held))
        self._wake.set()

    async def aclose(self) -> None:
        """Settle what is queued, as far as Redis still answers, and close."""
        if self._worker is not None:
            self._worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._worker
        with contextlib.suppress(SharedLimitsDown):
            while self._settles:
                await self._settle_one(self._settles.popleft())
        await self._redis.aclose()

    async def _settle_all(self) -> None:
        """Until cancelled. While Redis is down they wait; after an outage they are made up for."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._settles:
                try:
                    await self._settle_one(self._settles[0])
                except SharedLimitsDown:
                    await asyncio.sleep(AGAIN_AFTER_S)
                    continue
                self._settles.popleft()

    async def _settle_one(self, settle: tuple[str, Amount, str, bool]) -> None:
        key, more, lease, if_held = settle
        args = [*self._per_minute(self._limits[key]), more.tokens, more.usd, lease, int(if_held)]
        await self._run(self._settle, key, args)

    @staticmethod
    def _per_minute(limits: KeyLimits) -> list[float]:
        return [limits.requests_per_minute or 0, limits.tokens_per_minute or 0, KEPT_S]

    async def _run(self, script: Any, key: str, args: list[Any]) -> Any:
        """Raises SharedLimitsDown."""
        from redis.exceptions import RedisError

        names = [f"{self._prefix}:{{{key}}}:usage", f"{self._prefix}:{{{key}}}:running"]  # one slot of a cluster
        try:
            async with asyncio.timeout(self._timeout_s):
                return await script(keys=names, args=args)
        except (RedisError, OSError, TimeoutError) as error:
            raise SharedLimitsDown(type(error).__name__) from None  # its text may show the URL
