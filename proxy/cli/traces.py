"""`paretoproxy traces`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from proxy.config import ConfigError, load
from proxy.trace_store import TraceStore


@click.command("traces")
@click.argument("trace_id", required=False)
@click.option("--config", "config_path", type=click.Path(path_type=Path), help="Read the store of this configuration.")
@click.option("--path", type=click.Path(path_type=Path), help="Read this store; default: traces.db here.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 100_000))
@click.option("--json", "as_json", is_flag=True, help="One JSON record a line.")
def command(trace_id: str | None, config_path: Path | None, path: Path | None, limit: int, as_json: bool) -> None:
    """Read the trace store: the newest requests, or one whole (by its trace id)."""
    store = TraceStore(_path(config_path, path), 1)
    if trace_id is not None:
        record = store.get(trace_id)
        if record is None:
            raise click.UsageError(f"no trace {trace_id} in the store")
        click.echo(json.dumps(record, indent=2))
        return
    records = store.latest(limit)
    if as_json:
        for record in records:
            click.echo(json.dumps(record))
    else:
        _show(records)


def _path(config_path: Path | None, path: Path | None) -> Path:
    if path is None and config_path is not None:
        path = load(config_path).traces.path
    path = path or Path("traces.db")
    if not path.exists():
        raise ConfigError(f"there is no trace store at {path}; give --config or --path")
    return path


def _show(records: list[dict[str, Any]]) -> None:
    table = Table("trace", "model", "plan", "backend", "outcome", "SLO", "latency", "tokens", "GPU s", "USD")
    for record in records:
        plan = record["plan"] or {}
        attributed = (record["ledgers"] or {}).get("attributed", {})
        usd = attributed.get("usd")
        table.add_row(
            record["id"],
            record["model"] or "",
            f"{plan['strategy']}:{plan['n']}" if plan else "",
            plan.get("backend", ""),
            record["outcome"],
            record["slo_status"],
            f"{record['latency_ms']:.0f} ms",
            str(record["completion_tokens"]),
            f"{attributed.get('gpu_seconds') or 0:.3f}",
            f"{usd:.2e}" if usd is not None else "unknown",
        )
    Console(width=200).print(table)
