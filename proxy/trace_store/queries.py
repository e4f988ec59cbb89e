"""What readers ask, in SQL that both databases understand; places are `?`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple

from proxy.trace_store.costs import AMOUNTS, COUNTS, GROUPS, LEDGERS, REASONS, UNKNOWNS, GroupBy
from proxy.trace_store.database import Database, UnknownTrace
from proxy.trace_store.records import plain

FILTERS = ("id", "model", "key", "strategy", "backend", "outcome", "slo_status")


class Page(NamedTuple):
    """Traces, newest first. `after`: where the next page begins; None at the end."""

    records: list[dict[str, Any]]
    after: str | None


def page(
    database: Database,
    limit: int,
    *,
    after: str | None = None,
    since: float | None = None,
    until: float | None = None,
    equal: Mapping[str, str | None],
) -> Page:
    """`equal`: by FILTERS. `since`, `until`: Unix seconds of arrival, the second left out. `after`: a page's, or a
    trace id. Raises UnknownTrace, StoreError."""
    limits: list[tuple[str, Any]] = [(f"{name} = ?", value) for name, value in equal.items() if value is not None]
    if unknown := set(equal) - set(FILTERS):
        raise ValueError(f"no filter {sorted(unknown)}")
    if since is not None:
        limits.append(("received_at >= ?", since))
    if until is not None:
        limits.append(("received_at < ?", until))
    if after is not None:
        limits.append(("seq < ?", _place(database, after)))
    where = " AND ".join(condition for condition, _ in limits) or "TRUE"
    values = [value for _, value in limits]
    chosen = f"SELECT seq FROM {database.traces} WHERE {where} ORDER BY seq DESC LIMIT ?"
    rows = database.read(
        f"SELECT seq, CAST(record AS TEXT) FROM {database.traces} WHERE seq IN ({chosen}) ORDER BY seq DESC",
        [*values, limit + 1],
    )
    shown = rows[:limit]
    return Page([plain(record) for _, record in shown], str(shown[-1][0]) if len(rows) > limit else None)


def _place(database: Database, after: str) -> int:
    """Several requests may have come with one trace id: the page begins after the oldest of them."""
    if after.isdecimal() and len(after) < 19:
        return int(after)
    rows = database.read(f"SELECT min(seq) FROM {database.traces} WHERE id = ?", [after])
    if not rows or rows[0][0] is None:
        raise UnknownTrace(f"no trace {after!r} to list after; take `after` from the page before")
    return int(rows[0][0])


def records(
    database: Database, limit: int, before: int | None, after: int | None, equal: Mapping[str, str | None]
) -> list[tuple[int, str]]:
    """(number, record as JSON with its defaults left out), the newest first. Numbers only grow; `before` and `after`
    leave out records from that number on, or up to it: ids may repeat, a client can send its own. `equal`: by
    FILTERS."""
    if unknown := set(equal) - set(FILTERS):
        raise ValueError(f"no filter {sorted(unknown)}")
    bounds = {"seq < ?": before, "seq > ?": after, **{f"{name} = ?": value for name, value in equal.items()}}
    limits = {condition: value for condition, value in bounds.items() if value is not None}
    chosen = f"SELECT seq FROM {database.traces} WHERE {' AND '.join(limits) or 'TRUE'} ORDER BY seq DESC LIMIT ?"
    query = f"SELECT seq, CAST(record AS TEXT) FROM {database.traces} WHERE seq IN ({chosen}) ORDER BY seq DESC"
    return [(int(number), record) for number, record in database.read(query, [*limits.values(), limit])]


def at(database: Database, number: int) -> dict[str, Any] | None:
    """By its number."""
    rows = database.read(f"SELECT CAST(record AS TEXT) FROM {database.traces} WHERE seq = ?", [number])
    return plain(rows[0][0]) if rows else None


def one(database: Database, trace_id: str) -> dict[str, Any] | None:
    """The newest with this trace id."""
    query = f"SELECT CAST(record AS TEXT) FROM {database.traces} WHERE id = ? ORDER BY seq DESC LIMIT 1"
    rows = database.read(query, [trace_id])
    return plain(rows[0][0]) if rows else None


def costs(
    database: Database, group_by: Sequence[GroupBy], since: date | None, until: date | None, key: str | None = None
) -> list[dict[str, Any]]:
    """Raises ValueError for a group that is none, StoreError."""
    if unknown := [name for name in group_by if name not in GROUPS]:
        raise ValueError(f"cannot group by {unknown[0]!r}; there are {', '.join(GROUPS)}")
    groups = list(dict.fromkeys(group_by))
    summed = [f"SUM({name})" for name in (*COUNTS, *AMOUNTS, *UNKNOWNS)] + [f"MAX({name})" for name in REASONS]
    days = [("day >= ?", since), ("day <= ?", until)]
    limits = [(condition, day.isoformat()) for condition, day in days if day is not None]
    if key is not None:
        limits.append(("key = ?", key))
    where = " AND ".join(condition for condition, _ in limits) or "TRUE"
    query = f"SELECT {', '.join([*groups, *summed])} FROM {database.costs} WHERE {where}"
    if groups:
        query += f" GROUP BY {', '.join(groups)} ORDER BY {', '.join(groups)}"
    rows = database.read(query, [value for _, value in limits])
    return [_costs(groups, row) for row in rows if row[len(groups)] is not None]


def _costs(groups: Sequence[str], row: Sequence[Any]) -> dict[str, Any]:
    labels = {name: str(value) or None for name, value in zip(groups, row, strict=False)}
    names = (*COUNTS, *AMOUNTS, *UNKNOWNS, *REASONS)
    told = dict(zip(names, row[len(groups) :], strict=True))
    counts = {name: int(told[name]) for name in COUNTS}
    ledgers = {}
    for ledger, units in LEDGERS.items():
        amounts: dict[str, Any] = {}
        for unit in units:
            amounts[unit] = _known(told, f"{ledger}_{unit}")
            amounts[f"{unit}_unknown"] = int(told[f"{ledger}_{unit}_unknown"])
        ledgers[ledger] = {**amounts, "reason": told[f"{ledger}_reason"]}
    return {**labels, **counts, "ledgers": ledgers}


def _known(told: dict[str, Any], name: str) -> float | None:
    """Null where nothing of it is known."""
    uses, unknown = int(told["uses"]), int(told[f"{name}_unknown"])
    return None if uses and unknown == uses else float(told[name])
