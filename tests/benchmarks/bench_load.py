"""Builds the C programs and runs the load generator; its figures as a type."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from bench_servers import Bench, Stack, core_busy_s, pinned

HEADERS = ("net.h", "response.h")
STREAMS = 256
FANOUT_N = 16
FANOUT_CONNECTIONS = 16
FANOUT_HEADERS = ("x-tts-strategy: self-consistency", f"x-tts-n: {FANOUT_N}")


class LoadFailed(Exception):
    """The load generator could not measure; the message is its own."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One measurement. Unit counted: client requests, or stamped chunks of streams.

    `total`: units with warm-up and drain. `cpu_us`: CPU of the server under test per unit.
    `foreign`: share of the server's core that other processes used meanwhile, 0 to 1.
    `errors`: answers other than 200, broken or missing. `stalls`: chunks that took over 100 ms.
    """

    per_second: float
    p50_us: float
    p99_us: float
    total: int = 0
    errors: int = 0
    stalls: int = 0
    cpu_us: float = 0.0
    foreign: float = 0.0


@dataclass(frozen=True, slots=True)
class Load:
    """The load generator, ready to be run for `seconds` at a time."""

    binary: Path
    bench: Bench
    seconds: float

    def requests(self, stack: Stack, connections: int, headers: tuple[str, ...] = ()) -> Figures:
        """Non-streamed chat completions, each connection sending its next when the last is answered."""
        words = [word for header in headers for word in ("--header", header)]
        return self._run(stack, "requests", stack.port, connections, words)

    def streams(self, stack: Stack) -> Figures:
        """Paced streams with one chunk in flight in each (closed loop)."""
        return self._run(stack, "streams", stack.stream_port, STREAMS, ["--mock-port", str(self.bench.mock_port)])

    def _run(self, stack: Stack, mode: str, port: int, connections: int, words: list[str]) -> Figures:
        """Raises LoadFailed."""
        numbers = ["--port", str(port), "--connections", str(connections), "--seconds", str(self.seconds)]
        command = pinned(self.bench.load_core, self.binary, mode, *numbers, *words)
        core = self.bench.server_core
        started_s, cpu_before_s, busy_before_s = time.monotonic(), stack.cpu_s(), core_busy_s(core)
        try:
            # with warm-up and drain it needs some three seconds more; beyond that it hangs
            done = subprocess.run(command, capture_output=True, text=True, timeout=self.seconds + 30)
        except subprocess.TimeoutExpired as error:
            raise LoadFailed(f"{mode} did not end in time") from error
        if done.returncode != 0:
            raise LoadFailed(f"{mode}: {done.stderr.strip() or f'status {done.returncode}'}")
        cpu_s, busy_s = stack.cpu_s() - cpu_before_s, core_busy_s(core) - busy_before_s
        figures = _figures(done.stdout, cpu_s, (busy_s - cpu_s) / (time.monotonic() - started_s))
        if figures.per_second == 0:  # no latency either: it must not pass for a fast one
            raise LoadFailed(f"{mode}: nothing was answered, {figures.errors} errors")
        return figures


def compile_c(source: Path, folder: Path) -> Path:
    """Path of the program, compiled anew only when its source or a header is newer. Raises LoadFailed."""
    binary = folder / source.stem
    inputs = [source, *(source.with_name(name) for name in HEADERS)]
    if binary.exists() and binary.stat().st_mtime > max(path.stat().st_mtime for path in inputs):
        return binary
    try:
        subprocess.run(
            ["gcc", "-O2", "-Wall", "-Wextra", "-o", binary, source], check=True, capture_output=True, text=True
        )
    except FileNotFoundError as error:
        raise LoadFailed("gcc is not installed") from error
    except subprocess.CalledProcessError as error:
        raise LoadFailed(f"gcc: {error.stderr}") from error
    return binary


def _figures(line: str, cpu_s: float, foreign: float) -> Figures:
    raw = json.loads(line)
    return Figures(
        per_second=raw["per_second"],
        p50_us=raw["p50_us"],
        p99_us=raw["p99_us"],
        total=raw["total"],
        errors=raw["errors"],
        stalls=raw["stalls"],
        cpu_us=1e6 * cpu_s / raw["total"] if raw["total"] else 0.0,
        foreign=foreign,
    )
