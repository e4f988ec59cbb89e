"""How the planner and the proxy grow with the fleet: time, memory, scrapes, requests. Run: make bench-scale.

Each size runs in a process of its own. Prints a table and, with --write, puts it into docs/scale.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from scale_files import CHOICE_OF_ALL, CHOICE_OF_FOUR, PROFILES, engines, write_fleet

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/scale.md"
BEGIN, END = "<!-- make bench-scale: begin -->", "<!-- make bench-scale: end -->"
SIZES = ((4, 1), (16, 4), (64, 16), (256, 64), (256, 1))
Rows = Sequence[tuple[str, str, str]]  # what, the figure's name, how it is written
ROWS: Rows = (
    ("read the configuration, s", "load_s", ".2f"),
    ("build the catalog, s", "build_s", ".2f"),
    ("memory of it, MB", "build_mb", ".0f"),
    ("memory with all tables, MB", "decided_mb", ".0f"),
    ("**decision, one model**: candidates", "m0.candidates", ",.0f"),
    ("median, ms", "m0.ms", ".2f"),
    ("p99, ms", "m0.p99_ms", ".2f"),
    ("first one, ms", "m0.cold_ms", ",.0f"),
    ("first one with another `max_tokens`, ms", "m0.cold_limit_ms", ",.0f"),
    ("**decision, any of 4 models**: candidates", f"{CHOICE_OF_FOUR}.candidates", ",.0f"),
    ("median, ms", f"{CHOICE_OF_FOUR}.ms", ".2f"),
    ("p99, ms", f"{CHOICE_OF_FOUR}.p99_ms", ".2f"),
    ("**decision, any of all models**: candidates", f"{CHOICE_OF_ALL}.candidates", ",.0f"),
    ("median, ms", f"{CHOICE_OF_ALL}.ms", ".2f"),
    ("p99, ms", f"{CHOICE_OF_ALL}.p99_ms", ".2f"),
    ("first one, ms", f"{CHOICE_OF_ALL}.cold_ms", ",.0f"),
    ("**pass-through**: choice of backend, µs", "pass.us", ",.0f"),
    ("first one, ms", "pass.cold_ms", ",.0f"),
    ("**probes**: read a metrics page, µs", "parse_us", ",.0f"),
    ("/health and /metrics of a backend, µs", "look_us", ",.0f"),
    ("all backends every 0.5 s, % of a core", "probe_cores", ".1%"),
    ("**/metrics of the proxy**: samples", "own_samples", ",.0f"),
    ("kB", "own_kb", ",.0f"),
    ("time to render, ms", "own_ms", ",.1f"),
    ("of it in the event loop, ms", "own_held_ms", ",.1f"),
    ("**whole requests**: passed through, ms each", "request.pass_ms", ".2f"),
    ("voted, 4 samples, ms each", "request.vote_ms", ".2f"),
    ("freely planned, ms each", "request.free_ms", ".2f"),
    ("**operating**: a look of the console at the fleet, ms in the event loop", "console_ms", ".2f"),
    ("its JSON, kB", "console_kb", ",.0f"),
    ("a reload after which every backend stays, ms of CPU", "reload_ms", ",.0f"),
    ("of it in the event loop, ms", "reload_held_ms", ",.1f"),
    ("process with one service, MB", "all_mb", ".0f"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.relative_to(ROOT)}")
    parser.add_argument("--sizes", help="such as 4x1,256x64; default: all")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        _measure_here(options.one)
        return
    sizes = SIZES if options.sizes is None else [_size(text) for text in options.sizes.split(",")]
    text = f"{_machine()}\n\n{table({size: _measured(*size) for size in sizes})}"
    print(text)
    if options.write:
        write(text)


def _size(text: str) -> tuple[int, int]:
    backends, _, models = text.partition("x")
    return int(backends), int(models)


def _measure_here(config: Path) -> None:
    from scale_parts import measure

    print(json.dumps(measure(config)))


def _measured(backends: int, models: int) -> dict[str, float]:
    print(f"{backends} backends, {models} models …", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder, engines() as port:
        config = write_fleet(Path(folder), backends, models, port)
        command = (sys.executable, __file__, "--one", str(config))
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def table(measured: dict[tuple[int, int], dict[str, float]]) -> str:
    """Markdown: a row a figure, a column a size."""
    heads = [f"{backends} / {models}" for backends, models in measured]
    lines = [f"| backends / models | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    for what, name, form in ROWS:
        lines.append(f"| {what} | {' | '.join(format(figures[name], form) for figures in measured.values())} |")
    page = next(iter(measured.values()))
    lines += ["", f"An engine's metrics page had {page['page_lines']:.0f} lines, {page['page_kb']:.0f} kB."]
    return "\n".join(lines)


def _machine() -> str:
    load, cores = os.getloadavg()[0], os.cpu_count()
    python = f"Python {platform.python_version()}"
    when = f"{datetime.date.today():%Y-%m-%d}"
    return (
        f"Measured {when}: {_cpu()}, {cores} cores, {python}, {len(PROFILES)} profiles; load average before {load:.1f}."
    )


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def write(text: str) -> None:
    """Between the markers of the page. Raises ValueError where they are not."""
    page = PAGE.read_text(encoding="utf-8")
    begin, end = page.index(BEGIN) + len(BEGIN), page.index(END)
    PAGE.write_text(f"{page[:begin]}\n{text}\n{page[end:]}", encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}", file=sys.stderr)


if __name__ == "__main__":
    main()
