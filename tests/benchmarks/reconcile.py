"""Do the accounts add up? A load on real engines, then the proxy's traces against the wall clock and the engines.

    python tests/benchmarks/reconcile.py --engine-python .venv-vllm/bin/python [--seconds 90] [--workers 6] [--running]

Two engines of the demo fleet answer; one is reached through a relay that cuts connections in the middle of answers.
Clients ask for votes, streams and plain answers, some of them leave. Then, per backend:

(a) attributed ledgers of all requests + idle, against wall-clock GPU time (bar: 2%);
(b) generated tokens of all branches against the engine's own `vllm:generation_tokens_total` (bar: 1%), over all
    backends together and of each; prompt tokens beside `vllm:prompt_tokens_total`.

Reports to the terminal and to build/bench/reconcile.md; exits with 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import yaml
from bench_fleet import OUT, ROOT, proxy
from reconcile_load import Load
from reconcile_sums import Branches, Counted, Reconciled, by_outcome, counters, rows_of, table

from profiler.tasks import load_task
from proxy.config import load
from proxy.launch import Engines, Machine, specs

sys.path.insert(0, str(ROOT / "tests/real"))
from cutting_relay import CuttingRelay

TIME_BAR, TOKEN_BAR = 0.02, 0.01
ENGINES = ("s-tp1", "m-tp1")
CUT_EVERY_S = 1.5
MOST_TRACES = 1000  # as many as /v1/traces tells at once


def configured(folder: Path, relay_port: int | None) -> Path:
    """The demo's two plain engines; the first through the relay where there is one."""
    whole = yaml.safe_load((ROOT / "examples/demo-fleet.yaml").read_text())
    models = []
    for model in whole["models"]:
        for gone in ("reward_model", "quality", "task", "judge", "larger_model"):
            model.pop(gone, None)
        model["backends"] = [one for one in model.get("backends", ()) if one["name"] in ENGINES]
        for backend in model["backends"]:
            backend["profile"] = None
            backend["launch"]["model"] = str((ROOT / "examples" / backend["launch"]["model"]).resolve())
            backend["url"] = backend["url"].replace(":81", ":83")
            if relay_port is not None and backend["name"] == ENGINES[0]:
                backend["url"] = f"http://127.0.0.1:{relay_port}"
        if not model["backends"]:
            del model["backends"]
        models.append(model)
    path = folder / ("relayed.yaml" if relay_port is not None else "engines.yaml")
    traces = {"path": str(folder / "traces.db")}
    path.write_text(yaml.safe_dump({"server": {"port": 8300}, "traces": traces, "models": models}, sort_keys=False))
    return path


class Books:
    """Reads the proxy and the engines."""

    def __init__(self, http: httpx.AsyncClient, engines: dict[str, str]) -> None:
        self._http, self._engines = http, engines

    async def engine(self) -> dict[str, Counted]:
        """By backend, once none runs anything."""
        found: dict[str, Counted] = {}
        for name, url in self._engines.items():
            while "num_requests_running" in (page := (await self._http.get(f"{url}/metrics")).text):
                if _running(page) == 0:
                    break
                await asyncio.sleep(0.1)
            found[name] = counters(page)
        return found

    async def fleet(self) -> dict[str, dict[str, Any]]:
        """Where time went, by backend."""
        told: dict[str, dict[str, Any]] = (await self._http.get("/v1/costs")).json()["fleet"]
        return told

    async def traces(self) -> list[dict[str, Any]]:
        """All, once no more come."""
        found: list[dict[str, Any]] = []
        while True:
            before = len(found)
            found = (await self._http.get("/v1/traces", params={"limit": MOST_TRACES})).json()["data"]
            if len(found) >= MOST_TRACES:
                raise SystemExit(f"error: more than {MOST_TRACES} requests; give fewer --seconds")
            if len(found) == before:
                return found
            await asyncio.sleep(1.0)


def _running(page: str) -> float:
    names = ("vllm:num_requests_running{", "vllm:num_requests_waiting{")
    return sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith(names))


