"""Ledgers of branches, backends and requests: what adds up does, and what is unknown is null and says why."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import branch_ledgers
from proxy.ledgers import ACCOUNTS, ADDITIVE, Amount, Ledgers, billed_usd, cost_usd
from proxy.prices import Rate, TokenRate
from proxy.trace import BranchTrace, Trace

HOUR = 3600.0


def _trace(rows: list[BranchTrace], rates: dict[str, Rate]) -> Trace:
    trace = Trace("t", 0.0, "/v1/chat/completions", branches=rows, rates=rates)
    trace.ledgers = branch_ledgers.of_trace(trace)
    return trace


def test_one_request_worked_through() -> None:
    """Two branches side by side on a GPU of 3.60 USD an hour (0.001 a second); the second one is cancelled halfway."""
    rate = Rate(gpu_hour_usd=3.6, tokens=TokenRate(prompt=1.0, cached=0.1, completion=10.0), marginal_gpu_s=0.001)
    rows = [
        BranchTrace(0, "a", "completed", 0.0, 2000.0, 1.5, prompt_tokens=100, cached_tokens=0, completion_tokens=200),
        BranchTrace(1, "a", "cancelled", 0.0, 1000.0, 0.5, prompt_tokens=100, cached_tokens=90, completion_tokens=100),
    ]
    trace = _trace(rows, {"a": rate})
    first, second = branch_ledgers.of_branches(trace)
    assert first.attributed == Amount(1.5, pytest.approx(0.0015)) and second.attributed == Amount(0.5, 0.0005)
    assert first.exclusive.gpu_seconds == 2.0 and second.exclusive.gpu_seconds == 1.0
    assert first.marginal == Amount(0.2, pytest.approx(0.0002))
    assert first.billed == Amount(usd=pytest.approx((100 * 1.0 + 200 * 10.0) / 1e6))
    assert second.billed == Amount(usd=pytest.approx((10 * 1.0 + 90 * 0.1 + 100 * 10.0) / 1e6))
    assert first.paper_cost_per_token == 0.01
    whole = trace.ledgers
    assert whole is not None
    assert whole.attributed == Amount(2.0, pytest.approx(0.002))
    assert whole.exclusive.gpu_seconds == 2.0  # not 3: they ran side by side
    assert whole.paper_cost_per_token == pytest.approx(2.0 / 300)


RATES = st.builds(
    Rate,
    gpus=st.sampled_from([0.5, 1.0, 8.0]),
    gpu_hour_usd=st.none() | st.floats(0, 100),
    tokens=st.none()
    | st.builds(TokenRate, prompt=st.floats(0, 50), completion=st.floats(0, 50), cached=st.none() | st.floats(0, 50)),
    marginal_gpu_s=st.none() | st.floats(0, 0.1),
)


@st.composite
def requests(draw: st.DrawFn) -> Trace:
    rates = {name: draw(RATES) for name in draw(st.sampled_from(["a", "ab", "abc"]))}
    rows = []
    for index in range(draw(st.integers(1, 8))):
        start = draw(st.floats(0, 1e4))
        prompt = draw(st.integers(0, 5000))
        rows.append(
            BranchTrace(
                index=index,
                backend=draw(st.sampled_from(sorted(rates))),
                outcome="completed",
                start_ms=start,
                end_ms=start + draw(st.floats(0, 1e4)),
                gpu_seconds=draw(st.floats(0, 1e3)),
                prompt_tokens=prompt,
                cached_tokens=draw(st.none() | st.integers(0, prompt)),
                completion_tokens=draw(st.integers(0, 5000)),
            )
        )
    return _trace(rows, rates)


def _sum(parts: list[float | None]) -> float | None:
    return None if None in parts else sum(part for part in parts if part is not None)


@given(requests())
def test_what_is_additive_sums_from_branches_over_backends_to_the_request(trace: Trace) -> None:
    whole = trace.ledgers
    assert whole is not None
    for parts in (branch_ledgers.of_branches(trace), list(branch_ledgers.of_backends(trace).values())):
        for account in ADDITIVE:
            for unit in ("gpu_seconds", "usd"):
                added = _sum([getattr(getattr(part, account), unit) for part in parts])
                told = getattr(getattr(whole, account), unit)
                assert (added is None) == (told is None)
                assert added is None or added == pytest.approx(told, rel=1e-6, abs=1e-7)
    exclusive = whole.exclusive.gpu_seconds
    assert exclusive is not None
    assert max(part.exclusive.gpu_seconds or 0.0 for part in branch_ledgers.of_branches(trace)) <= exclusive + 1e-6


@given(requests())
def test_nothing_is_zero_where_it_is_unknown(trace: Trace) -> None:
    def check(ledgers: Ledgers, used: set[str]) -> None:
        rates = [trace.rates[name] for name in used]
        for account in ACCOUNTS:
            amount = getattr(ledgers, account)
            assert (amount.usd is None) == (amount.reason is not None)
        priced = all(rate.gpu_hour_usd is not None for rate in rates)
        assert (ledgers.attributed.usd is not None) == (ledgers.exclusive.usd is not None) == priced
        assert (ledgers.billed.usd is not None) == all(rate.tokens is not None for rate in rates)
        sloped = all(rate.marginal_gpu_s is not None for rate in rates)
        assert (ledgers.marginal.gpu_seconds is not None) == sloped
        assert (ledgers.marginal.usd is not None) == (sloped and priced)

    assert trace.ledgers is not None
    check(trace.ledgers, {row.backend for row in trace.branches})
    for row, ledgers in zip(trace.branches, branch_ledgers.of_branches(trace), strict=True):
        check(ledgers, {row.backend})
        tokens = row.completion_tokens
        assert (ledgers.paper_cost_per_token is None) == (tokens == 0)


def test_a_branch_costs_its_share_of_the_gpu_or_else_its_tokens() -> None:
    tokens = TokenRate(prompt=1.0, completion=2.0)
    assert cost_usd(Rate(gpu_hour_usd=HOUR, tokens=tokens), 2.0, 10, None, 10) == 2.0
    assert cost_usd(Rate(tokens=tokens), 2.0, 10, None, 10) == pytest.approx(30e-6)
    assert cost_usd(Rate(), 2.0, 10, None, 10) is None


def test_cached_tokens_without_a_price_of_their_own_cost_what_others_do() -> None:
    assert billed_usd(Rate(tokens=TokenRate(1.0, 0.0)), 100, 90, 0) == pytest.approx(1e-4)
    assert billed_usd(Rate(tokens=TokenRate(1.0, 0.0, 0.0)), 100, 90, 0) == pytest.approx(1e-5)


def test_a_trace_from_before_rates_were_kept_says_so_per_branch() -> None:
    trace = Trace("t", 0.0, "/", branches=[BranchTrace(0, "a", "completed", 0.0, 1.0, 0.1)])
    (ledgers,) = branch_ledgers.of_branches(trace)
    assert ledgers.attributed == Amount(reason=branch_ledgers.NO_RATE) and ledgers.paper_cost_per_token is None
