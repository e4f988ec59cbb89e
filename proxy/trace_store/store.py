"""The queue of finished traces and its writer thread: off the hot path, bounded, never blocking a request.

While the database refuses (disk full, server gone), finished traces wait in memory, as many as the queue may hold;
those beyond are dropped, counted (`dropped`, on /metrics) and said in the log: never silently. `problem` says why.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import date
from pathlib import Path
from random import Random
from typing import Any

from proxy.trace import Trace
from proxy.trace_store import queries
from proxy.trace_store.costs import Costs, GroupBy, summed
from proxy.trace_store.database import Database, Refused, Row, StoreError, Unavailable
from proxy.trace_store.queries import Page
from proxy.trace_store.records import encoded

log = logging.getLogger("paretoproxy.traces")

FLUSH_EVERY_S = 0.1
# The writer holds the interpreter for one batch's encoding, under a millisecond; the database then works without it.
BATCH = 64
CHUNK = 16 * BATCH  # of one transaction
RETRY_FIRST_S, RETRY_MOST_S = 0.1, 5.0
SAY_EVERY_S = 60.0
CLOSE_WITHIN_S = 15.0
FORGET_AT_ONCE = 1000  # of one flush: so many times ten a second keep up with any load that could be written
FORGET_PAUSE_S = 10.0  # once nothing old is left
_DAY_S = 86400.0

Finish = Callable[[Trace], None]


class _Chunk:
    """Traces that become one transaction."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.costs = Costs()


