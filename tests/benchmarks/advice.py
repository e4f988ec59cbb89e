"""Is the report right? Its two plans for a deadline, system-optimal and compute-optimal, asked the same new questions.

    python tests/benchmarks/advice.py --engine-python .venv-vllm/bin/python --slo-ms 3000 [--questions 60]

One engine at a time, the plans that run on it in turn, question by question. Prints what was predicted and what
happened. Profiles must be there (`paretoproxy profile`).
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from bench_fleet import ROOT, engine, proxy

from profiler.report.choice import choose
from profiler.report.points import Point
from profiler.report.words import short_plan
from profiler.tasks import Task, load_task
from proxy.config import Config, load
from proxy.launch import Engines
from proxy.report import comparisons
from proxy.slo_table import is_correct

TASK = "tinymath-held-out"


@dataclass
class Plan:
    """One of the two plans and its answers: seconds, right or not, dollars."""

    role: str
    point: Point
    answers: list[tuple[float, bool, float]] = field(default_factory=list)

    @property
    def pin(self) -> dict[str, Any]:
        """What the client sends to have exactly this plan."""
        if self.point.strategy == "none":
            return {"tts": {"n": 1}, "slo": {"latency_ms": 60_000}}
        return {"tts": {"strategy": self.point.strategy, **self.point.params}}

    def row(self, slo_s: float) -> str:
        took = sorted(seconds for seconds, _, _ in self.answers)
        tail = took[min(len(took) - 1, int(0.95 * len(took)))]
        cost = 1e3 * statistics.mean(usd for _, _, usd in self.answers)
        point, count = self.point, len(took)
        return (
            f"| {self.role} | {short_plan(point)} | {point.tail_ms / 1e3:.2f} | {tail:.2f} | "
            f"{sum(seconds <= slo_s for seconds in took)}/{count} | {point.accuracy:.2f} | "
            f"{sum(right for _, right, _ in self.answers) / count:.2f} | {cost:.4f} |"
        )


async def ask(http: httpx.AsyncClient, plan: Plan, question: str, gold: str, task: Task) -> None:
    body = {
        "model": plan.point.engine.model,
        "messages": [{"role": "user", "content": question}],
        **plan.pin,
    }
    if not plan.point.params.get("greedy"):  # that is for requests that leave the temperature open
        body["temperature"] = 0 if plan.point.greedy else 1
    began = time.perf_counter()
    response = await http.post("/v1/chat/completions", json=body)
    seconds = time.perf_counter() - began
    response.raise_for_status()
    answer = response.json()
    told = answer["usage"]["tts"]
    assert (told["strategy"], told["n"]) == (plan.point.strategy, plan.point.branches), told
    text = answer["choices"][0]["message"]["content"] or ""
    plan.answers.append((seconds, await is_correct(text, gold, task), told["cost_usd"] or float("nan")))


async def on_engine(args: argparse.Namespace, config: Config, name: str, plans: Sequence[Plan]) -> None:
    task = load_task(TASK, count=args.questions)
    model, backend = next((m, b) for m in config.models for b in m.backends if b.name == name)
    async with Engines(engine(config, model, backend, args.engine_python)) as engines:
        await engines.start(print)
        async with proxy(args.config, config) as url, httpx.AsyncClient(base_url=url, timeout=120) as http:
            for plan in plans:  # not counted: the first of its kind
                await ask(http, plan, task.questions[0].question, task.questions[0].answer, task)
                plan.answers.clear()
            for question in task.questions:
                for plan in plans:
                    await ask(http, plan, question.question, question.answer, task)


async def run(args: argparse.Namespace) -> None:
    config = load(args.config)
    points = [point for comparison in comparisons(config) for point in comparison.points]
    choice = choose(points, args.slo_ms)
    if choice.system is None or choice.compute is None:
        raise SystemExit(f"no plan is predicted to be in time for {args.slo_ms:g} ms")
    plans = [Plan("system-optimal", choice.system), Plan("compute-optimal", choice.compute)]
    for name in dict.fromkeys(plan.point.engine.name for plan in plans):
        await on_engine(args, config, name, [plan for plan in plans if plan.point.engine.name == name])
    print(f"\ndeadline {args.slo_ms / 1e3:g} s; latencies in seconds\n")
    print("| | plan | p95 predicted | p95 | in time | accuracy predicted | accuracy | US$ per 1,000 |")
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    for plan in plans:
        print(plan.row(args.slo_ms / 1e3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "examples/demo-fleet.yaml")
    parser.add_argument("--engine-python", default=str(ROOT / ".venv-vllm/bin/python"))
    parser.add_argument("--slo-ms", type=float, default=3000)
    parser.add_argument("--questions", type=int, default=60)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
