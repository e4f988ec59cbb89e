"""Traces in SQLite, written by one thread off the hot path, through a bounded queue that never blocks a request.

When the queue is full, or the disk refuses, the trace is dropped, counted (`dropped`, on /metrics) and said in the
log: never silently.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from proxy.trace import Trace

log = logging.getLogger("paretoproxy.traces")

FLUSH_EVERY_S = 0.1
# The writer holds the interpreter for one batch's encoding, under a millisecond; SQLite then works without it,
# because a batch is one statement.
BATCH = 64
BATCHES_PER_COMMIT = 16
# Filters read the record itself: a column that is stored would be paid for by every request. So would members that have
# their default value: records leave them out, and reading puts them back.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS traces (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    record TEXT NOT NULL,
    key TEXT GENERATED ALWAYS AS (json_extract(record, '$.key')) VIRTUAL,
    model TEXT GENERATED ALWAYS AS (json_extract(record, '$.model')) VIRTUAL,
    strategy TEXT GENERATED ALWAYS AS (json_extract(record, '$.plan.strategy')) VIRTUAL,
    backend TEXT GENERATED ALWAYS AS (json_extract(record, '$.plan.backend')) VIRTUAL,
    outcome TEXT GENERATED ALWAYS AS (coalesce(json_extract(record, '$.outcome'), 'answered')) VIRTUAL,
    slo_status TEXT GENERATED ALWAYS AS (coalesce(json_extract(record, '$.slo_status'), 'none')) VIRTUAL,
    received_at REAL GENERATED ALWAYS AS (json_extract(record, '$.received_at')) VIRTUAL
);
CREATE INDEX IF NOT EXISTS traces_id ON traces (id);
"""
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Trace).decode
Finish = Callable[[Trace], None]


class StoreError(Exception):
    """The trace store cannot be opened; the message names the file."""


