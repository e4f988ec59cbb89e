"""Traces in PostgreSQL, which replicas of the proxy share. Needs the extra `postgres` (psycopg 3)."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from proxy.trace_store.costs import CostSum
from proxy.trace_store.database import Database, Refused, Row, StoreError, Transaction, Unavailable
from proxy.trace_store.schema import add_costs, costs_table

if TYPE_CHECKING:
    from psycopg import Connection, Error

CONNECT_WITHIN_S = 5
STATEMENT_WITHIN_MS = 8_000
ANSWER_WITHIN_S = 10.0  # also of a server that holds its connections and says nothing
_TRACES, _COSTS = "paretoproxy_traces", "paretoproxy_costs"
_SCHEMA = (
    f"""CREATE TABLE IF NOT EXISTS {_TRACES} (
        seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id TEXT NOT NULL,
        received_at DOUBLE PRECISION NOT NULL,
        model TEXT, key TEXT, strategy TEXT, backend TEXT, outcome TEXT NOT NULL, slo_status TEXT NOT NULL,
        record JSON NOT NULL
    )""",
    f"CREATE INDEX IF NOT EXISTS {_TRACES}_id ON {_TRACES} (id)",
    f"CREATE INDEX IF NOT EXISTS {_TRACES}_received_at ON {_TRACES} (received_at)",
    costs_table(_COSTS, day="DATE", integer="BIGINT", real="DOUBLE PRECISION"),
)
_LOCK = 0x70617265746F  # of whoever makes the tables; any number that others do not use
_COPY = f"COPY {_TRACES} (id, received_at, model, key, strategy, backend, outcome, slo_status, record) FROM STDIN"
_ADD_COSTS = add_costs(_COSTS).replace("?", "%s")
# Several replicas forget at once, each other rows.
_FORGET = (
    f"DELETE FROM {_TRACES} WHERE seq IN (SELECT seq FROM {_TRACES} WHERE received_at < %s "
    "ORDER BY received_at, seq LIMIT %s FOR UPDATE SKIP LOCKED)"
)
# A server that is gone without a word is noticed, whatever the URL leaves open.
_DEFAULTS: dict[str, Any] = {
    "connect_timeout": CONNECT_WITHIN_S,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "application_name": "paretoproxy",
}


class Postgres(Database):
    traces, costs = _TRACES, _COSTS

    def __init__(self, url: str) -> None:
        self.name = "PostgreSQL"
        self._url = url
        self._writing: Connection | None = None

    def prepare(self) -> None:
        with self._translated("write"):
            self._connection()

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        with self._translated("write"):
            database = self._connection()
            with _answering(database):
                yield _Transaction(database)
                database.commit()

    def forget(self, before: float, limit: int) -> int:
        with self._translated("write"):
            database = self._connection()
            with _answering(database):
                _bound(database)
                count = database.execute(_FORGET, (before, limit)).rowcount
                database.commit()
            return count

    def read(self, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        with self._translated("read", keep=True), closing(self._connect()) as database, _answering(database):
            if not _is_made(database):
                return []
            _bound(database)
            return database.execute(query.replace("?", "%s").encode(), values).fetchall()

    def close(self) -> None:
        """Closing a psycopg connection asks the server nothing."""
        if self._writing is not None:
            self._writing.close()
            self._writing = None

    def _connection(self) -> Connection:
        if self._writing is None:
            self._writing = self._connect()
            with _answering(self._writing):
                _make(self._writing)
        return self._writing

    def _connect(self) -> Connection:
        """Raises StoreError for a URL that is none, psycopg's errors."""
        psycopg = _psycopg()
        try:
            told = psycopg.conninfo.conninfo_to_dict(self._url)
        except psycopg.Error:
            # libpq's own message would quote the URL, password and all.
            raise StoreError("traces.url is not a PostgreSQL URL: postgresql://USER@HOST:PORT/DATABASE") from None
        self.name = (
            f"PostgreSQL at {told.get('host') or 'the local socket'}, database {told.get('dbname') or 'default'}"
        )
        # Prepared statements do not survive a pooler between the two.
        connection: Connection = psycopg.connect(**{**_DEFAULTS, **told}, prepare_threshold=None)
        return connection

    @contextmanager
    def _translated(self, verb: str, *, keep: bool = False) -> Iterator[None]:
        """`keep`: the writing connection has nothing to do with it."""
        psycopg = _psycopg()
        try:
            yield
        except BaseException as error:
            if not keep:
                self.close()
            if isinstance(error, psycopg.Error):
                raise self._error(error, verb) from error
            raise

    def _error(self, error: Error, verb: str) -> StoreError:
        psycopg = _psycopg()
        message = f"cannot {verb} the trace store ({self.name}): {' '.join(str(error).split())}"
        if error.sqlstate == "53100":
            return Unavailable(message, "the disk is full")
        if isinstance(error, psycopg.DataError | psycopg.IntegrityError):
            return Refused(message)
        if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | psycopg.InternalError):
            return Unavailable(message, "PostgreSQL cannot be reached, or takes no writes")
        return StoreError(message)


class _Transaction(Transaction):
    def __init__(self, database: Connection) -> None:
        self._database = database
        self._bounded = False

    def insert(self, rows: Sequence[Row]) -> None:
        if rows:
            self._begin()
            with self._database.cursor() as cursor, cursor.copy(_COPY) as copy:
                for row in rows:
                    copy.write_row(_columns(row))

    def add(self, sums: Iterable[CostSum]) -> None:
        self._begin()
        with self._database.cursor() as cursor:
            cursor.executemany(_ADD_COSTS.encode(), [tuple(map(_storable, row.values())) for row in sums])

    def _begin(self) -> None:
        if not self._bounded:
            _bound(self._database)
            self._bounded = True


@contextmanager
def _answering(database: Connection) -> Iterator[None]:
    """Hangs up on a server that takes too long, which ends whatever waits for it."""
    with socket.socket(fileno=os.dup(database.fileno())) as line:  # the same connection, whoever closes it meanwhile
        timer = threading.Timer(ANSWER_WITHIN_S, _hang_up, [line])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def _hang_up(line: socket.socket) -> None:
    with suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)


def _columns(row: Row) -> tuple[object, ...]:
    trace = row.trace
    plan = trace.plan
    strategy, backend = (plan.strategy, plan.backend) if plan is not None else (None, None)
    named = (_storable(trace.model), trace.key, strategy, backend)
    return (trace.id, trace.received_at, *named, trace.outcome, trace.slo_status, row.record)


def _storable(value: object) -> object:
    """A model's name may be a client's word, with characters that PostgreSQL does not take."""
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value


def _bound(database: Connection) -> None:
    """For this transaction: a pooler may give the connection to others after it."""
    database.execute(f"SET LOCAL statement_timeout = {STATEMENT_WITHIN_MS}".encode())


def _make(database: Connection) -> None:
    """Where tables are missing; where they are there, a role that may make none is enough."""
    if not _is_made(database):
        database.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        for statement in _SCHEMA:
            database.execute(statement.encode())
    database.commit()


def _is_made(database: Connection) -> bool:
    row = database.execute("SELECT to_regclass(%s) IS NOT NULL AND to_regclass(%s) IS NOT NULL", (_TRACES, _COSTS))
    found = row.fetchone()
    return bool(found and found[0])


def _psycopg() -> Any:
    try:
        import psycopg
    except ImportError as error:
        raise StoreError("traces.url needs psycopg: pip install 'paretoproxy[postgres]'") from error
    return psycopg
