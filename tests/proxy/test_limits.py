"""Limits of API keys, by a clock that the tests set: reserved before, settled after, and never far exceeded."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.client_keys import Caller, KeyLimits
from proxy.errors import LimitExceeded, Unavailable
from proxy.limits import Admission, Amount, Limiter, LocalLimits, Refused, SharedLimitsDown

NOON = 20_000 * 86_400 + 43_200.0


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


class Rig:
    """One key with these limits."""

    def __init__(self, **limits: object) -> None:
        self.clock = Clock()
        self.limiter = Limiter(local=LocalLimits(self.clock))
        self.caller = Caller("team", limits=KeyLimits.model_validate(limits))

    async def ask(self, prompt_tokens: float = 10, most: float | None = None) -> Admission:
        admission = await self.limiter.admit(self.caller, "lease", prompt_tokens, most)
        assert admission is not None
        return admission

    def end(self, admission: Admission, tokens: float = 0, usd: float = 0) -> None:
        self.limiter.settle(admission, Amount(tokens, usd))

    async def refused(self, limit: str, after_s: int) -> None:
        with pytest.raises(LimitExceeded) as error:
            await self.ask()
        assert (error.value.limit, error.value.http_status, error.value.retry_after_s) == (limit, 429, after_s)
        assert limit in error.value.message and "'team'" in error.value.message
        assert (b"retry-after", str(after_s).encode()) in error.value.headers()


async def test_a_key_without_limits_is_not_counted() -> None:
    assert await Rig().limiter.admit(Rig().caller, "x") is None
    assert await Rig(models=["m"]).limiter.admit(Rig(models=["m"]).caller, "x") is None


async def test_requests_a_minute_refill_steadily() -> None:
    rig = Rig(requests_per_minute=3)
    for _ in range(3):
        rig.end(await rig.ask())
    await rig.refused("requests_per_minute", 20)
    rig.clock.now += 20
    rig.end(await rig.ask())
    await rig.refused("requests_per_minute", 20)
    rig.clock.now += 3600
    for _ in range(3):
        rig.end(await rig.ask())
    await rig.refused("requests_per_minute", 20)


async def test_concurrent_requests_are_freed_by_their_end() -> None:
    rig = Rig(concurrent_requests=2)
    first, second = await rig.ask(), await rig.ask()
    await rig.refused("concurrent_requests", 1)
    rig.end(first)
    third = await rig.ask()
    await rig.refused("concurrent_requests", 1)
    rig.end(second), rig.end(third)
    await rig.ask()


async def test_tokens_that_were_used_over_the_limit_are_paid_back_first() -> None:
    rig = Rig(tokens_per_minute=600)
    rig.end(await rig.ask(), tokens=1200)  # more than anybody expected: the bucket is at -600
    rig.clock.now += 60
    await rig.refused("tokens_per_minute", 60)  # now at 0, and such a request takes all of it
    rig.clock.now += 60
    rig.end(await rig.ask(), tokens=100)


async def test_what_was_reserved_and_not_used_is_given_back() -> None:
    rig = Rig(tokens_per_day=1000)
    admission = await rig.ask(prompt_tokens=700, most=200)
    assert admission.expected.tokens == 900
    await rig.refused("tokens_per_day", 43_200)
    rig.end(admission, tokens=10)
    rig.end(await rig.ask(prompt_tokens=700, most=200), tokens=10)


async def test_a_day_ends_at_midnight_utc() -> None:
    rig = Rig(usd_per_day=1)
    rig.end(await rig.ask(), tokens=10, usd=0.6)
    await rig.refused("usd_per_day", 43_200)  # 0.6 more, as the last one cost, would be over
    rig.clock.now += 43_200
    running = await rig.ask()
    rig.clock.now += 86_400
    rig.end(running, tokens=10, usd=0.1)  # less than expected, a day later: no credit
    rig.end(await rig.ask(), tokens=10, usd=0.1)


async def test_one_request_above_the_whole_limit_is_admitted_once() -> None:
    rig = Rig(tokens_per_day=100)
    rig.end(await rig.ask(prompt_tokens=5000, most=10), tokens=5010)
    await rig.refused("tokens_per_day", 43_200)


@settings(max_examples=60, deadline=None)
@given(costs=st.lists(st.tuples(st.floats(0, 300), st.booleans()), max_size=40), limit=st.integers(100, 2000))
async def test_a_key_is_over_by_no_more_than_its_running_requests_take(
    costs: list[tuple[float, bool]], limit: int
) -> None:
    """`concurrent_requests` times the dearest request, however they come and go."""
    rig, used, running = Rig(tokens_per_day=limit, concurrent_requests=4), 0.0, list[tuple[Admission, float]]()
    for cost, ends in costs:
        try:
            running.append((await rig.ask(prompt_tokens=1), cost))
        except LimitExceeded:
            ends = True
        if ends and running:
            admission, took = running.pop(0)
            rig.end(admission, tokens=took)
            used += took
    for admission, took in running:
        rig.end(admission, tokens=took)
        used += took
    assert used <= limit + 4 * max((cost for cost, _ in costs), default=0)


class Down:
    """Shared counters that nobody answers for."""

    up = False

    async def take(self, key: str, limits: KeyLimits, amount: Amount, lease: str) -> Refused | None:
        if not self.up:
            raise SharedLimitsDown("refused")
        return None

    def settle(self, key: str, more: Amount, lease: str) -> None: ...
    async def start(self) -> None: ...
    async def aclose(self) -> None: ...


async def test_while_the_shared_counters_are_down_each_replica_counts_for_itself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig = Rig(requests_per_minute=1)
    rig.limiter.shared = shared = Down()
    with caplog.at_level(logging.INFO, "paretoproxy.limits"):
        assert not (await rig.ask()).shared
        await rig.refused("requests_per_minute", 60)
        assert "paretoproxy_limits_shared" in [m.name for m in rig.limiter.collect()]
        assert [m.samples[0].value for m in rig.limiter.collect() if m.name == "paretoproxy_limits_shared"] == [0.0]
        shared.up = True
        assert (await rig.ask()).shared
    assert caplog.text.count("are down") == 1 and caplog.text.count("are back") == 1


async def test_or_it_refuses() -> None:
    rig = Rig(requests_per_minute=1)
    rig.limiter.shared, rig.limiter.refuse_when_down = Down(), True
    with pytest.raises(Unavailable) as error:
        await rig.ask()
    assert (error.value.http_status, error.value.code, error.value.retry_after_s) == (503, "limits_unavailable", 1)


async def test_refusals_are_counted_by_limit() -> None:
    rig = Rig(requests_per_minute=1)
    await rig.ask()
    await rig.refused("requests_per_minute", 60)
    (family,) = [m for m in rig.limiter.collect() if m.name == "paretoproxy_limit_refusals"]
    assert {s.labels["limit"]: s.value for s in family.samples}["requests_per_minute"] == 1.0