@contextlib.asynccontextmanager
async def cutting(relay: CuttingRelay) -> AsyncIterator[None]:
    async def cut() -> None:
        while True:
            await asyncio.sleep(CUT_EVERY_S)
            relay.cut_next()

    task = asyncio.create_task(cut())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def measure(args: argparse.Namespace, folder: Path) -> tuple[list[Reconciled], list[dict[str, Any]], Load, int]:
    direct = load(configured(folder, None))
    urls = {backend.name: backend.url for backend in direct.backends()}
    first = urlsplit(urls[ENGINES[0]])
    wanted = [] if args.running else specs(direct, args.engine_python, OUT / "logs", Machine.here())
    async with Engines(wanted) as engines:
        await engines.start(print)
        with CuttingRelay(str(first.hostname), first.port or 80) as relay:
            path = configured(folder, relay.port)
            async with proxy(path, load(path)) as url, httpx.AsyncClient(base_url=url, timeout=30) as http:
                await _asked_what_they_can(http)
                books = Books(http, urls)
                questions = [question.question for question in load_task("tinymath-held-out", count=200).questions]
                load_ = Load(url, ("tinymath", "tinymath-s", "tinymath-s", "tinymath-m"), questions)
                before, began, told = await books.engine(), time.monotonic(), await books.fleet()
                async with cutting(relay):
                    await load_.run(args.seconds, args.workers)
                await load_.aclose()
                traces = await books.traces()
                after, took_s, spent = await books.engine(), time.monotonic() - began, await books.fleet()
                found = [
                    Reconciled(
                        name,
                        wall_s=took_s,
                        idle_s=spent[name]["idle"]["gpu_seconds"] - told[name]["idle"]["gpu_seconds"],
                        others_s=spent[name]["others"]["gpu_seconds"] - told[name]["others"]["gpu_seconds"],
                        branches=Branches.of(rows_of(traces, name)),
                        engine=after[name] - before[name],
                    )
                    for name in urls
                ]
                return found, traces, load_, relay.cuts


async def _asked_what_they_can(http: httpx.AsyncClient) -> None:
    """The proxy's own questions of an engine are nobody's request."""
    while not all(one["capabilities"] for one in (await http.get("/ready")).json()["backends"].values()):
        await asyncio.sleep(0.5)


def report(found: Sequence[Reconciled], traces: list[dict[str, Any]], load_: Load, cuts: int) -> tuple[str, bool]:
    engine, told = sum(one.engine.completion for one in found), sum(one.branches.completion for one in found)
    wall = sum(one.wall_s for one in found)
    accounted = sum(one.branches.gpu_seconds + one.idle_s for one in found)
    time_error, token_error = accounted / wall - 1, told / engine - 1
    outcomes: dict[str, int] = {}
    for trace in traces:
        outcomes[trace["outcome"]] = outcomes.get(trace["outcome"], 0) + 1
    asked, sent = dict(sorted(load_.asked.items())), sum(load_.asked.values())
    lines = [
        f"{sent} requests sent, {len(traces)} traced: {outcomes}; {cuts} connections cut",
        f"asked: {asked}",
        f"statuses (0: the client left, or the connection broke): {dict(sorted(load_.answers.items()))}",
        "",
        table(found),
        "",
        by_outcome(traces, [one.backend for one in found]),
        "",
        f"(a) attributed + idle over wall-clock GPU time, {wall:.1f} s of GPU: {time_error:+.2%} (bar {TIME_BAR:.0%})",
        f"(b) generated tokens, traces over engines, {engine:.0f}: {token_error:+.2%} (bar {TOKEN_BAR:.0%})",
    ]
    fine = abs(time_error) <= TIME_BAR and abs(token_error) <= TOKEN_BAR and len(traces) == sent
    return "\n".join(lines), fine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine-python", default=str(ROOT / ".venv-vllm/bin/python"))
    parser.add_argument("--running", action="store_true", help="the engines are up already, on the ports of this run")
    parser.add_argument("--seconds", type=float, default=90.0)
    parser.add_argument("--workers", type=int, default=6)
    args = parser.parse_args()
    folder = OUT / f"reconcile-{int(time.time())}"
    folder.mkdir(parents=True)
    text, fine = report(*asyncio.run(measure(args, folder)))
    (OUT / "reconcile.md").write_text(text + "\n")
    (folder / "reconcile.md").write_text(text + "\n")
    print(text)
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
