"""`paretoproxy plan`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from proxy.config import Config, load
from proxy.errors import ProxyError
from proxy.plan_view import plan_view
from proxy.probe import probe
from proxy.service import Service
from proxy.upstream.connection import Headers


@click.command("plan")
@click.option("--config", "config_path", type=click.Path(path_type=Path), required=True, help="The fleet's YAML file.")
@click.option("--model", help="Default: the configuration's first.")
@click.option("--prompt", type=click.Path(path_type=Path, exists=True), help="A file with the user's message.")
@click.option("--latency-ms", type=float)
@click.option("--ttft-ms", type=float)
@click.option("--tpot-ms", type=float)
@click.option("--cost-usd", type=float)
@click.option("--quality", type=float)
@click.option("--objective", type=click.Choice(["quality", "cost", "latency"]))
@click.option("--strategy")
@click.option("--n", type=int)
@click.option("--max-tokens", type=int)
@click.option("--temperature", type=float)
@click.option("--top", default=20, show_default=True, type=click.IntRange(1))
@click.option("--json", "as_json", is_flag=True)
def command(config_path: Path, model: str | None, prompt: Path | None, top: int, as_json: bool, **flags: Any) -> None:
    """Show the ranked candidates with predictions, and why each was kept or dropped. Sends no generation."""
    config = load(config_path)
    body: dict[str, Any] = {
        "model": model or config.models[0].name,
        "messages": [{"role": "user", "content": prompt.read_text() if prompt else "What is (12 + 30) * 3?"}],
    }
    if (temperature := flags.pop("temperature")) is not None:
        body["temperature"] = temperature
    view = asyncio.run(_view(config, _headers(flags), msgspec.json.encode(body)))
    if as_json:
        click.echo(json.dumps(view, indent=2))
    else:
        _show(view, top)


def _headers(flags: dict[str, Any]) -> Headers:
    names = {"strategy": "x-tts-strategy", "n": "x-tts-n", "max_tokens": "x-tts-max-tokens"}
    return [
        (names.get(name, f"x-slo-{name.replace('_', '-')}").encode(), str(value).encode())
        for name, value in flags.items()
        if value is not None
    ]


async def _view(config: Config, headers: Headers, body: bytes) -> dict[str, Any]:
    quiet = config.model_copy(update={"traces": config.traces.model_copy(update={"path": None, "url": None})})
    service = await Service.start(quiet)
    try:
        await asyncio.gather(*(probe(backend) for backend in service.catalog.backends))
        return await plan_view(service, headers, body)
    except ProxyError as error:
        raise click.UsageError(error.message) from error
    finally:
        await service.aclose()


def _show(view: dict[str, Any], top: int) -> None:
    console = Console(width=180)
    exact = "" if view["prompt_tokens_exact"] else " (estimated)"
    dropped = ", ".join(f"{count} by {limit}" for limit, count in view["dropped"].items()) or "none"
    console.print(
        f"{view['model']}, task {view['task']}: {view['prompt_tokens']:.0f} prompt tokens{exact}; "
        f"{view['considered']} candidates, dropped: {dropped}"
    )
    if view["note"]:
        console.print(f"note: {view['note']}")
    for name, reason in view["left_out"].items():
        console.print(f"left out: {name}: {reason}")
    tail = f"p{view['percentile'] * 100:g}"
    table = Table(
        "", "backend", "strategy", "n", "p50 ms", f"{tail} ms", "accuracy", "at least", "GPU s", "USD", "dropped by"
    )
    for position, row in enumerate(view["candidates"][:top], 1):
        predicted = row["predicted"]
        usd = predicted["cost_usd"]
        m = f" (m={row['params']['m']})" if "m" in row["params"] else ""
        table.add_row(
            str(position),
            row["backend"],
            row["strategy"] + m,
            str(row["n"]),
            f"{predicted['median_ms']:.0f}",
            f"{predicted['latency_ms']:.0f}",
            f"{predicted['accuracy']:.3f}" + (" prior" if predicted["prior"] else ""),
            f"{predicted['accuracy_lower']:.3f}",
            f"{predicted['gpu_seconds']:.2f}",
            "unknown" if usd is None else f"{usd:.2e}",
            ", ".join(row["dropped_by"]),
        )
    console.print(table)
