"""Hours of traffic in minutes: does memory grow? Run: make soak ARGS="--minutes 10".

A real proxy process in front of a simulated fleet, both over sockets: requests passed through, votes, streamed and not,
clients that leave, engines that stall, cut, slow down and die. Every second the proxy's resident memory, file
descriptors, asyncio tasks and its store's size are read. Prints their course and the line fitted to what follows the
warm-up, writes build/soak.json and build/soak.md, and ends with 1 where something grows.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/proxy"), str(ROOT)]

from simulation_rig import QUESTIONS, free_port, write_config  # noqa: E402

WARM_UP_SHARE = 0.25
# What may be added between the end of the warm-up and the end of the soak, as a share of the level, and at least.
ALLOWED = {"rss_mb": (0.03, 2.0), "fds": (0.05, 4.0), "tasks": (0.05, 4.0)}
BY_IDLE, BLOCKS = ("fds", "tasks"), 20
IDLE_S = 8.0  # after which connections that are kept alive have closed
FAULTS: list[dict[str, Any]] = [
    {"kind": "slow", "factor": 5},
    {"kind": "stall"},
    {"kind": "cut", "after_chunks": 2, "streams": 5},
    {"kind": "die"},
]


@dataclass(frozen=True, slots=True)
class Sample:
    at_s: float
    rss_mb: float
    fds: int
    tasks: int
    store_mb: float


@dataclass(frozen=True, slots=True)
class Course:
    """Of one figure after the warm-up. `per_hour`: the slope of the fitted line; `grown`: what it adds up to, or, of
    what comes and goes with the requests of the moment, how much more there is idle at the end than idle before."""

    name: str
    level: float
    per_hour: float
    grown: float
    allowed: float

    @property
    def flat(self) -> bool:
        return self.grown <= self.allowed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "build")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(0 if asyncio.run(soak(Path(folder), args.minutes * 60, args.clients, args.seed, args.out)) else 1)


async def soak(folder: Path, seconds: float, clients: int, seed: int, out: Path) -> bool:
    """Whether all stayed flat, and nobody waited in vain."""
    config, port = write_config(folder, "a", "b", "c"), free_port()
    document = yaml.safe_load(config.read_text())
    urls = [backend["url"] for backend in document["models"][0]["backends"]]
    with (
        _process(folder, "simulate", "--config", config),
        _process(folder, "serve", "--config", config, "--port", port) as pid,
    ):
        await _until_ready(port)
        await asyncio.sleep(IDLE_S)
        [fresh] = await _watch(pid, port, folder, time.monotonic() + 0.5)
        outcomes: Counter[str] = Counter()
        random, ends = Random(seed), time.monotonic() + seconds
        work = [asyncio.create_task(_client(port, Random(random.random()), ends, outcomes)) for _ in range(clients)]
        work.append(asyncio.create_task(_trouble(urls, Random(random.random()), ends)))
        samples = await _watch(pid, port, folder, ends)
        await asyncio.gather(*work)
        await asyncio.sleep(IDLE_S)
        [idle] = await _watch(pid, port, folder, time.monotonic() + 0.5)
    warm = [sample for sample in samples if sample.at_s > WARM_UP_SHARE * seconds]
    courses = [course(name, warm) for name in ALLOWED]
    courses = [_by_idle(one, fresh, idle) if one.name in BY_IDLE else one for one in courses]
    _tell(out, [fresh, *samples, idle], courses, outcomes, seconds)
    return all(one.flat for one in courses) and not outcomes["hung"]


def course(name: str, samples: Sequence[Sample]) -> Course:
    """The line of least squares through one figure. Descriptors and tasks come and go with the requests of the moment:
    the line goes through the lows of blocks, which only what stays can raise."""
    at = np.array([sample.at_s for sample in samples])
    values = np.array([float(getattr(sample, name)) for sample in samples])
    if name in BY_IDLE:
        blocks = max(1, min(BLOCKS, len(values) // 3))
        at = np.array([part.mean() for part in np.array_split(at, blocks)])
        values = np.array([np.quantile(part, 0.1) for part in np.array_split(values, blocks)])
    slope = float(np.polyfit(at, values, 1)[0])
    share, least = ALLOWED[name]
    level = float(values.mean())
    return Course(name, level, slope * 3600, slope * float(at[-1] - at[0]), max(least, share * level))


def _by_idle(found: Course, fresh: Sample, idle: Sample) -> Course:
    """Connections in use follow the load of the machine; what is still there once all are closed has leaked."""
    return replace(found, grown=float(getattr(idle, found.name) - getattr(fresh, found.name)))


@contextlib.contextmanager
def _process(folder: Path, *arguments: object) -> Iterator[int]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    log = (folder / f"{arguments[0]}.log").open("wb")
    command = [sys.executable, "-m", "proxy.cli", *map(str, arguments)]
    with log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as process:
        try:
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()


# -- what is asked --


async def _client(port: int, random: Random, ends: float, outcomes: Counter[str]) -> None:
    while time.monotonic() < ends:
        question = random.choice(QUESTIONS).question
        body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": question}], "max_tokens": 400}
        headers = {}
        if random.random() < 0.4:
            body["tts"] = {
                "strategy": random.choice(["self-consistency", "first-finish"]),
                "n": random.choice([2, 4, 8]),
            }
            headers["x-slo-latency-ms"] = str(random.choice([400, 1500, 6000]))
        body["stream"] = random.random() < 0.5
        leaves_after_s = random.expovariate(2.0) if random.random() < 0.15 else None
        outcomes[await _ask(port, body, headers, leaves_after_s)] += 1


async def _ask(port: int, body: dict[str, Any], headers: dict[str, str], leaves_after_s: float | None) -> str:
    try:
        status, _ = await _exchange(port, "POST /v1/chat/completions", body, headers, leaves_after_s or 60.0)
    except TimeoutError:
        return "left" if leaves_after_s is not None else "hung"
    except OSError:
        return "broken"
    return str(status)


async def _exchange(
    port: int, what: str, body: dict[str, Any] | None, headers: dict[str, str], limit_s: float
) -> tuple[int, bytes]:
    """(status, what followed). Raises TimeoutError, OSError."""
    data = json.dumps(body).encode() if body is not None else b""
    lines = {"host": "proxy", "connection": "close", "content-length": str(len(data)), **headers}
    head = f"{what} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(limit_s):
            writer.write(head.encode() + data)
            answer = await reader.read(-1)
    finally:
        writer.transport.abort()
    head_read, _, rest = answer.partition(b"\r\n\r\n")
    if not head_read:
        raise ConnectionError("no answer")
    return int(head_read.split(b" ", 2)[1]), rest


async def _trouble(urls: list[str], random: Random, ends: float) -> None:
    """One engine at a time has something, for a while."""
    while time.monotonic() < ends:
        await asyncio.sleep(random.uniform(2, 6))
        index = random.randrange(len(urls))
        port, helper = (int(urls[at % len(urls)].rpartition(":")[2]) for at in (index, index + 1))
        with contextlib.suppress(OSError, TimeoutError):
            await _exchange(port, "POST /simulate/fault", random.choice(FAULTS), {}, 5)
            await asyncio.sleep(random.uniform(0.5, 3))
        with contextlib.suppress(OSError, TimeoutError):
            revive = {"kind": "revive", "backend": "abc"[index]}
            await _exchange(helper, "POST /simulate/fault", revive, {}, 5)


# -- what is seen --


async def _until_ready(port: int) -> None:
    async with asyncio.timeout(120):
        while True:
            with contextlib.suppress(OSError, TimeoutError):
                if (await _exchange(port, "GET /ready", None, {}, 5))[0] == 200:
                    return
            await asyncio.sleep(0.2)


async def _watch(pid: int, port: int, folder: Path, ends: float) -> list[Sample]:
    began, samples = time.monotonic(), list[Sample]()
    while (now := time.monotonic()) < ends:
        status = Path(f"/proc/{pid}/status").read_text()
        rss = re.search(r"VmRSS:\s+(\d+)", status)
        _, page = await _exchange(port, "GET /metrics", None, {}, 60)
        tasks = re.search(rb"^paretoproxy_process_tasks (\S+)", page, re.MULTILINE)
        assert rss is not None and tasks is not None
        store = sum(path.stat().st_size for path in folder.glob("traces.db*"))
        fds = len(os.listdir(f"/proc/{pid}/fd"))
        samples.append(Sample(now - began, int(rss[1]) / 1024, fds, int(float(tasks[1])), store / 2**20))
        await asyncio.sleep(1.0)
    return samples


def _tell(out: Path, samples: list[Sample], courses: list[Course], outcomes: Counter[str], seconds: float) -> None:
    lines = [
        f"{sum(outcomes.values())} requests in {seconds:.0f} s: "
        + ", ".join(f"{count} {what}" for what, count in outcomes.most_common()),
        "",
        "| | level | slope, per hour | adds up to | allowed | |",
        "|---|---|---|---|---|---|",
    ]
    for one in courses:
        verdict = "flat" if one.flat else "GROWS"
        lines.append(
            f"| {one.name} | {one.level:.1f} | {one.per_hour:+.2f} | {one.grown:+.2f} | {one.allowed:.2f} | {verdict} |"
        )
    stored = samples[-1].store_mb - samples[0].store_mb
    lines.append(
        f"\nThe store grew by {stored:.2f} MB: {stored * 2**20 / max(1, sum(outcomes.values())):.0f} bytes a request."
    )
    fresh, idle = samples[0], samples[-1]
    lines.append(
        f"Idle before and after: {fresh.fds} and {idle.fds} descriptors, {fresh.tasks} and {idle.tasks} tasks, "
        f"{fresh.rss_mb:.1f} and {idle.rss_mb:.1f} MB (tables and buffers are made by the first requests)."
    )
    text = "\n".join(lines)
    print(text, flush=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / "soak.md").write_text(text + "\n")
    document = {
        "date": datetime.date.today().isoformat(),
        "seconds": seconds,
        "outcomes": dict(outcomes),
        "courses": [{**asdict(one), "flat": one.flat} for one in courses],
        "samples": [asdict(sample) for sample in samples],
    }
    (out / "soak.json").write_text(json.dumps(document))


if __name__ == "__main__":
    main()