class TraceStore:
    """`record` is safe from the event loop; the thread is started by `start` and joined by `close`, which writes
    what is queued."""

    def __init__(self, path: Path | None, queue_size: int) -> None:
        self._path = path
        self._queue: deque[tuple[Trace, Finish | None]] = deque()
        self._limit = queue_size
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._said_full = False
        self.dropped = 0
        self.written = 0

    def start(self) -> None:
        """Raises StoreError."""
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _open(self._path).close()
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"cannot open the trace store {self._path}: {error}") from error
        self._thread = threading.Thread(target=self._work, name="traces", daemon=True)
        self._thread.start()

    def record(self, trace: Trace, finish: Finish | None = None) -> None:
        """Queue a finished trace. `finish` runs in the writer's thread first: work that the request need not wait
        for."""
        if self._path is None:
            if finish is not None:
                finish(trace)
            return
        if self._stop.is_set():
            self._drop(1, "the store is closed")
            return
        if len(self._queue) >= self._limit:
            self._drop(1, "the queue is full")
            return
        self._queue.append((trace, finish))

    def close(self) -> None:
        """Write what is queued, then end the thread. Blocks; call it off the loop."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _drop(self, count: int, why: str) -> None:
        self.dropped += count
        if not self._said_full:
            log.error("traces are being dropped: %s; see paretoproxy_traces_dropped_total", why)
            self._said_full = True

    def _work(self) -> None:
        assert self._path is not None
        writer = _Writer(self._path)
        with closing(writer):
            while True:
                stopping = self._stop.wait(FLUSH_EVERY_S)
                while self._queue:
                    self._write(writer, min(len(self._queue), BATCHES_PER_COMMIT * BATCH))
                if stopping and not self._queue:
                    return

    def _write(self, writer: _Writer, count: int) -> None:
        """`count` queued traces in one transaction; they are dropped, and counted, if it fails."""
        taken = [self._queue.popleft() for _ in range(count)]
        bad = 0
        try:
            with writer.transaction() as insert:
                for start in range(0, count, BATCH):
                    rows = [self._row(trace, finish) for trace, finish in taken[start : start + BATCH]]
                    bad += rows.count(None)
                    insert([row for row in rows if row is not None])
            self.written += count - bad
            self._said_full = False
        except (OSError, sqlite3.Error) as error:
            self._drop(count - bad, str(error))

    def _row(self, trace: Trace, finish: Finish | None) -> tuple[str, str] | None:
        try:
            return _row(trace, finish)
        except Exception as error:  # one bad trace costs neither the others nor the thread
            self._drop(1, f"{type(error).__name__}: {error}")
            return None

    # -- reading: opens its own connection; call it off the loop --

    def latest(self, limit: int, **equal: str | None) -> list[dict[str, Any]]:
        """The newest traces first; `equal` filters by column (model, strategy, backend, outcome, slo_status)."""
        wanted = {column: value for column, value in equal.items() if value is not None}
        where = " AND ".join(f"{column} = ?" for column in wanted) or "1"
        query = f"SELECT record FROM traces WHERE {where} ORDER BY seq DESC LIMIT ?"
        return [_plain(row[0]) for row in self._read(query, (*wanted.values(), limit))]

    def get(self, trace_id: str) -> dict[str, Any] | None:
        """By trace id; a request id finds it too."""
        rows = self._read("SELECT record FROM traces WHERE id = ? ORDER BY seq DESC LIMIT 1", (trace_id,))
        return _plain(rows[0][0]) if rows else None

    def _read(self, query: str, values: tuple[Any, ...]) -> list[tuple[str]]:
        if self._path is None or not self._path.exists():
            return []
        with closing(sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            return database.execute(query, values).fetchall()


class _Writer:
    """The writing connection. A file that was moved or replaced is opened anew: SQLite would write on to the old
    one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database: sqlite3.Connection | None = None
        self._opened: tuple[int, int] | None = None

    @contextmanager
    def transaction(self) -> Iterator[Callable[[list[tuple[str, str]]], None]]:
        """Gives a function that inserts rows; all are committed on leaving. Raises OSError, sqlite3.Error."""
        if self._database is None or self._identity() != self._opened:
            self.close()
            self._database = _open(self._path)
            self._opened = self._identity()
        with self._database as database:
            yield lambda rows: _insert(database, rows)

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino


def _insert(database: sqlite3.Connection, rows: list[tuple[str, str]]) -> None:
    if rows:
        places = ",".join(["(?,?)"] * len(rows))
        database.execute(f"INSERT INTO traces (id, record) VALUES {places}", [value for row in rows for value in row])


def _open(path: Path) -> sqlite3.Connection:
    """A connection to the store, made where there is none. Raises sqlite3.Error."""
    database = sqlite3.connect(path)
    try:
        database.execute(
            "PRAGMA page_size=16384"
        )  # of a new file: a batch fills pages, and large ones cost a fifth less
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
        database.executescript(_SCHEMA)
        _add_key(database)
    except sqlite3.Error:
        database.close()
        raise
    return database


def _add_key(database: sqlite3.Connection) -> None:
    """To a store from before keys had names: a virtual column rewrites nothing."""
    columns = {row[1] for row in database.execute("PRAGMA table_xinfo(traces)")}
    if "key" not in columns:
        database.execute(
            "ALTER TABLE traces ADD COLUMN key TEXT GENERATED ALWAYS AS (json_extract(record, '$.key')) VIRTUAL"
        )


def _row(trace: Trace, finish: Finish | None) -> tuple[str, str]:
    if finish is not None:
        finish(trace)
    return trace.id, _encode(trace).decode()


def _plain(record: str) -> dict[str, Any]:
    trace = _decode(record)
    trace.request_id = trace.request_id or trace.id
    plain: dict[str, Any] = _whole(trace)
    return plain


def _whole(value: Any) -> Any:
    """Plain data with every member, defaults included."""
    if isinstance(value, msgspec.Struct):
        return {name: _whole(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return value
