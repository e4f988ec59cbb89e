"""What requests cost together: `GET /v1/costs`, `paretoproxy traces --sum`, and where the fleet's time went."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from http_rig import Fleet, vote
from prometheus_client.parser import text_string_to_metric_families

from proxy import branch_ledgers
from proxy.cli.traces import command
from proxy.gpu_time import GpuTime
from proxy.prices import Pricing, Rate, TokenRate
from proxy.spending import Spending
from proxy.trace import BranchTrace, PlanTrace, Trace
from proxy.trace_store import TraceStore

RATES = {
    "a": Rate(gpu_hour_usd=3600.0, marginal_gpu_s=0.001),
    "b": Rate(tokens=TokenRate(prompt=1.0, completion=2.0)),
}


def _trace(name: str, day: str, model: str, key: str | None, outcome: str, *backends: str) -> Trace:
    at = datetime.fromisoformat(f"{day}T12:00").replace(tzinfo=UTC).timestamp()
    trace = Trace(name, at, "/v1/chat/completions", model=model, key=key)
    trace.outcome = outcome  # type: ignore[assignment]
    trace.plan = PlanTrace(backends[0], model, "none", 1, 1) if backends else None
    for index, backend in enumerate(backends):
        row = BranchTrace(index, backend, "completed", 0.0, 2000.0, 1.0, prompt_tokens=100, completion_tokens=50)
        trace.branches.append(row)
        trace.rates[backend] = RATES[backend]
    trace.ledgers = branch_ledgers.of_trace(trace)
    return trace


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "traces.db"
    store = TraceStore(path, 100)
    store.start()
    store.record(_trace("1", "2026-01-30", "m", "ann", "answered", "a"))
    store.record(_trace("2", "2026-01-31", "m", "ann", "answered", "a", "b"))
    store.record(_trace("3", "2026-01-31", "m", None, "client_gone", "b"))
    store.record(_trace("4", "2026-02-01", "x", "bob", "refused"))
    store.close()
    return path


def test_sums_over_everything_say_what_they_leave_out(path: Path) -> None:
    (row,) = TraceStore(path, 1).costs([])
    assert (row["requests"], row["answered"], row["refused"], row["client_gone"], row["failed"]) == (4, 2, 1, 1, 0)
    assert (row["uses"], row["prompt_tokens"], row["completion_tokens"]) == (4, 400, 200)
    attributed, billed = row["ledgers"]["attributed"], row["ledgers"]["billed"]
    assert attributed == {
        "gpu_seconds": 4.0,
        "gpu_seconds_unknown": 0,
        "usd": 2.0,
        "usd_unknown": 2,
        "reason": "the backend has no gpu_hour_usd",
    }
    assert billed["usd"] == pytest.approx(2 * (100 + 2 * 50) / 1e6) and billed["usd_unknown"] == 2
    assert row["ledgers"]["marginal"]["gpu_seconds"] == pytest.approx(0.1)


def test_each_backend_gets_what_was_done_there_and_a_request_counts_once(path: Path) -> None:
    rows = TraceStore(path, 1).costs(["backend"])
    assert [(row["backend"], row["requests"], row["uses"]) for row in rows] == [(None, 1, 0), ("a", 2, 2), ("b", 1, 2)]
    nowhere, _, b = rows
    assert nowhere["ledgers"]["attributed"]["usd"] == 0.0, "nothing was used: known to be nothing"
    assert b["ledgers"]["attributed"]["usd"] is None and b["ledgers"]["attributed"]["gpu_seconds"] == 2.0


def test_groups_and_days(path: Path) -> None:
    store = TraceStore(path, 1)
    rows = store.costs(["day", "key"], since=date(2026, 1, 31), until=date(2026, 1, 31))
    assert [(row["day"], row["key"], row["requests"]) for row in rows] == [
        ("2026-01-31", None, 1),
        ("2026-01-31", "ann", 1),
    ]
    assert [row["model"] for row in store.costs(["model"], since=date(2026, 2, 1))] == ["x"]
    assert store.costs(["model"], since=date(2027, 1, 1)) == []


def test_on_the_command_line(path: Path) -> None:
    run = CliRunner().invoke
    asked = ["--path", str(path), "--sum", "--group-by", "model,key"]
    told = run(command, asked)
    assert told.exit_code == 0 and "ann" in told.output and "$2.000000" in told.output
    assert "unknown: the backend has no gpu_hour_usd" in told.output
    lines = run(command, [*asked, "--json"]).output.splitlines()
    assert [json.loads(line)["key"] for line in lines] == [None, "ann", "bob"]
    assert "none of day, model, key, backend" in run(command, [*asked[:-1], "colour"]).output
    assert "goes with --sum" in run(command, ["--path", str(path), "--group-by", "day"]).output


async def test_over_http_with_the_fleets_own_time(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    await proxy.ask(vote(3))
    trace = await proxy.trace()

    told = (await proxy.client.get("/v1/costs", params={"group_by": "model,backend,day"})).json()

    (row,) = told["data"]
    today = datetime.fromtimestamp(trace["received_at"], UTC).date().isoformat()
    assert (row["model"], row["backend"], row["day"], row["requests"]) == ("m", "a", today, 1)
    attributed = trace["ledgers"]["attributed"]
    assert row["ledgers"]["attributed"]["usd"] == pytest.approx(attributed["usd"])
    spent = told["fleet"]["a"]
    assert spent["attributed"]["gpu_seconds"] == pytest.approx(attributed["gpu_seconds"], abs=1e-5)
    kinds = [spent[kind] for kind in ("attributed", "others", "idle")]
    assert spent["wall"]["gpu_seconds"] == pytest.approx(sum(kind["gpu_seconds"] for kind in kinds), abs=1e-4)
    assert backend.usd_per_hour is not None
    assert spent["idle"]["usd"] == pytest.approx(spent["idle"]["gpu_seconds"] * backend.usd_per_hour / 3600, rel=1e-3)


async def test_each_branch_of_a_trace_has_its_ledgers_and_the_rate_is_kept(fleet: Fleet) -> None:
    _, proxy = await fleet.one(
        first_model={
            "backends": [
                {
                    "name": "a",
                    "url": (await fleet.backend("unused")).url,
                    "gpu_hour_usd": [{"from": "2020-01-01T00:00Z", "usd": 3.6}],
                    "usd_per_million_tokens": {"prompt": 1.0, "completion": 2.0},
                }
            ]
        }
    )
    await proxy.ask(vote(2))
    trace = await proxy.trace()
    rate = trace["rates"]["a"]
    assert (rate["gpu_hour_usd"], rate["gpu_hour_since"]) == (3.6, "2020-01-01T00:00:00Z")
    assert rate["tokens"] == {"prompt": 1.0, "completion": 2.0, "cached": None}
    for ledger in ("attributed", "billed"):
        parts = [row["ledgers"][ledger]["usd"] for row in trace["branches"]]
        assert sum(parts) == pytest.approx(trace["ledgers"][ledger]["usd"], rel=1e-6) and min(parts) > 0
    assert trace["branches"][0]["ledgers"]["marginal"]["reason"] == "the backend has no profile"


async def test_metrics_tell_where_time_went(fleet: Fleet) -> None:
    _, proxy = await fleet.one()
    page = (await proxy.client.get("/metrics")).text
    spent = {
        (sample.labels["backend"], sample.labels["kind"]): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "paretoproxy_backend_gpu_seconds_total"
    }
    assert set(spent) == {("a", "attributed"), ("a", "others"), ("a", "idle")}
    assert spent["a", "idle"] > 0


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"group_by": "colour"}, "group_by: 'colour' is none of day, model, key, backend"),
        ({"since": "yesterday"}, "since: expected a day as in 2026-01-31, got 'yesterday'"),
        ({"until": "2026-02-30"}, "until: expected a day"),
        ({"since": "2026-02-02", "until": "2026-02-01"}, "until: 2026-02-01 is before since, 2026-02-02"),
    ],
)
async def test_what_cannot_be_asked_is_refused_by_name(fleet: Fleet, params: dict[str, str], said: str) -> None:
    _, proxy = await fleet.one()
    answer = await proxy.client.get("/v1/costs", params=params)
    assert answer.status_code == 400 and said in answer.json()["error"]["message"]


def test_idle_time_costs_what_it_cost_when_it_passed() -> None:
    from profiler.profile_file import wide_prior
    from proxy.config import BackendConfig

    steps = [{"from": datetime.fromtimestamp(at, UTC), "usd": usd} for at, usd in ((0, 3600.0), (100, 7200.0))]
    config = BackendConfig.model_validate({"name": "b", "url": "http://b:1", "gpus": 2, "gpu_hour_usd": steps})
    now = [90.0]
    gpu_time = GpuTime(2, lambda: now[0])
    spending = Spending(gpu_time, Pricing(config, wide_prior("b")), lambda: now[0])
    now[0] = 100.0
    mark = gpu_time.enter()
    spending.settle()
    now[0] = 105.0
    gpu_time.leave(mark)
    now[0] = 110.0
    told = spending.told()
    assert told["idle"] == {"gpu_seconds": 30.0, "usd": pytest.approx(20 * 1.0 + 10 * 2.0), "reason": None}
    assert told["attributed"] == {"gpu_seconds": 10.0, "usd": pytest.approx(20.0), "reason": None}
    assert told["wall"]["usd"] == pytest.approx(60.0)


def test_a_price_that_was_unknown_for_a_while_leaves_the_sum_unknown() -> None:
    from profiler.profile_file import wide_prior
    from proxy.config import BackendConfig

    now = [0.0]
    config = BackendConfig(name="b", url="http://b:1")
    spending = Spending(GpuTime(1, lambda: now[0]), Pricing(config, wide_prior("b")), lambda: now[0])
    now[0] = 5.0
    assert spending.told()["idle"] == {"gpu_seconds": 5.0, "usd": None, "reason": "the backend has no gpu_hour_usd"}
