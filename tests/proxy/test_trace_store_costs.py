"""What requests cost, summed per day, model, key and backend, in the transaction that writes their traces."""

from __future__ import annotations

from datetime import timedelta
from math import fsum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trace_store_rig import DAY, NOON, branch, ledgers, opened, sql, trace, wait_for, write

from proxy import branch_ledgers
from proxy.prices import Rate
from proxy.trace import BranchTrace, PlanTrace
from proxy.trace_store import TraceStore
from proxy.trace_store.costs import AMOUNTS, summed


def test_requests_tokens_and_every_ledger_are_summed(target: Path | str) -> None:
    answered = trace("a", NOON, branch(), branch(gpu_seconds=0.25, usd=0.5), ledgers=ledgers(0.75, 0.75))
    store = write(target, answered, trace("b", NOON, branch(), outcome="client_gone"))

    (row,) = store.costs(["model"])

    assert (row["model"], row["requests"], row["answered"], row["client_gone"]) == ("m", 2, 1, 1)
    assert (row["uses"], row["prompt_tokens"], row["completion_tokens"]) == (2, 30, 15)
    assert row["ledgers"] == {
        "attributed": _amounts(1.25, 1.0),
        "exclusive": _amounts(2.5, 2.0),
        "marginal": _amounts(0.625, 0.5),
        "billed": {"usd": None, "usd_unknown": 2, "reason": "no price per token is configured"},
    }


def test_sums_grow_over_transactions_and_restarts(target: Path | str) -> None:
    for number in range(3):
        write(target, trace(str(number), NOON, branch()))
    (row,) = TraceStore(target, 1).costs([])
    assert (row["requests"], row["ledgers"]["attributed"]["gpu_seconds"]) == (3, 1.5)


def test_an_unknown_price_is_counted_with_its_reason_and_never_a_zero(target: Path | str) -> None:
    """A sum says how much it does not cover; one that covers nothing is null."""
    priced = trace("a", NOON, branch("a"))
    unpriced = trace(
        "b", NOON, branch("b", usd=None), ledgers=ledgers(0.5, None), plan=PlanTrace("b", "m", "none", 1, 1)
    )
    store = write(target, priced, unpriced)

    (both,) = store.costs([])
    one, other = (row["ledgers"]["attributed"] for row in store.costs(["backend"]))

    reason = "the backend has no gpu_hour_usd"
    assert both["ledgers"]["attributed"] == {**_amounts(1.0, 0.25), "usd_unknown": 1, "reason": reason}
    assert one == _amounts(0.5, 0.25)
    assert other == {**_amounts(0.5, None), "usd_unknown": 1, "reason": reason}


def test_a_request_on_several_backends_counts_once_and_costs_where_it_ran(target: Path | str) -> None:
    """Each at its own rate: dollars of a second are 0.5, 0.1 and unknown."""
    rows = [branch("a"), branch("judge", 0.1, role="judge"), branch("reward", 0.2, role="score")]
    rows[2].completion_tokens = 0
    rates = {"a": Rate(1, 1800.0, marginal_gpu_s=0.01), "judge": Rate(2, 360.0), "reward": Rate(1)}
    store = write(target, trace("a", NOON, *rows, rates=rates))

    a, judge, reward = store.costs(["backend"])

    assert [(row["backend"], row["requests"], row["uses"]) for row in (a, judge, reward)] == [
        ("a", 1, 1),
        ("judge", 0, 1),
        ("reward", 0, 1),
    ]
    assert [row["ledgers"]["attributed"]["usd"] for row in (a, judge)] == [0.25, pytest.approx(0.01)]
    assert [row["ledgers"]["exclusive"]["gpu_seconds"] for row in (a, judge, reward)] == [0.001, 0.002, 0.001]
    assert [row["prompt_tokens"] for row in (a, judge, reward)] == [10, 10, 0], "a score's prompt is not the client's"
    unpriced = reward["ledgers"]["attributed"]
    assert (unpriced["gpu_seconds"], unpriced["usd"], unpriced["usd_unknown"]) == (0.2, None, 1)
    assert a["ledgers"]["marginal"]["gpu_seconds"] == 0.05
    assert judge["ledgers"]["marginal"]["reason"] == "the backend has no profile"


def test_an_attempt_that_failed_elsewhere_costs_its_own_backend_its_time(target: Path | str) -> None:
    failed = branch("b", 0.125, completion_tokens=0, outcome="failed")
    rates = {name: Rate(1, 1800.0) for name in "ab"}
    store = write(target, trace("a", NOON, failed, branch("a"), rates=rates))

    a, b = store.costs(["backend"])

    assert (a["requests"], b["requests"]) == (1, 0)
    assert (a["ledgers"]["attributed"]["usd"], b["ledgers"]["attributed"]["usd"]) == (0.25, 0.0625)
    assert a["ledgers"]["exclusive"] == b["ledgers"]["exclusive"] == _amounts(0.001, 0.0005)


