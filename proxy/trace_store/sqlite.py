"""Traces in an SQLite file, which several processes of one host may share.

In WAL mode: what was committed outlives a killed process, and after a second a power cut (`wal_sync.py`).
"""

from __future__ import annotations

import errno
import math
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from proxy.trace_store.costs import CostSum
from proxy.trace_store.database import Database, Refused, Row, StoreError, Transaction, Unavailable
from proxy.trace_store.schema import add_costs, costs_table
from proxy.trace_store.wal_sync import WalSync

BUSY_S = 5.0  # how long another process may hold the file
WAL_LIMIT_BYTES = 64 << 20
LEAST_FREE_BYTES = 64 << 10
# Filters read the record itself: a column that is stored would be paid for by every request. So would members that have
# their default value: records leave them out, and reading puts them back.
_VIRTUAL = {
    "model": "TEXT GENERATED ALWAYS AS (json_extract(record, '$.model')) VIRTUAL",
    "strategy": "TEXT GENERATED ALWAYS AS (json_extract(record, '$.plan.strategy')) VIRTUAL",
    "backend": "TEXT GENERATED ALWAYS AS (json_extract(record, '$.plan.backend')) VIRTUAL",
    "outcome": "TEXT GENERATED ALWAYS AS (coalesce(json_extract(record, '$.outcome'), 'answered')) VIRTUAL",
    "slo_status": "TEXT GENERATED ALWAYS AS (coalesce(json_extract(record, '$.slo_status'), 'none')) VIRTUAL",
    "received_at": "REAL GENERATED ALWAYS AS (json_extract(record, '$.received_at')) VIRTUAL",
    "key": "TEXT GENERATED ALWAYS AS (json_extract(record, '$.key')) VIRTUAL",
}
_TRACES = "CREATE TABLE IF NOT EXISTS traces (seq INTEGER PRIMARY KEY, id TEXT NOT NULL, record TEXT NOT NULL)"
_INDEXES = (
    "CREATE INDEX IF NOT EXISTS traces_id ON traces (id)",
    "CREATE INDEX IF NOT EXISTS traces_received_at ON traces (received_at)",
)
_COSTS = costs_table("costs", day="TEXT", integer="INTEGER", real="REAL") + " WITHOUT ROWID"
_ADD_COSTS = add_costs("costs")
# The oldest are found by the index, so that a tick's work does not grow with the store.
_FORGET = (
    "DELETE FROM traces WHERE seq IN (SELECT seq FROM traces WHERE received_at < ? ORDER BY received_at, seq LIMIT ?)"
)
_NOT_NOW = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR}
_NOT_THESE_ROWS = {sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH}


class Sqlite(Database):
    traces, costs = "traces", "costs"

    def __init__(self, path: Path, max_bytes: int | None = None) -> None:
        """`max_bytes`: of what is in use; a file does not shrink, its free pages are written again."""
        self.name = str(path)
        self._path = path
        self._max_bytes = max_bytes
        self._writing: sqlite3.Connection | None = None
        self._opened: tuple[int, int] | None = None
        self._sync: WalSync | None = None

    def prepare(self) -> None:
        with self._translated("open"):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _open(self._path).close()

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        with self._translated():
            database = self._connection()
            with database:
                yield _Transaction(database)
            if self._sync is None:
                self._sync = WalSync(self._path)
            self._sync.written()

    def forget(self, before: float, limit: int) -> int:
        with self._translated(), self._connection() as database:
            gone = database.execute(_FORGET, (before, limit)).rowcount
            if self._max_bytes is not None and (beyond := _beyond(database, self._max_bytes)) > 0:
                gone += database.execute(_FORGET, (math.inf, min(beyond, limit - gone))).rowcount
            return gone

    def read(self, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        if not self._path.exists():
            return []
        try:
            with closing(sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True)) as database:
                return database.execute(query, values).fetchall()
        except sqlite3.Error as error:
            if "no such table" in str(error):
                return []
            raise self._error(error, "read") from error

    def close(self) -> None:
        self._let_go()
        if self._sync is not None:
            self._sync.stop()
            self._sync = None

    def _let_go(self) -> None:
        if self._writing is not None:
            with suppress(sqlite3.Error):  # what was committed is on disk; the next one who opens the file tidies up
                self._writing.close()
            self._writing = None

    def _connection(self) -> sqlite3.Connection:
        """A file that was moved or replaced is opened anew: SQLite would write on to the old one."""
        if self._writing is None or self._identity() != self._opened:
            self._let_go()
            self._writing = _open(self._path)
            self._opened = self._identity()
        return self._writing

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    @contextmanager
    def _translated(self, verb: str = "write") -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            self._let_go()
            raise self._error(error, verb) from error

    def _error(self, error: Exception, verb: str) -> StoreError:
        message = f"cannot {verb} the trace store {self._path}: {error}"
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        full = code == sqlite3.SQLITE_FULL or (isinstance(error, OSError) and error.errno == errno.ENOSPC)
        if full or (code == sqlite3.SQLITE_IOERR and self._no_space()):
            return Unavailable(message, "the disk is full")
        if code in _NOT_NOW:
            return Unavailable(message, "the file is locked or its disk fails")
        if code in _NOT_THESE_ROWS or isinstance(error, sqlite3.DataError | sqlite3.InterfaceError):
            return Refused(message)
        return StoreError(message)

    def _no_space(self) -> bool:
        """A full disk shows as a failing one where SQLite needs room for its index of the log."""
        with suppress(OSError):
            return shutil.disk_usage(self._path.parent).free < LEAST_FREE_BYTES
        return False


