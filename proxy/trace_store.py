"""Traces in SQLite, written by one thread off the hot path, through a bounded queue that never blocks a request.

When the queue is full, or the disk refuses, the trace is dropped, counted (`dropped`, on /metrics) and said in the log: never silently.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from proxy.trace import Trace

log = logging.getLogger("paretoproxy.traces")

FLUSH_EVERY_S = 0.1
BATCH = 500
_SCHEMA = """
CREATE TABLE IF NOT EXISTS traces (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    received_at REAL NOT NULL,
    model TEXT,
    strategy TEXT,
    backend TEXT,
    outcome TEXT NOT NULL,
    slo_status TEXT NOT NULL,
    latency_ms REAL NOT NULL,
    cost_usd REAL,
    record BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS traces_id ON traces (id);
CREATE INDEX IF NOT EXISTS traces_time ON traces (received_at);
"""
_encode = msgspec.json.Encoder().encode
Finish = Callable[[Trace], None]


class StoreError(Exception):
    """The trace store cannot be opened; the message names the file."""


class TraceStore:
    """`record` is safe from the event loop; the thread is started by `start` and joined by `close`, which writes what is queued."""

    def __init__(self, path: Path | None, queue_size: int) -> None:
        self._path = path
        self._queue: deque[tuple[Trace, Finish | None]] = deque()
        self._limit = queue_size
        self._stop = threading.Event()
        self._idle = threading.Condition()
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
        """Queue a finished trace. `finish` runs in the writer's thread first: work that the request need not wait for."""
        if self._path is None:
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
                    self._write(writer, [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))])
                if stopping and not self._queue:
                    return

    def _write(self, writer: _Writer, batch: list[tuple[Trace, Finish | None]]) -> None:
        rows = [row for trace, finish in batch if (row := self._row(trace, finish)) is not None]
        try:
            writer.write(rows)
            self.written += len(rows)
            self._said_full = False
        except (OSError, sqlite3.Error) as error:
            self._drop(len(rows), str(error))

    def _row(self, trace: Trace, finish: Finish | None) -> tuple[Any, ...] | None:
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
        return [msgspec.json.decode(row[0]) for row in self._read(query, (*wanted.values(), limit))]

    def get(self, trace_id: str) -> dict[str, Any] | None:
        """By trace id; a request id finds it too."""
        rows = self._read("SELECT record FROM traces WHERE id = ? ORDER BY seq DESC LIMIT 1", (trace_id,))
        return msgspec.json.decode(rows[0][0]) if rows else None

    def _read(self, query: str, values: tuple[Any, ...]) -> list[tuple[bytes]]:
        if self._path is None or not self._path.exists():
            return []
        with closing(sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            return database.execute(query, values).fetchall()


class _Writer:
    """The writing connection. A file that was moved or replaced is opened anew: SQLite would write on to the old one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database: sqlite3.Connection | None = None
        self._opened: tuple[int, int] | None = None

    def write(self, rows: list[tuple[Any, ...]]) -> None:
        """Raises OSError, sqlite3.Error."""
        if self._database is None or self._identity() != self._opened:
            self.close()
            self._database = _open(self._path)
            self._opened = self._identity()
        with self._database as database:
            database.executemany("INSERT INTO traces VALUES (NULL,?,?,?,?,?,?,?,?,?,?)", rows)

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


def _open(path: Path) -> sqlite3.Connection:
    """A connection to the store, made where there is none. Raises sqlite3.Error."""
    database = sqlite3.connect(path)
    try:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
        database.executescript(_SCHEMA)
    except sqlite3.Error:
        database.close()
        raise
    return database


def _row(trace: Trace, finish: Finish | None) -> tuple[Any, ...]:
    if finish is not None:
        finish(trace)
    plan = trace.plan
    return (
        trace.id,
        trace.received_at,
        trace.model,
        plan.strategy if plan else None,
        plan.backend if plan else None,
        trace.outcome,
        trace.slo_status,
        trace.latency_ms,
        trace.cost_usd,
        _encode(trace),
    )
