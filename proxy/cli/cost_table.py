"""`paretoproxy traces --sum`: the table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table


def show_sums(groups: Sequence[str], rows: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
        return
    counts = ("requests", "answered", "refused", "failed", "gone")
    table = Table(*groups, *counts, "prompt", "completion", "GPU s", "attributed", "exclusive", "marginal", "billed")
    for row in rows:
        numbers = [row[name] for name in ("requests", "answered", "refused", "failed", "client_gone")]
        numbers += [row["prompt_tokens"], row["completion_tokens"]]
        ledgers = row["ledgers"]
        gpu_s = ledgers["attributed"]["gpu_seconds"]
        dollars = [_usd(ledgers[name]) for name in ("attributed", "exclusive", "marginal", "billed")]
        labels = [row[name] or "-" for name in groups]
        table.add_row(*labels, *map(str, numbers), "unknown" if gpu_s is None else f"{gpu_s:.3f}", *dollars)
    Console(width=200).print(table)
    for reason in sorted({led["reason"] for row in rows for led in row["ledgers"].values() if led["reason"]}):
        click.echo(f"unknown: {reason}")


def _usd(ledger: dict[str, Any]) -> str:
    """What is known, and of how many uses of a backend it is not."""
    if ledger["usd"] is None:
        return "unknown"
    missing = f" + {ledger['usd_unknown']} unknown" if ledger["usd_unknown"] else ""
    return f"${ledger['usd']:.6f}{missing}"
