"""The report of one run, or of two beside each other, as one self-contained HTML page without a script."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from importlib import resources

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from profiler.loadtest import table
from profiler.loadtest.plots import Run, plots, summaries
from profiler.loadtest.report_file import Report
from profiler.loadtest.result import Result


def render(report: Report, results: Sequence[Result]) -> str:
    """The page of one run."""
    return _page("Load test", [Run("", report, results)])


def render_comparison(runs: Sequence[Run]) -> str:
    """The page of several, each under its label."""
    return _page("Load tests compared", runs)


def comparison(runs: Sequence[Run]) -> str:
    """The same as a Markdown table: one line per figure, the runs of a class side by side."""
    pairs = summaries(runs)
    rows = [["", *(name for name, _ in pairs)]]
    rows += [[name, *(cell(one) for _, one in pairs)] for name, cell in table.ROWS]
    return table.markdown([row for row in rows if set(row[1:]) != {table.BLANK}])


def _page(title: str, runs: Sequence[Run]) -> str:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.globals.update(
        table=table, notes=table.notes, probe=table.probe, found=table.found, when=_when, blank=table.BLANK
    )
    pairs = summaries(runs)
    rows = [(name, [cell(one) for _, one in pairs]) for name, cell in table.ROWS]
    return environment.from_string(_file("profiler.loadtest", "page.html.jinja")).render(
        title=title,
        style=Markup(_file("profiler.report", "page.css")),
        runs=runs,
        names=[name for name, _ in pairs],
        rows=[(name, cells) for name, cells in rows if set(cells) != {table.BLANK}],
        plots=plots(runs),
        errors=[(name, kind, count) for name, one in pairs for kind, count in one.error_kinds.items()],
    )


def _when(report: Report) -> str:
    return datetime.datetime.fromtimestamp(report.started_at, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def _file(package: str, name: str) -> str:
    return (resources.files(package) / name).read_text(encoding="utf-8")