class _Transaction(Transaction):
    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def insert(self, rows: Sequence[Row]) -> None:
        """One statement: SQLite works on it without the interpreter."""
        if rows:
            places = ",".join(["(?,?)"] * len(rows))
            values = [value for row in rows for value in (row.trace.id, row.record)]
            self._database.execute(f"INSERT INTO traces (id, record) VALUES {places}", values)

    def add(self, sums: Iterable[CostSum]) -> None:
        self._database.executemany(_ADD_COSTS, [row.values() for row in sums])


def _open(path: Path) -> sqlite3.Connection:
    """A connection to the store, made where there is none. Raises sqlite3.Error."""
    database = sqlite3.connect(path, timeout=BUSY_S)
    try:
        # Of a new file: a batch fills pages, and large ones cost a fifth less.
        database.execute("PRAGMA page_size=16384")
        _use_wal(database)
        database.execute("PRAGMA synchronous=NORMAL")
        database.execute(f"PRAGMA journal_size_limit={WAL_LIMIT_BYTES}")
        _make(database)
    except sqlite3.Error:
        database.close()
        raise
    return database


def _beyond(database: sqlite3.Connection, max_bytes: int) -> int:
    """How many traces are too many, if all are of one size. Numbers are in order, so none need be counted."""
    size, pages, free = (
        int(database.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("page_size", "page_count", "freelist_count")
    )
    used = size * (pages - free)
    first, last = database.execute("SELECT min(seq), max(seq) FROM traces").fetchone()
    if used <= max_bytes or first is None:
        return 0
    return math.ceil(int(last - first + 1) * (1 - max_bytes / used))


def _use_wal(database: sqlite3.Connection) -> None:
    """Of two processes that make the file at once, one is refused without having waited."""
    give_up_at = time.monotonic() + BUSY_S
    while True:
        try:
            database.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up_at:
                raise
            time.sleep(0.02)


def _make(database: sqlite3.Connection) -> None:
    """Tables, columns and indexes that are missing, also in a file of an earlier version."""
    if _is_made(database):
        return
    database.execute("BEGIN IMMEDIATE")
    with database:
        database.execute(_TRACES)
        there = _columns(database)
        for name, kind in _VIRTUAL.items():
            if name not in there:
                database.execute(f"ALTER TABLE traces ADD COLUMN {name} {kind}")
        for statement in (*_INDEXES, _COSTS):
            database.execute(statement)


def _is_made(database: sqlite3.Connection) -> bool:
    """So that opening a whole store writes nothing, and needs no space."""
    named = {row[0] for row in database.execute("SELECT name FROM sqlite_master")}
    return {"traces", "traces_id", "traces_received_at", "costs"} <= named and _columns(database) >= set(_VIRTUAL)


def _columns(database: sqlite3.Connection) -> set[str]:
    return {row[1] for row in database.execute("PRAGMA table_xinfo(traces)")}
