"""Benchmarks of the data path: paretoproxy beside nginx, vllm-router and no proxy at all.

    python tests/benchmarks/run.py [--seconds S] [--rounds N] [--only ns,stream,fan] [--stacks nginx,…]

The stacks take turns within each round, so that the machine's moods hit all of them alike; read the ratios.
Parts: `ns` non-streamed answers at 1, 16 and 64 connections; `stream` chunks relayed per second with 256 streams, one
chunk in flight in each; `fan` client requests per second when each becomes 16 upstream requests (paretoproxy only).
Exit status 0 whatever the figures; the report goes to the terminal and to build/bench/result.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import signal
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from bench_load import FANOUT_CONNECTIONS, FANOUT_HEADERS, FANOUT_N, Figures, Load, LoadFailed, compile_c
from bench_report import CONNECTIONS, DIRECT, FAN, NGINX, PROXY, STREAM, Samples, ns, render
from bench_servers import STARTERS, Bench, Stack, StackUnavailable, free_port, mock_backend

ROOT = Path(__file__).resolve().parents[2]
SOURCES = Path(__file__).resolve().parent
PARTS = ("ns", STREAM, FAN)


@dataclass(slots=True)
class Run:
    """One run: the stacks that still answer, what was measured, and what the reader should know."""

    load: Load
    parts: tuple[str, ...]
    stacks: list[Stack] = field(default_factory=list)
    samples: Samples = field(default_factory=Samples)
    notes: list[str] = field(default_factory=list)

    def round(self) -> None:
        """Every part once, the stacks side by side within it."""
        if "ns" in self.parts:
            for connections in CONNECTIONS:
                for stack in list(self.stacks):
                    self._measure(ns(connections), stack, connections)
        if STREAM in self.parts:
            for stack in list(self.stacks):
                self._measure(STREAM, stack)
        if FAN in self.parts:
            for stack in [stack for stack in self.stacks if stack.name == PROXY]:
                self._measure(FAN, stack)

    def _measure(self, part: str, stack: Stack, connections: int = 0) -> None:
        """One sample. A stack that fails is left out from then on, so that rounds stay comparable."""
        try:
            if part == STREAM:
                figures = self.load.streams(stack)
            elif part == FAN:
                figures = self._fan_out(stack)
            else:
                figures = self.load.requests(stack, connections)
        except LoadFailed as error:
            self.stacks.remove(stack)
            self.notes.append(f"{stack.name} left out from part {part} on: {error}")
            return
        self.samples.add(part, stack.name, figures)
        print(f"  {part:6} {stack.name:12} {figures.per_second:10,.0f}/s  p50 {figures.p50_us:9,.1f} µs", flush=True)

    def _fan_out(self, stack: Stack) -> Figures:
        """Raises LoadFailed when the requests were not multiplied: the figure would be one of plain relaying."""
        port = self.load.bench.mock_port
        before = _answered(port)
        figures = self.load.requests(stack, FANOUT_CONNECTIONS, FANOUT_HEADERS)
        ratio = (_answered(port) - before) / figures.total
        if ratio < FANOUT_N * 0.9:
            raise LoadFailed(f"{ratio:.1f} upstream requests per client request, expected {FANOUT_N}")
        return figures


def _answered(mock_port: int) -> float:
    """How many completions the mock has answered so far."""
    text = httpx.get(f"http://127.0.0.1:{mock_port}/metrics", trust_env=False).text
    lines = [line for line in text.splitlines() if line.startswith("vllm:request_success_total")]
    return float(lines[0].rpartition(" ")[2])


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGHUP, _end)
    _raise_file_limit()
    folder = ROOT / "build" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("traces.db*"):  # a store that has grown over many runs would not be comparable
        stale.unlink()
    try:
        mock, load = (compile_c(SOURCES / name, folder) for name in ("mock_backend.c", "load.c"))
    except LoadFailed as error:
        print(f"no benchmarks here: {error}")
        return 0
    server_core, load_core, core_notes = _cores()
    bench = Bench(folder, ROOT, server_core, load_core, free_port())
    run = Run(Load(load, bench, options.seconds), options.only, notes=[_interpreter(), *core_notes])
    status = _run(run, mock, options)
    report = render(run.samples, run.notes)
    (folder / "result.md").write_text(report, encoding="utf-8")
    print(f"\n{report}\nwritten to {(folder / 'result.md').relative_to(ROOT)}")
    return status


def _run(run: Run, mock: Path, options: argparse.Namespace) -> int:
    """The exit status. What was measured before Ctrl-C is kept."""
    bench = run.load.bench
    try:
        with ExitStack() as servers:
            try:
                servers.enter_context(mock_backend(mock, bench.mock_port, bench.load_core, bench.folder / "mock.log"))
            except StackUnavailable as error:
                run.notes.append(f"nothing measured: the mock {error}")
                return 0
            _start_stacks(run, options.stacks, servers)
            for number in range(1, options.rounds + 1):
                print(f"round {number} of {options.rounds}", flush=True)
                run.round()
    except KeyboardInterrupt:
        run.notes.append("interrupted before its end")
        return 130
    return 0


def _start_stacks(run: Run, names: tuple[str, ...], servers: ExitStack) -> None:
    for name in names:
        try:
            run.stacks.append(servers.enter_context(STARTERS[name](run.load.bench)))
        except StackUnavailable as error:
            run.notes.append(f"{name} skipped: {error}")
            print(run.notes[-1], flush=True)


def _interpreter() -> str:
    """One built without profile-guided optimisation, as pyenv builds unless told, costs the proxy a tenth or more."""
    build = f"{platform.python_implementation()} {platform.python_version()}, {platform.python_compiler()}"
    return f"paretoproxy ran on {build}"


def _cores() -> tuple[int, int, list[str]]:
    """The core of the server under test, the core of mock and load generator, and what to say about them."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        return cores[0], cores[1], []
    return cores[0], cores[0], ["only one core: the proxy shares it with its load, the ratios say little"]


def _raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _end(number: int, _frame: object) -> None:
    sys.exit(128 + number)  # unwinds, so that every server is stopped


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Benchmarks of the data path; see the top of this file.")
    parser.add_argument(
        "--seconds", type=_positive, default=3.0, help="per measurement, after half a second of warm-up"
    )
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--only", type=_parts, default=PARTS, help="parts: " + ",".join(PARTS))
    parser.add_argument(
        "--stacks", type=_stacks, default=tuple(STARTERS), help="besides direct and nginx, always there"
    )
    return parser.parse_args()


def _positive(text: str) -> float:
    value = float(text)
    if value <= 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def _names(text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """A comma-separated choice among the known names, in their order."""
    wanted = text.split(",")
    if unknown := set(wanted) - set(known):
        raise argparse.ArgumentTypeError(f"unknown {sorted(unknown)}; choose among {', '.join(known)}")
    return tuple(name for name in known if name in wanted)


def _parts(text: str) -> tuple[str, ...]:
    return _names(text, PARTS)


def _stacks(text: str) -> tuple[str, ...]:
    return _names(f"{DIRECT},{NGINX},{text}", tuple(STARTERS))


if __name__ == "__main__":
    sys.exit(main())
