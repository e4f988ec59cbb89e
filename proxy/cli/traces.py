"""`paretoproxy traces`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from proxy.cli.cost_table import show_sums
from proxy.config import ConfigError, load
from proxy.cost_query import groups_of
from proxy.errors import InvalidRequest
from proxy.trace_store import TraceStore
from proxy.trace_store.costs import GroupBy


def _moment(value: str) -> datetime:
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is no time, as 2026-11-26 or 2026-11-26T12:30:00+01:00") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


@click.command("traces")
@click.argument("trace_id", required=False)
@click.option("--config", "config_path", type=click.Path(path_type=Path), help="Read the store of this configuration.")
@click.option("--path", type=click.Path(path_type=Path), help="Read this store; default: traces.db here.")
@click.option("--since", type=_moment, help="Received from then on, as 2026-11-26 or 2026-11-26T12:30:00+01:00.")
@click.option("--until", type=_moment, help="Received before then; without a zone, both are UTC.")
@click.option("--model")
@click.option("--key", help="The name of the API key that asked.")
@click.option("--after", help="List on after this trace.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 100_000))
@click.option("--json", "as_json", is_flag=True, help="One JSON record a line.")
@click.option("--sum", "as_sums", is_flag=True, help="What requests cost together, by days (UTC, both included).")
@click.option("--group-by", default="", help="With --sum: day, model, key, backend, or several with commas between.")
def command(
    trace_id: str | None,
    config_path: Path | None,
    path: Path | None,
    since: datetime | None,
    until: datetime | None,
    model: str | None,
    key: str | None,
    after: str | None,
    limit: int,
    as_json: bool,
    as_sums: bool,
    group_by: str,
) -> None:
    """Read the trace store: the newest requests, one whole (by its trace id), or what they cost together."""
    if group_by and not as_sums:
        raise click.UsageError("--group-by goes with --sum")
    store = TraceStore(_target(config_path, path), 1)
    if trace_id is not None:
        record = store.get(trace_id)
        if record is None:
            raise click.UsageError(f"no trace {trace_id} in the store")
        click.echo(json.dumps(record, indent=2))
        return
    if as_sums:
        show_sums(*_sums(store, group_by, since, until), as_json=as_json)
        return
    times = {name: moment.timestamp() for name, moment in (("since", since), ("until", until)) if moment is not None}
    records = store.page(limit, after=after, **times, equal={"model": model, "key": key}).records
    if as_json:
        for record in records:
            click.echo(json.dumps(record))
    else:
        _show(records)


def _sums(
    store: TraceStore, group_by: str, since: datetime | None, until: datetime | None
) -> tuple[list[GroupBy], list[dict[str, Any]]]:
    try:
        groups = groups_of(group_by)
    except InvalidRequest as error:
        raise click.UsageError(error.message) from error
    first, last = (moment and moment.astimezone(UTC).date() for moment in (since, until))
    return groups, store.costs(groups, first, last)


def _target(config_path: Path | None, path: Path | None) -> Path | str:
    target: Path | str | None = path
    if path is None and config_path is not None:
        target = load(config_path).traces.target
    target = target or Path("traces.db")
    if isinstance(target, Path) and not target.exists():
        raise ConfigError(f"there is no trace store at {target}; give --config or --path")
    return target


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
