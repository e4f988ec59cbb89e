"""`paretoproxy report`."""

from __future__ import annotations

from pathlib import Path

import click

from profiler.report import ReportError
from profiler.report.points import Comparison
from proxy.config import Config, load


@click.command("report")
@click.option("--config", "config_path", type=click.Path(path_type=Path), help="The fleet's YAML file.")
@click.option("--profiles", type=click.Path(path_type=Path), help="A folder of profiles, where there is no config.")
@click.option("--quality", type=click.Path(path_type=Path), help="With --profiles: a folder of quality tables.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="The HTML page to write.")
@click.option("--markdown", is_flag=True, help="Print the choice under several deadlines as Markdown.")
@click.option(
    "--slo-ms", "slos", multiple=True, type=click.FloatRange(min=0, min_open=True), help="A deadline; several."
)
@click.option("--model", "models", multiple=True, help="Only this model; several. Default: all.")
@click.option("--prompt-tokens", type=click.FloatRange(min=0), help="Default: the mean of each task.")
@click.option("--load", "busy", default=0.0, show_default=True, type=click.FloatRange(min=0), help="Others' branches.")
def command(
    config_path: Path | None,
    profiles: Path | None,
    quality: Path | None,
    out: Path | None,
    markdown: bool,
    slos: tuple[float, ...],
    models: tuple[str, ...],
    prompt_tokens: float | None,
    busy: float,
) -> None:
    """Show what to run within a deadline, and what the usual advice would have cost: one HTML page, or Markdown."""
    from proxy.report import comparisons

    if out is None and not markdown:
        raise click.UsageError("give --out report.html, --markdown or both")
    found = comparisons(_fleet(config_path, profiles, quality), prompt_tokens=prompt_tokens, load=busy, models=models)
    if markdown:
        _print(found, slos)
    if out is not None:
        _write(found, slos, out)
        click.echo(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB)", err=True)


def _fleet(config_path: Path | None, profiles: Path | None, quality: Path | None) -> Config:
    from proxy.report import config_of

    if (config_path is None) == (profiles is None):
        raise click.UsageError("give either --config or --profiles")
    if config_path is not None:
        if quality is not None:
            raise click.UsageError("--quality goes with --profiles; a config names its own tables")
        return load(config_path)
    assert profiles is not None
    return config_of(profiles, quality)


def _print(found: list[Comparison], slos: tuple[float, ...]) -> None:
    from profiler.report import page
    from profiler.report.markdown import table

    for index, comparison in enumerate(found):
        if len(found) > 1:
            names = ", ".join(model.model for model in comparison.models)
            click.echo(f"{chr(10) if index else ''}{names} on {comparison.task or 'any task'}:\n")
        click.echo(table(comparison, slos or page.deadlines(comparison)))


def _write(found: list[Comparison], slos: tuple[float, ...], out: Path) -> None:
    from profiler.report import page

    html = page.render(found, slos)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(html, encoding="utf-8")
    except OSError as error:
        raise ReportError(f"cannot write {out}: {error.strerror}") from error
