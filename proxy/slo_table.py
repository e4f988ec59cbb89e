"""Asks a running proxy labelled questions under several deadlines: what share was in time, and how right it was."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx

from profiler.marking import Generated, Marking
from profiler.tasks import Task
from proxy.strategy_runs import written_trace


@dataclass(frozen=True, slots=True)
class Asked:
    """One answered question. `feasible`: the plan was predicted to meet the SLO."""

    latency_ms: float
    in_time: bool
    feasible: bool
    correct: bool
    strategy: str
    n: int
    backend: str
    tokens: int
    cost_usd: float | None


@dataclass(frozen=True, slots=True)
class Row:
    """One deadline's answers, summed up."""

    slo_ms: float
    asked: Sequence[Asked]

    def cells(self) -> list[str]:
        asked, feasible = self.asked, [one for one in self.asked if one.feasible]
        plans: dict[str, int] = {}
        for one in asked:
            key = f"{one.strategy}:{one.n} on {one.backend}"
            plans[key] = plans.get(key, 0) + 1
        common = max(plans, key=lambda key: plans[key])
        latencies = sorted(one.latency_ms for one in asked)
        costs = [one.cost_usd for one in asked if one.cost_usd is not None]
        return [
            f"{self.slo_ms:.0f}",
            f"{sum(one.in_time for one in feasible)}/{len(feasible)}" if feasible else "none feasible",
            f"{sum(one.in_time for one in asked)}/{len(asked)}",
            f"{sum(one.correct for one in asked) / len(asked):.2f}",
            f"{latencies[len(latencies) // 2]:.0f}",
            f"{sum(one.tokens for one in asked) / len(asked):.0f}",
            f"{sum(costs) / len(costs):.1e}" if costs else "unknown",
            f"{common} ({plans[common]})",
        ]


HEADER = [
    "SLO, ms",
    "in time where feasible",
    "in time, all",
    "accuracy",
    "median ms",
    "tokens",
    "USD",
    "most frequent plan",
]


async def ask(url: str, model: str, task: Task, slo_ms: float, api_key: str | None) -> AsyncIterator[Asked]:
    """One question after the other, each with `x-slo-latency-ms`. Raises httpx.HTTPError, AskFailed."""
    headers = {"x-slo-latency-ms": f"{slo_ms:g}", **({"authorization": f"Bearer {api_key}"} if api_key else {})}
    async with httpx.AsyncClient(base_url=url, timeout=slo_ms / 1e3 + 30, headers=headers) as client:
        for question in task.questions:
            message = {"role": "user", "content": question.question}
            trace_id = uuid4().hex
            context = {"traceparent": f"00-{trace_id}-{trace_id[:16]}-01"}
            body = {"model": model, "messages": [message]}
            began = time.perf_counter()
            response = await client.post("/v1/chat/completions", json=body, headers=context)
            latency_ms = (time.perf_counter() - began) * 1e3
            if response.status_code == 504:  # too late with nothing to show, whatever was predicted
                yield _missed(await written_trace(client, trace_id), latency_ms, slo_ms)
            else:
                yield await _read(response, latency_ms, slo_ms, question.answer, task)


def _missed(trace: dict[str, Any], latency_ms: float, slo_ms: float) -> Asked:
    plan = trace.get("plan") or {}  # none where the request waited for its turn until then
    feasible = (plan.get("predicted") or {}).get("latency_ms", 0.0) <= slo_ms
    cost_usd = (trace.get("ledgers") or {}).get("attributed", {}).get("usd")
    told = plan.get("strategy", "none"), plan.get("n", 0), plan.get("backend", "none")
    return Asked(latency_ms, False, feasible, False, *told, trace.get("completion_tokens", 0), cost_usd)


async def _read(response: httpx.Response, latency_ms: float, slo_ms: float, gold: str, task: Task) -> Asked:
    body: dict[str, Any] = response.json()
    if response.status_code != 200:
        return Asked(latency_ms, False, True, False, "refused", 0, "none", 0, None)
    tts = body["usage"]["tts"]
    text = body["choices"][0]["message"]["content"] or ""
    predicted_ms = float(response.headers["x-slo-predicted-latency-ms"])
    return Asked(
        latency_ms=latency_ms,
        in_time=latency_ms <= slo_ms,
        feasible=predicted_ms <= slo_ms,
        correct=await is_correct(text, gold, task),
        strategy=tts["strategy"],
        n=tts["n"],
        backend=tts["backend"],
        tokens=body["usage"]["completion_tokens"],
        cost_usd=tts["cost_usd"],
    )


async def is_correct(text: str, gold: str, task: Task) -> bool:
    """Whether the text's final answer is in the gold answer's class."""
    return (await Marking(task.answers, gold).mark(Generated(text, 0, ""))).correct
