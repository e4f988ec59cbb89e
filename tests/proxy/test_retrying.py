"""Whether, and when, what failed is tried again."""

from __future__ import annotations

from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest
from http_rig import Fleet
from hypothesis import given
from hypothesis import strategies as st
from planner_tables import backend as a_backend
from scripted_backend import Play, answers, closes, resets, says, stalls

from proxy.backend import Backend, open_backend
from proxy.config import BackendConfig
from proxy.reliability.retrying import Failure, Retries, failure_of, failure_of_status, fetch_again, retry_after_s
from proxy.reliability.settings import RetriesConfig
from proxy.upstream.errors import ConnectionLost, UpstreamError

LOST = failure_of(ConnectionLost("the backend closed the connection"))


def retries(**config: Any) -> Retries:
    return Retries(RetriesConfig(**config), Random(1), lambda: 100.0)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"7", 7.0),
        (b"Thu, 01 Jan 2026 00:00:09 GMT", 9.0),
        (b"Wed, 31 Dec 2025 23:59:00 GMT", 0.0),
        (b"soon", None),
        (b"-3", None),
        (b"9" * 40, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: bytes, seconds: float | None) -> None:
    assert retry_after_s(value, datetime(2026, 1, 1, tzinfo=UTC)) == seconds


@given(st.integers(1, 9), st.floats(0, 1000), st.floats(0, 1000))
def test_a_pause_is_drawn_from_a_bound_that_doubles_up_to_a_limit(
    attempts: int, backoff_ms: float, max_backoff_ms: float
) -> None:
    policy = retries(max_attempts=10, backoff_ms=backoff_ms, max_backoff_ms=max_backoff_ms)
    delay_s = policy.delay_s("pass-through", LOST, a_backend(), attempts=attempts, elsewhere=True)
    assert delay_s is not None
    assert 0 <= delay_s * 1e3 <= min(max_backoff_ms, backoff_ms * 2 ** (attempts - 1)) + 1e-6


def test_attempts_deadline_and_budget_end_it_and_are_counted() -> None:
    policy = retries(budget=0, reserve=1, backoff_ms=1000, max_backoff_ms=1000)
    left = a_backend()
    assert policy.delay_s("plan", LOST, left, attempts=3, elsewhere=True) is None
    assert policy.delay_s("plan", LOST, left, attempts=1, elsewhere=True, until=100.0) is None
    assert policy.delay_s("plan", LOST, left, attempts=1, elsewhere=True) is not None
    assert policy.delay_s("plan", LOST, left, attempts=1, elsewhere=True) is None
    assert policy.denied == {"attempts": 1, "deadline": 1, "budget": 1}
    assert policy.counts == {("plan", "lost"): 1}


def test_a_backends_retry_after_is_waited_for_where_it_fits_and_only_by_who_comes_back_to_it() -> None:
    policy, left = retries(backoff_ms=0), a_backend()
    busy = failure_of_status(503, [(b"retry-after", b"2")])
    assert policy.delay_s("plan", busy, left, attempts=1, elsewhere=True) == 0
    assert policy.delay_s("plan", busy, left, attempts=1, elsewhere=False) == 2
    assert policy.delay_s("plan", busy, left, attempts=1, elsewhere=False, until=101.9) is None
    longer = failure_of_status(503, [(b"retry-after", b"3")])
    assert policy.delay_s("plan", longer, left, attempts=1, elsewhere=False) is None
    assert policy.denied == {"deadline": 1, "retry-after": 1}


@pytest.mark.parametrize(
    ("failure", "open_", "elsewhere", "free"),
    [
        (LOST, True, True, True),
        (LOST, False, True, False),
        (LOST, True, False, False),
        (Failure("status", "it answered 503", "it answered 503", "503", 503), True, True, False),
        (Failure("timeout", "silent", "silent"), True, True, False),
    ],
    ids=["dead and out", "still in", "nobody else", "it answered", "it may still work on it"],
)
def test_only_what_leaves_a_dead_backend_for_another_costs_nothing(
    failure: Failure, open_: bool, elsewhere: bool, free: bool
) -> None:
    policy, left = retries(), a_backend()
    if open_:
        left.health.probed("/health: cannot connect")
    policy.delay_s("plan", failure, left, attempts=1, elsewhere=elsewhere)
    assert policy.budget.spent == (0 if free else 1)


# -- side calls --


async def side_call(fleet: Fleet, *plays: Play, policy: Retries | None = None) -> tuple[int, bytes, Backend, int]:
    engine = await fleet.backend("a")
    engine.will(*plays)
    opened = open_backend(BackendConfig(name="a", url=engine.url), "m", None, lambda: 0.0)
    request = opened.head("/v1/chat/completions").with_body(b"{}")
    try:
        status, body = await fetch_again(opened, request, 0.5, policy)
        return status, body, opened, len(engine.generations)
    finally:
        await opened.pool.aclose()


FAILURES = {"reset": resets(), "close": closes(), "503": answers(503, b"{}")}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES.keys())
async def test_a_side_call_is_made_again(fleet: Fleet, failure: Play) -> None:
    status, _, _, asked = await side_call(fleet, failure, says("yes"), policy=retries())
    assert (status, asked) == (200, 2)


@pytest.mark.parametrize("status", [400, 404, 429, 500])
async def test_what_would_be_refused_again_is_not(fleet: Fleet, status: int) -> None:
    got, _, _, asked = await side_call(fleet, answers(status, b"{}"), policy=retries())
    assert (got, asked) == (status, 1)


async def test_the_last_answer_or_error_is_the_callers(fleet: Fleet) -> None:
    status, _, _, asked = await side_call(fleet, *[answers(503, b"{}")] * 3, policy=retries())
    assert (status, asked) == (503, 3)


async def test_without_a_policy_there_is_one_attempt(fleet: Fleet) -> None:
    with pytest.raises(UpstreamError):
        await side_call(fleet, resets(), says("never asked"))


async def test_a_side_call_ends_in_its_time(fleet: Fleet) -> None:
    with pytest.raises(TimeoutError):
        await side_call(fleet, stalls(), policy=retries())
