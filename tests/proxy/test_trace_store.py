"""Traces on disk: written off the request's way, never lost silently."""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from proxy.trace import PlanTrace, Trace
from proxy.trace_store import StoreError, TraceStore, wal_sync
from proxy.trace_store import store as store_module


def _trace(trace_id: str, model: str = "m", strategy: str | None = None) -> Trace:
    plan = None
    if strategy is not None:
        plan = PlanTrace("b", model, strategy, 1, 1)
    return Trace(trace_id, 1.5, "/v1/chat/completions", f"req-{trace_id}", model=model, plan=plan, latency_ms=9.0)


@contextmanager
def _open(path: Path, queue_size: int = 100) -> Iterator[TraceStore]:
    store = TraceStore(path, queue_size)
    store.start()
    try:
        yield store
    finally:
        store.close()


def _block(store: TraceStore) -> threading.Event:
    """Hold the writer in a trace's `finish` until the event is set, so that the queue fills."""
    reached, go_on = threading.Event(), threading.Event()

    def hold(trace: Trace) -> None:
        reached.set()
        go_on.wait(5)

    store.record(_trace("held"), hold)
    assert reached.wait(5)
    return go_on


def test_close_writes_what_is_queued_and_it_reads_back_newest_first(tmp_path: Path) -> None:
    with _open(tmp_path / "traces.db") as store:
        for number in range(3):
            store.record(_trace(f"t{number}", strategy="none"))
    assert (store.written, store.dropped) == (3, 0)
    assert [row["id"] for row in store.latest(2)] == ["t2", "t1"]
    found = store.get("t0")
    assert found is not None
    assert (found["request_id"], found["plan"]["strategy"], found["latency_ms"]) == ("req-t0", "none", 9.0)
    assert store.get("none") is None


def test_rows_are_filtered_by_column(tmp_path: Path) -> None:
    with _open(tmp_path / "traces.db") as store:
        store.record(_trace("a", "m1", "none"))
        store.record(_trace("b", "m2", "none"))
        store.record(_trace("c", "m2"))
    assert [row["id"] for row in store.latest(9, model="m2", strategy="none", backend=None)] == ["b"]
    assert store.latest(9, outcome="failed") == []


def test_finish_runs_in_the_writers_thread_before_the_trace_is_written(tmp_path: Path) -> None:
    threads: list[str] = []

    def finish(trace: Trace) -> None:
        threads.append(threading.current_thread().name)
        trace.completion_tokens = 42

    with _open(tmp_path / "traces.db") as store:
        store.record(_trace("a"), finish)
    assert threads == ["traces"]
    assert store.latest(1)[0]["completion_tokens"] == 42


def test_a_full_queue_drops_counts_and_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with _open(tmp_path / "traces.db", queue_size=2) as store:
        go_on = _block(store)
        for number in range(5):
            store.record(_trace(f"t{number}"))
        go_on.set()
    assert (store.written, store.dropped) == (3, 3)
    assert [row["id"] for row in store.latest(9)] == ["t1", "t0", "held"]
    assert [record.message for record in caplog.records].count(
        "traces are being dropped: the queue is full; see paretoproxy_traces_dropped_total"
    ) == 1


def test_one_trace_that_cannot_be_finished_costs_neither_the_others_nor_the_thread(tmp_path: Path) -> None:
    def broken(trace: Trace) -> None:
        raise KeyError("usage")

    with _open(tmp_path / "traces.db") as store:
        go_on = _block(store)
        store.record(_trace("a"))
        store.record(_trace("b"), broken)
        store.record(_trace("c"))
        go_on.set()
    assert [row["id"] for row in store.latest(9)] == ["c", "a", "held"]
    assert (store.written, store.dropped) == (3, 1)


def _execute(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(statement)


def test_what_the_disk_refuses_is_counted_and_writing_goes_on_after(tmp_path: Path) -> None:
    path = tmp_path / "traces.db"
    with _open(path) as store:
        go_on = _block(store)
        _execute(path, "CREATE TRIGGER full BEFORE INSERT ON traces BEGIN SELECT RAISE(ABORT, 'disk full'); END")
        go_on.set()
        go_on = _block(store)  # held in the next batch: the first was refused by now
        assert store.dropped == 1
        _execute(path, "DROP TRIGGER full")
        go_on.set()
    assert (store.written, store.dropped) == (1, 1)
    assert len(store.latest(9)) == 1


@pytest.mark.parametrize("replacement", [None, b"not a database"])
def test_a_database_deleted_or_replaced_under_it_is_noticed(tmp_path: Path, replacement: bytes | None) -> None:
    path = tmp_path / "traces.db"
    with _open(path) as store:
        _block(store).set()
        _block(store).set()  # the first is written now
        path.rename(tmp_path / "moved.db")
        if replacement is not None:
            path.write_bytes(replacement * 100)
        store.record(_trace("after"))
    if replacement is None:
        assert "after" in [row["id"] for row in store.latest(9)]  # in a new file, not in the moved one
    else:
        assert store.dropped >= 1


def test_the_writer_outlives_a_quiet_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "FLUSH_EVERY_S", 0.001)
    with _open(tmp_path / "traces.db") as store:
        _block(store).set()
        assert store._thread is not None
        store._thread.join(0.05)  # many flushes of nothing
        _block(store).set()
    assert store.written == 2


def test_a_path_that_cannot_be_a_database_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "traces.db"):
        with pytest.raises(StoreError, match=f"cannot open the trace store {path}"):
            TraceStore(path, 10).start()


def test_an_odd_file_name_is_read_back_from_where_it_was_written(tmp_path: Path) -> None:
    with _open(tmp_path / "new folder" / "a#b%20?c.db") as store:
        store.record(_trace("a"))
    assert [row["id"] for row in store.latest(9)] == ["a"]


def test_without_a_path_nothing_is_kept_or_counted() -> None:
    store = TraceStore(None, 1)
    store.start()
    for _ in range(3):
        store.record(_trace("a"))
    store.close()
    assert (store.dropped, store.latest(9), store.get("a")) == (0, [], None)


def test_a_trace_after_the_close_is_counted_as_dropped(tmp_path: Path) -> None:
    with _open(tmp_path / "traces.db") as store:
        pass
    store.record(_trace("late"))
    assert store.dropped == 1


def test_the_log_is_brought_to_the_disk_beside_the_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for many commits, and not again while nothing is written."""
    synced: list[tuple[str, str]] = []
    done = threading.Event()

    def fsync(file: int) -> None:
        synced.append((os.readlink(f"/proc/self/fd/{file}"), threading.current_thread().name))
        done.set()

    monkeypatch.setattr(wal_sync, "EVERY_S", 0.02)
    monkeypatch.setattr(wal_sync.os, "fsync", fsync)
    with _open(tmp_path / "traces.db") as store:
        store.record(_trace("a"))
        assert done.wait(5)
        threading.Event().wait(0.1)
    assert synced == [(str(tmp_path / "traces.db-wal"), "traces-sync")]