def test_a_refused_request_costs_nothing_and_is_nobodys(target: Path | str) -> None:
    """No backend was used: zero is then known. What a client called a model is no group of its own."""
    with opened(target) as store:
        refused = trace("a", outcome="refused", plan=None, model="gpt-4")
        store.record(refused, None, "unknown")
    (row,) = store.costs(["model", "key", "backend"])
    assert (row["model"], row["key"], row["backend"], row["refused"], row["uses"]) == ("unknown", None, None, 1, 0)
    assert row["ledgers"]["attributed"] == _amounts(0.0, 0.0)


def test_days_are_utc_and_both_ends_are_in(target: Path | str) -> None:
    midnight = NOON + 12 * 3600
    store = write(target, trace("a", midnight - 0.001, branch()), trace("b", midnight, branch(), key="bob"))
    tomorrow = DAY + timedelta(1)

    assert [row["day"] for row in store.costs(["day"])] == ["2026-11-26", "2026-11-27"]
    assert [row["day"] for row in store.costs(["day"], DAY, DAY)] == ["2026-11-26"]
    assert [row["key"] for row in store.costs(["key"], tomorrow, None)] == ["bob"]
    assert store.costs(["day"], tomorrow + timedelta(1), None) == store.costs([], None, DAY - timedelta(1)) == []


def test_a_group_that_is_none_is_named(tmp_path: Path) -> None:
    store = write(tmp_path / "traces.db", trace())
    with pytest.raises(ValueError, match="cannot group by 'hour'; there are day, model, key, backend"):
        store.costs(["hour"])  # type: ignore[list-item]


def test_sums_and_traces_are_kept_or_lost_together(tmp_path: Path) -> None:
    """One trace is refused: its transaction is undone, and the others are written without it."""
    path = tmp_path / "traces.db"
    write(path, trace("first"))
    sql(path, "CREATE TRIGGER no BEFORE INSERT ON traces WHEN new.id = 'bad' BEGIN SELECT RAISE(ABORT, 'no'); END")
    with opened(path) as store:
        for name in ("a", "bad", "b"):
            store.record(trace(name, NOON, branch()))
    assert (store.written, store.dropped) == (2, 1)
    assert [row["id"] for row in store.latest(9)] == ["b", "a", "first"]
    assert store.costs([])[0]["requests"] == 3


def test_old_sums_outlive_the_traces(target: Path | str) -> None:
    old = write(target, *(trace(str(n), NOON - 10 * 86400, branch()) for n in range(3)))
    assert old.costs([])[0]["requests"] == 3
    with opened(target, retention_days=1) as store:
        wait_for(lambda: store.forgotten == 3)
    assert (store.latest(9), store.costs([])[0]["requests"]) == ([], 3)


RATES = {"a": Rate(1, 1800.0), "b": Rate(2, 360.0, marginal_gpu_s=0.01), "c": Rate(1)}  # of the last no price is known
_branches = st.lists(
    st.builds(branch, st.sampled_from("abc"), st.floats(0, 1e6), prompt_tokens=st.integers(0, 10**6)), max_size=5
)


@given(st.lists(_branches, max_size=8))
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_sums_over_backends_are_the_sums_over_requests(requests: list[list[BranchTrace]]) -> None:
    traces = [trace(str(n), NOON + n, *rows, rates=RATES) for n, rows in enumerate(requests)]
    for each in traces:
        each.ledgers = branch_ledgers.of_trace(each)
    rows = list(summed((each, "m") for each in traces))

    assert sum(row.requests for row in rows) == len(traces)
    assert sum(row.prompt_tokens for row in rows) == sum(b.prompt_tokens for each in traces for b in each.branches)
    gpu_seconds = sum(row.amounts[AMOUNTS.index("attributed_gpu_seconds")] for row in rows)
    whole = fsum(b.gpu_seconds for each in traces for b in each.branches)
    assert gpu_seconds == pytest.approx(whole, abs=1e-6)
    usd = AMOUNTS.index("attributed_usd")
    for row in rows:
        used = [[b for b in each.branches if b.backend == row.backend] for each in traces]
        assert row.uses == sum(map(bool, used))
        assert row.unknown[usd] == (row.uses if row.backend == "c" else 0)
        if row.backend in ("a", "b"):
            spent = fsum(RATES[row.backend].usd(b.gpu_seconds) or 0.0 for mine in used for b in mine)
            assert row.amounts[usd] == pytest.approx(spent, abs=1e-6)


def _amounts(gpu_seconds: float | None, usd: float | None) -> dict[str, Any]:
    zero = {"gpu_seconds_unknown": 0, "usd_unknown": 0, "reason": None}
    return {"gpu_seconds": gpu_seconds, "usd": usd, **zero}
