"""`paretoproxy traces`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from proxy.cli.cost_table import show_sums
from proxy.config import ConfigError, load
from proxy.cost_query import day_of, groups_of
from proxy.cost_rows import GroupBy
from proxy.errors import InvalidRequest
from proxy.trace_store import TraceStore


@click.command("traces")
@click.argument("trace_id", required=False)
@click.option("--config", "config_path", type=click.Path(path_type=Path), help="Read the store of this configuration.")
@click.option("--path", type=click.Path(path_type=Path), help="Read this store; default: traces.db here.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 100_000))
@click.option("--json", "as_json", is_flag=True, help="One JSON record a line.")
@click.option("--sum", "as_sums", is_flag=True, help="What requests cost together.")
@click.option("--group-by", default="", help="With --sum: day, model, key, backend, or several with commas between.")
@click.option("--since", help="With --sum: the first day, as in 2026-01-31 (UTC).")
@click.option("--until", help="With --sum: the last day.")
def command(
    trace_id: str | None,
    config_path: Path | None,
    path: Path | None,
    limit: int,
    as_json: bool,
    as_sums: bool,
    group_by: str,
    since: str | None,
    until: str | None,
) -> None:
    """Read the trace store: the newest requests, one whole (by its trace id), or what they cost together."""
    if not as_sums and (group_by or since or until):
        raise click.UsageError("--group-by, --since and --until go with --sum")
    store = TraceStore(_path(config_path, path), 1)
    if trace_id is not None:
        record = store.get(trace_id)
        if record is None:
            raise click.UsageError(f"no trace {trace_id} in the store")
        click.echo(json.dumps(record, indent=2))
        return
    if as_sums:
        show_sums(*_sums(store, group_by, since, until), as_json=as_json)
        return
    records = store.latest(limit)
    if as_json:
        for record in records:
            click.echo(json.dumps(record))
    else:
        _show(records)


def _sums(
    store: TraceStore, group_by: str, since: str | None, until: str | None
) -> tuple[list[GroupBy], list[dict[str, Any]]]:
    try:
        groups = groups_of(group_by)
        return groups, store.costs(groups, day_of("since", since), day_of("until", until))
    except InvalidRequest as error:
        raise click.UsageError(error.message) from error


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
