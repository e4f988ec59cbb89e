"""Statements that both databases share."""

from __future__ import annotations

from proxy.trace_store.costs import AMOUNTS, COLUMNS, COUNTS, GROUPS, REASONS, UNKNOWNS


def costs_table(name: str, *, day: str, integer: str, real: str) -> str:
    """The types are the database's own."""
    columns = [
        f"day {day} NOT NULL",
        *(f"{group} TEXT NOT NULL" for group in GROUPS[1:]),
        *(f"{count} {integer} NOT NULL" for count in (*COUNTS, *UNKNOWNS)),
        *(f"{amount} {real} NOT NULL" for amount in AMOUNTS),
        *(f"{reason} TEXT" for reason in REASONS),
        f"PRIMARY KEY ({', '.join(GROUPS)})",
    ]
    return f"CREATE TABLE IF NOT EXISTS {name} ({', '.join(columns)})"


def add_costs(name: str) -> str:
    """Adds one row of COLUMNS to what is there."""
    added = [f"{column} = c.{column} + excluded.{column}" for column in (*COUNTS, *AMOUNTS, *UNKNOWNS)]
    latest = [f"{column} = COALESCE(excluded.{column}, c.{column})" for column in REASONS]
    places = ", ".join("?" * len(COLUMNS))
    return (
        f"INSERT INTO {name} AS c ({', '.join(COLUMNS)}) VALUES ({places}) "
        f"ON CONFLICT ({', '.join(GROUPS)}) DO UPDATE SET {', '.join(added + latest)}"
    )
