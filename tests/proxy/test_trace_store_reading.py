"""Listing traces: filters, times, pages; over HTTP and on the command line; on both databases."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from http_rig import Fleet, chat, until
from trace_store_rig import NOON, branch, opened, sql, trace, wait_for, write

from proxy.cli import traces as traces_command
from proxy.trace_store import TraceStore, UnknownTrace
from proxy.trace_store import store as store_module


def _ids(store: TraceStore, **wanted: str) -> list[str]:
    return [record["id"] for record in store.latest(99, **wanted)]


def test_a_trace_reads_back_as_it_was_written(target: Path | str) -> None:
    whole = trace("a", NOON, branch(answer="4"), key="alice", prompt=[{"role": "user", "content": "2+2?\0é\ud7ff"}])
    store = write(target, whole)
    found = store.get("a")
    assert found is not None
    assert (found["key"], found["request_id"], found["prompt"]) == ("alice", "a", whole.prompt)
    assert found["branches"][0]["answer"] == "4"
    assert found["ledgers"]["billed"] == {
        "gpu_seconds": None,
        "usd": None,
        "reason": "no price per token is configured",
    }
    assert store.get("b") is None


def test_every_filter(target: Path | str) -> None:
    store = write(
        target,
        trace("a"),
        trace("b", model="m2", key="bob", outcome="failed", slo_status="missed", plan=None),
        trace("c", model="odd\0name"),
    )
    assert _ids(store, strategy="none", backend="a") == ["c", "a"]
    assert _ids(store, key="bob") == _ids(store, model="m2") == _ids(store, outcome="failed") == ["b"]
    assert _ids(store, slo_status="missed") == ["b"]
    assert _ids(store, outcome="answered", slo_status="none", model="m") == ["a"]
    with pytest.raises(ValueError, match="no filter"):
        store.latest(1, seq="1 OR 1=1")


def test_times_of_arrival_select(target: Path | str) -> None:
    store = write(target, *(trace(str(n), NOON + n) for n in range(5)))
    chosen = store.page(9, since=NOON + 1, until=NOON + 3)
    assert [record["id"] for record in chosen.records] == ["2", "1"], "`until` itself is left out"


def test_pages_follow_each_other_though_traces_come_in_between(target: Path | str) -> None:
    """One trace id stands for several requests: an agent calls many times within its own trace."""
    store = write(target, *(trace("agent" if n in (2, 3, 6) else str(n)) for n in range(7)))
    seen, after = [], None
    while True:
        page = store.page(2, after=after)
        seen += [record["id"] for record in page.records]
        if page.after is None:
            break
        after = page.after
        write(target, trace("new"))
    assert seen == ["agent", "5", "4", "agent", "agent", "1", "0"]
    assert [r["id"] for r in store.page(9, after="agent").records] == ["1", "0"], "after the oldest of that id"
    with pytest.raises(UnknownTrace, match="no trace 'x' to list after"):
        store.page(9, after="x")


def test_a_store_that_nobody_wrote_to_is_empty(target: Path | str) -> None:
    store = TraceStore(target, 1)
    assert (store.latest(9), store.get("a"), store.costs(["day"])) == ([], None, [])


def test_old_traces_go_in_small_steps(target: Path | str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "FORGET_AT_ONCE", 2)
    now = datetime.now(UTC).timestamp()
    write(target, *(trace(f"old{n}", now - 3 * 86400) for n in range(5)), trace("kept", now - 86400))
    with opened(target, retention_days=2) as store:
        wait_for(lambda: store.forgotten >= 2)
        store.record(trace("new", now))
        wait_for(lambda: store.forgotten == 5)
        assert len(sql(target, "SELECT 1 FROM traces")) <= 2
    assert _ids(store) == ["new", "kept"]


def test_a_file_that_is_as_large_as_it_may_be_forgets_the_oldest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "FORGET_PAUSE_S", 0.0)
    path, most = tmp_path / "traces.db", 2 << 20
    with opened(path, queue_size=1000, max_bytes=most) as store:
        for number in range(400):
            store.record(trace(f"t{number}", NOON + number, answer="x" * 20_000))
        wait_for(lambda: store.written == 400 and 0 < store.forgotten < 400)
        wait_for(lambda: len(sql(path, "SELECT 1 FROM traces")) * 20_000 < most)
        for number in range(400, 450):  # where others were
            store.record(trace(f"t{number}", NOON + number, answer="x" * 20_000))
        wait_for(lambda: store.written == 450)
    kept = _ids(store)
    assert store.dropped == 0 and kept[0] == "t449" and "t0" not in kept
    assert store.costs([])[0]["requests"] == 450, "the sums are of all"


def test_a_file_of_the_version_before_is_taken_over(tmp_path: Path) -> None:
    """It had neither keys nor times to search by, nor sums."""
    path = tmp_path / "traces.db"
    sql(path, "PRAGMA journal_mode=WAL")
    sql(path, "CREATE TABLE traces (seq INTEGER PRIMARY KEY, id TEXT NOT NULL, record TEXT NOT NULL)")
    record = json.dumps({"id": "old", "received_at": NOON, "path": "/v1/completions"})
    sql(path, f"INSERT INTO traces (id, record) VALUES ('old', '{record}')")
    store = write(path, trace("new", NOON + 1, branch(), key="bob"))
    assert _ids(store) == ["new", "old"]
    assert [r["id"] for r in store.page(9, until=NOON + 1).records] == ["old"]
    assert store.costs(["key"])[0]["key"] == "bob"


async def test_over_http(fleet: Fleet, target: Path | str) -> None:
    backend = await fleet.backend()
    where = {"path": str(target)} if isinstance(target, Path) else {"url": target}
    proxy = await fleet.proxy(traces=where)
    for _ in range(3):
        assert (await proxy.ask()).status_code == 200
    await until(lambda: proxy.service.traces.written == 3)

    async def listed(**wanted: str) -> dict[str, object]:
        answer = await proxy.client.get("/v1/traces", params=wanted)
        assert answer.status_code == 200, answer.text
        told: dict[str, object] = answer.json()
        return told

    first = await listed(limit="2")
    assert (len(first["data"]), first["has_more"]) == (2, True)  # type: ignore[arg-type]
    last = await listed(limit="2", after=str(first["after"]))
    assert (len(last["data"]), last["has_more"], last["after"]) == (1, False, None)  # type: ignore[arg-type]
    assert (await listed(since="2100-01-01"))["data"] == (await listed(until="2020-01-01T00:00:00Z"))["data"] == []
    assert len((await listed(since="2020-01-01", backend=backend.name))["data"]) == 3  # type: ignore[arg-type]
    ready = (await proxy.client.get("/ready")).json()
    assert ready["traces"] == {"problem": None, "waiting": 0, "dropped": 0}
    for name, value in (("after", "f" * 32), ("since", "yesterday")):
        refused = await proxy.client.get("/v1/traces", params={name: value})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, name)


async def test_a_refused_model_is_booked_as_unknown(fleet: Fleet) -> None:
    """Clients name what they like: sums are kept for ever, so their number is bounded by the configuration."""
    _, proxy = await fleet.one()
    await proxy.ask(chat(model="gpt-4"))
    await proxy.ask()
    await until(lambda: proxy.service.traces.written == 2)
    rows = proxy.service.traces.costs(["model"])
    assert [(row["requests"], row["refused"]) for row in rows if row["model"] == "unknown"] == [(1, 1)]
    assert [row["answered"] for row in rows if row["model"] != "unknown"] == [1]


def test_the_command_reads_the_store_of_a_configuration(target: Path | str, tmp_path: Path) -> None:
    write(target, trace("a", NOON, key="alice"), trace("b", NOON + 60))
    where = {"path": str(target)} if isinstance(target, Path) else {"url": target}
    config = tmp_path / "fleet.yaml"
    models = [{"name": "m", "backends": [{"name": "a", "url": "http://a"}]}]
    config.write_text(yaml.safe_dump({"traces": where, "models": models}))

    def run(*arguments: str) -> str:
        told = CliRunner().invoke(traces_command.command, ["--config", str(config), *arguments])
        assert told.exit_code == 0, told.output
        return told.output

    def ids(*arguments: str) -> list[str]:
        return [json.loads(line)["id"] for line in run("--json", *arguments).splitlines()]

    assert ids() == ["b", "a"]
    assert ids("--key", "alice") == ids("--after", "b") == ids("--until", "2026-11-26T12:01:00") == ["a"]
    assert ids("--since", "2026-11-26T13:00:30+01:00") == ["b"]
    assert json.loads(run("a"))["key"] == "alice"
    bad = CliRunner().invoke(traces_command.command, ["--config", str(config), "--since", "soon"])
    assert (bad.exit_code, "'soon' is no time" in bad.output) == (2, True)
