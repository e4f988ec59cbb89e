"""A full disk or a server that is gone costs traces, never answers, and is said; it is over when the trouble is."""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from http_rig import Fleet, until
from postgres_server import PostgresServer
from trace_store_rig import NOON, branch, opened, sql, trace, wait_for

from proxy.trace_store import StoreError, TraceStore
from proxy.trace_store import postgres as postgres_module
from proxy.trace_store import store as store_module

DISK_BYTES = 2 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system may be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "RETRY_MOST_S", 0.3)


def _fill(folder: Path) -> Path:
    """Takes all the space there is."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            return ballast


@pytest.mark.usefixtures("quick_retries")
def test_a_full_disk_drops_counts_says_so_and_recovers(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    path = small_disk / "traces.db"
    with opened(path, queue_size=50) as store:
        store.record(trace("before", NOON, branch()))
        wait_for(lambda: store.written == 1)
        ballast = _fill(small_disk)

        big = "x" * 5_000
        for number in range(400):
            store.record(trace(f"t{number}", answer=big))
            time.sleep(0.001)
        wait_for(lambda: store.problem is not None and store.dropped > 0)
        assert store.problem == "the disk is full"
        assert store.waiting <= 2 * 50, "as many in the queue, and as many taken from it"

        ballast.unlink()
        wait_for(lambda: store.problem is None and store.waiting == 0)
        store.record(trace("after", NOON, branch()))
    assert store.written + store.dropped == 402
    assert {"before", "after"} <= {record["id"] for record in store.latest(999)}
    assert store.costs([])[0]["requests"] == store.written == len(store.latest(999))
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]
    told = [record.message for record in caplog.records]
    assert [message.startswith("cannot write the trace store") for message in told].count(True) == 1
    assert [message.startswith("traces are being dropped") for message in told].count(True) == 1
    assert told[-1].startswith("traces are written again")


@pytest.mark.usefixtures("quick_retries")
def test_a_proxy_starts_though_the_disk_is_full(small_disk: Path) -> None:
    ballast = _fill(small_disk)
    with opened(small_disk / "new" / "traces.db") as store:
        assert store.problem == "the disk is full"
        store.record(trace("a"))
        ballast.unlink()
        wait_for(lambda: store.written == 1)
    assert [record["id"] for record in store.latest(9)] == ["a"]


async def test_answers_are_given_while_the_disk_is_full(small_disk: Path, fleet: Fleet) -> None:
    _, proxy = await fleet.one(traces={"path": str(small_disk / "traces.db"), "queue_size": 5})
    _fill(small_disk)
    for _ in range(300):
        assert (await proxy.ask()).status_code == 200
    traces = proxy.service.traces
    await until(lambda: traces.dropped > 0 and traces.problem is not None)
    ready = await proxy.client.get("/ready")
    assert (ready.status_code, ready.json()["traces"]["problem"]) == (200, "the disk is full")
    page = (await proxy.client.get("/metrics")).text
    assert "paretoproxy_trace_store_up 0.0" in page
    assert "paretoproxy_traces_dropped_total 0.0" not in page


@pytest.mark.usefixtures("quick_retries")
def test_a_server_that_goes_away_is_waited_for_in_bounded_memory(postgres: PostgresServer) -> None:
    target = postgres.new_database()
    finished: list[str] = []
    with opened(target, queue_size=100) as store:
        postgres.stop()
        try:
            for number in range(500):
                store.record(trace(f"t{number}", NOON, branch()), lambda each: finished.append(each.id))
                time.sleep(0.005)
            wait_for(lambda: len(store._queue) == 0 and store.dropped > 0)
            assert (store.problem or "").startswith("PostgreSQL cannot be reached")
            assert store.waiting <= 100
        finally:
            postgres.start()
        wait_for(lambda: store.waiting == 0, 30)
        assert store.problem is None
    assert len(finished) == 500, "tokens are counted of every request, also of those whose trace is dropped"
    assert store.written + store.dropped == 500
    assert store.costs([])[0]["requests"] == store.written


async def test_answers_do_not_notice_that_the_server_is_gone(fleet: Fleet, postgres: PostgresServer) -> None:
    _, proxy = await fleet.one(traces={"url": postgres.new_database()})
    postgres.stop()
    try:
        for _ in range(20):
            assert (await proxy.ask()).status_code == 200
        listed = await proxy.client.get("/v1/traces")
        assert (listed.status_code, listed.json()["error"]["code"]) == (503, "traces_unavailable")
        assert str(postgres.port) not in listed.text
    finally:
        postgres.start()
    await until(lambda: proxy.service.traces.written == 20, 30)
    assert proxy.service.traces.dropped == 0


def test_a_server_that_answers_nothing_stops_neither_requests_nor_the_close(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_module, "ANSWER_WITHIN_S", 0.5)
    store = TraceStore(postgres.new_database(), 10)
    store.start()
    with postgres.frozen():
        began = time.monotonic()
        for number in range(1000):
            store.record(trace(str(number)))
        assert time.monotonic() - began < 1.0
        store.close()
    assert (store.written, store.dropped) == (0, 1000)


def test_a_proxy_starts_though_the_server_is_down(postgres: PostgresServer) -> None:
    target = postgres.new_database()
    postgres.stop()
    try:
        store = TraceStore(target, 10)
        store.start()
        store.record(trace("a"))
    finally:
        postgres.start()
    wait_for(lambda: store.written == 1, 30)
    store.close()


def test_what_only_the_operator_can_mend_stops_the_start(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.new_database()
    with psycopg.connect(postgres.url(), autocommit=True) as admin:
        admin.execute("DROP ROLE IF EXISTS guest")
        admin.execute("CREATE ROLE guest LOGIN PASSWORD 'guest'")
    guest = postgres.url(url.rpartition("/")[2], "guest", "guest")
    with pytest.raises(StoreError, match="permission denied"):
        TraceStore(guest, 1).start()

    with opened(url):
        pass
    for table in ("traces", "costs"):
        sql(
            url,
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO guest".replace(f" {table}", f" paretoproxy_{table}"),
        )
    with opened(guest) as store:  # the tables are there: it need not make any
        store.record(trace("a"))
    assert store.written == 1

    with pytest.raises(StoreError, match=r"not a PostgreSQL URL: postgresql://USER@HOST:PORT/DATABASE") as refused:
        TraceStore("postgresql://u:hush%zz@h/d", 1).start()
    assert "hush" not in str(refused.value) + repr(refused.value.__cause__)
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(StoreError, match=r"pip install 'paretoproxy\[postgres\]'"):
        TraceStore(url, 1).start()


def test_a_wrong_password_is_told_without_the_password(
    postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(postgres.url(password="hush")) as store:
        assert store.problem is not None
    assert "password authentication failed" in caplog.text
    assert "hush" not in caplog.text