class TraceStore:
    """`record` belongs to the event loop; the thread is started by `start` and joined by `close`, which writes what is
    queued. `target`: a file, a PostgreSQL URL, or None to keep nothing; `max_bytes`: of the file. Reading opens a
    connection of its own and blocks: call it off the loop."""

    def __init__(
        self,
        target: Path | str | None,
        queue_size: int,
        retention_days: float | None = None,
        *,
        max_bytes: int | None = None,
    ) -> None:
        self._database = _database(target, max_bytes)
        self._queue: deque[tuple[Trace, Finish | None, str]] = deque()
        self._pending: deque[_Chunk] = deque()  # the writer's; more than one only while the database refuses
        self._limit = queue_size
        self._retention_s = None if retention_days is None else retention_days * _DAY_S
        self._forgets = retention_days is not None or max_bytes is not None
        self._forget_at = 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._said_at: float | None = None
        self._turned_away = self._lost = 0  # counted apart: on the loop, in the thread
        self._failures, self._retry_at = 0, 0.0
        self._random = Random()
        self.problem: str | None = None  # why nothing can be written now; for everyone's eyes
        self.written = 0
        self.forgotten = 0

    @property
    def dropped(self) -> int:
        return self._turned_away + self._lost

    @property
    def waiting(self) -> int:
        """Traces not yet written."""
        return len(self._queue) + sum(len(chunk.rows) for chunk in list(self._pending))

    def start(self) -> None:
        """A store that is only unavailable is no reason not to serve: it is tried again. Raises StoreError."""
        if self._database is None:
            return
        try:
            self._database.prepare()
        except Unavailable as error:
            self._unavailable(error)
        except StoreError:
            self._database.close()
            raise
        self._thread = threading.Thread(target=self._work, args=(self._database,), name="traces", daemon=True)
        self._thread.start()

    def record(self, trace: Trace, finish: Finish | None = None, model: str | None = None) -> None:
        """Queue a finished trace. `finish` runs in the writer's thread first: work that the request need not wait for.
        `model`: what its costs are booked under, a name from the configuration; default: the trace's own."""
        if self._database is None:
            if finish is not None:
                finish(trace)
            return
        if self._stop.is_set():
            self._turn_away("the store is closed")
            return
        if len(self._queue) >= self._limit:
            self._turn_away("the queue is full")
            return
        self._queue.append((trace, finish, trace.model or "" if model is None else model))

    def close(self) -> None:
        """Write what is queued, then end the thread; what cannot be written is counted as dropped. Blocks, but not on a
        database that never answers."""
        self._stop.set()
        if self._thread is None:
            return
        self._thread.join(CLOSE_WITHIN_S)
        if self._thread.is_alive():
            self._turned_away += self.waiting
            log.error("%d traces are lost: the trace store did not answer within %g s", self.waiting, CLOSE_WITHIN_S)

    # -- reading --

    def latest(self, limit: int, **equal: str | None) -> list[dict[str, Any]]:
        """The newest traces first; `equal` filters by column (model, key, strategy, backend, outcome, slo_status)."""
        return self.page(limit, equal=equal).records

    def page(
        self,
        limit: int,
        *,
        after: str | None = None,
        since: float | None = None,
        until: float | None = None,
        equal: Mapping[str, str | None] | None = None,
    ) -> Page:
        """As `latest`, within times of arrival (Unix seconds, `until` left out), from `after` on: what the page before
        gave, or a trace id. Raises StoreError, UnknownTrace among them."""
        if self._database is None:
            return Page([], None)
        return queries.page(self._database, limit, after=after, since=since, until=until, equal=equal or {})

    def records(
        self, limit: int, before: int | None = None, after: int | None = None, **equal: str | None
    ) -> list[tuple[int, str]]:
        """(number, record as JSON with its defaults left out), the newest first. Numbers only grow; `before` and
        `after` leave out records from that number on, or up to it. Raises StoreError."""
        return queries.records(self._database, limit, before, after, equal) if self._database is not None else []

    def at(self, number: int) -> dict[str, Any] | None:
        """By its number. Raises StoreError."""
        return queries.at(self._database, number) if self._database is not None else None

    def get(self, trace_id: str) -> dict[str, Any] | None:
        """The newest with this id. Raises StoreError."""
        return queries.one(self._database, trace_id) if self._database is not None else None

    def costs(
        self,
        group_by: Sequence[GroupBy],
        since: date | None = None,
        until: date | None = None,
        key: str | None = None,
    ) -> list[dict[str, Any]]:
        """Cost sums over days (UTC, both included), one row per group, in order: the groups' values (null: none),
        counts of requests by outcome, `uses`, tokens, and `ledgers`, whose amounts are null where nothing of them is
        known; of one `key`, or of all. See costs.py. Raises StoreError; ValueError for a group that is none."""
        return queries.costs(self._database, group_by, since, until, key) if self._database is not None else []

    # -- the thread --

    def _work(self, database: Database) -> None:
        with closing(database):
            while True:
                stopping = self._stop.wait(FLUSH_EVERY_S)
                self._flush(database, last=stopping)
                if stopping:
                    return
                self._forget(database)

    def _flush(self, database: Database, *, last: bool) -> None:
        """Everything that waits, unless the database refuses."""
        while self._queue or self._pending:
            if time.monotonic() < self._retry_at and not last:
                self._take_in()
                return
            if not self._write(database):
                self._take_in()
                if last:
                    self._lose(self.waiting, "the store closed before they could be written")
                    self._pending.clear()
                return

    def _write(self, database: Database) -> bool:
        """One chunk in one transaction, filled up from the queue as it goes. False: the database refuses."""
        if not self._pending:
            self._pending.append(_Chunk())
        chunk = self._pending[0]
        full = min(CHUNK, len(chunk.rows) + min(len(self._queue), self._room()))
        try:
            try:
                with database.transaction() as transaction:
                    for start in range(0, len(chunk.rows), BATCH):
                        transaction.insert(chunk.rows[start : start + BATCH])
                    while self._queue and len(chunk.rows) < full:
                        transaction.insert(self._encode(chunk, full - len(chunk.rows)))
                    if chunk.rows:
                        transaction.add(chunk.costs)
                self.written += len(chunk.rows)
            except (Refused, ValueError, TypeError, OverflowError):
                self._write_each(database, chunk)
        except StoreError as error:
            self._unavailable(error)
            return False
        self._pending.popleft()
        self._available()
        return True

    def _write_each(self, database: Database, chunk: _Chunk) -> None:
        """One trace that will never be accepted costs the others nothing. Raises StoreError."""
        while chunk.rows:
            row = chunk.rows[0]
            try:
                with database.transaction() as transaction:
                    transaction.insert([row])
                    transaction.add(summed([(row.trace, row.model)]))
                self.written += 1
            except (Refused, ValueError, TypeError, OverflowError) as error:
                self._lose(1, str(error))
            except StoreError:
                chunk.costs = summed([(row.trace, row.model) for row in chunk.rows])
                raise
            del chunk.rows[0]

    def _take_in(self) -> None:
        """Empty the queue without the database: requests are finished and counted all the same, and those that memory
        has no place for are dropped."""
        while self._queue:
            if not self._pending or len(self._pending[-1].rows) >= CHUNK:
                self._pending.append(_Chunk())
            room = self._room()
            if room > 0:
                self._encode(self._pending[-1], room)
            else:
                beyond = len(self._encode(_Chunk()))
                self._lose(beyond, "the store cannot be written, and the queue is full")

    def _room(self) -> int:
        """How many more may wait for the database."""
        return max(0, self._limit - sum(len(chunk.rows) for chunk in self._pending))

    def _encode(self, chunk: _Chunk, most: int = BATCH) -> list[Row]:
        """At most `most` queued traces, finished and added to the chunk."""
        rows = []
        for _ in range(min(len(self._queue), BATCH, most)):
            trace, finish, model = self._queue.popleft()
            try:
                if finish is not None:
                    finish(trace)
                row = Row(trace, encoded(trace), model)
                chunk.costs.add(trace, model)
            except Exception as error:  # one bad trace costs neither the others nor the thread
                self._lose(1, f"{type(error).__name__}: {error}")
                continue
            chunk.rows.append(row)
            rows.append(row)
        return rows

    def _forget(self, database: Database) -> None:
        """A bounded number of traces that are older than they are kept, or have no place; the sums stay."""
        if not self._forgets or self.problem is not None or time.monotonic() < self._forget_at:
            return
        try:
            before = 0.0 if self._retention_s is None else time.time() - self._retention_s
            gone = database.forget(before, FORGET_AT_ONCE)
        except StoreError as error:
            self._unavailable(error)
            return
        self.forgotten += gone
        if gone < FORGET_AT_ONCE:
            self._forget_at = time.monotonic() + FORGET_PAUSE_S

    # -- telling --

    def _turn_away(self, why: str) -> None:
        self._turned_away += 1
        self._say(why)

    def _lose(self, count: int, why: str) -> None:
        self._lost += count
        self._say(why)

    def _say(self, why: str) -> None:
        """Once a minute at most."""
        now = time.monotonic()
        if self._said_at is None or now - self._said_at >= SAY_EVERY_S:
            self._said_at = now
            log.error("traces are being dropped: %s; see paretoproxy_traces_dropped_total", why)

    def _unavailable(self, error: StoreError) -> None:
        """Try again after a while that doubles, and differs from process to process."""
        if self.problem is None:
            log.error("%s; up to %d traces are kept meanwhile", error, self._limit)
        self.problem = error.brief if isinstance(error, Unavailable) else "the store cannot be used; the log says why"
        wait_s = min(RETRY_MOST_S, RETRY_FIRST_S * 2**self._failures)
        self._failures = min(self._failures + 1, 30)
        self._retry_at = time.monotonic() + wait_s * self._random.uniform(0.5, 1.0)

    def _available(self) -> None:
        if self.problem is not None:
            log.warning("traces are written again; %d were dropped since the start", self.dropped)
            self.problem, self._failures, self._retry_at = None, 0, 0.0


def _database(target: Path | str | None, max_bytes: int | None) -> Database | None:
    """What is not used is not imported."""
    if target is None:
        return None
    if isinstance(target, Path):
        from proxy.trace_store.sqlite import Sqlite

        return Sqlite(target, max_bytes)
    from proxy.trace_store.postgres import Postgres

    return Postgres(target)
