"""`/v1/plan` and `paretoproxy plan`: every candidate, ranked, with its predictions and why it was kept or dropped."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from msgspec.structs import asdict

from proxy import ledgers
from proxy.aliases import named
from proxy.asking import question
from proxy.authorization import check_model
from proxy.call import parse
from proxy.catalog import Served
from proxy.client_keys import ANYBODY, Caller
from proxy.planner import choose, rank
from proxy.plans import Plan
from proxy.prompt_length import prompt_length
from proxy.scale_trace import predicted
from proxy.service import Service
from proxy.upstream.connection import Headers


async def plan_view(service: Service, headers: Headers, body: bytes, caller: Caller = ANYBODY) -> dict[str, Any]:
    """The same body and headers as a chat completion. Raises ProxyError."""
    call = parse("/v1/chat/completions", headers, body, service.config.slo.defaults)
    call, models = named(call, service.catalog)
    check_model(caller, call.model)
    tokens, exact = await prompt_length(call, models[0])
    asked = question(call, models, service.registry, tokens, caller)
    decision = choose(asked.ask, models)
    return {
        "object": "plan",
        "model": call.model,
        "prompt_tokens": tokens,
        "prompt_tokens_exact": exact,
        "task": asked.ask.task,
        "percentile": service.config.slo.percentile,
        "note": asked.note,
        "considered": decision.considered,
        "dropped": decision.dropped,
        "left_out": left_out(models, asked.ask.greedy),
        "candidates": [_row(plan, limits, tokens) for plan, limits in rank(asked.ask, models)],
    }


def _row(plan: Plan, limits: tuple[str, ...], prompt_tokens: float) -> dict[str, Any]:
    return {
        "backend": plan.backend.name,
        "model": plan.served.name,
        "strategy": plan.strategy,
        "params": plan.params,
        "n": plan.branches,
        "feasible": not limits,
        "dropped_by": list(limits),
        "predicted": predicted(plan),
        "ledgers": _ledgers(plan, prompt_tokens),
    }


def _ledgers(plan: Plan, prompt_tokens: float) -> dict[str, Any]:
    """What the plan is expected to cost in each account, at its median latency; congestion is what others pay."""
    expected, backend = plan.predicted, plan.backend
    rate, prompts = backend.pricing.at(time.time()), plan.branches * round(prompt_tokens)
    part = ledgers.Part(rate, expected.gpu_seconds, expected.median_ms / 1e3, round(expected.tokens), prompts)
    of_plan = ledgers.of_request([part])
    accounts = {**asdict(of_plan), "congestion": ledgers.of_gpu_seconds(rate, expected.congestion_gpu_seconds)}
    return {name: asdict(amount) if isinstance(amount, ledgers.Amount) else amount for name, amount in accounts.items()}


def left_out(models: Sequence[Served], greedy: bool) -> dict[str, str]:
    """Backends that were no candidates at all."""
    reasons = {}
    for served in models:
        for backend in served.backends:
            if not backend.health.serving:
                reasons[backend.name] = f"unhealthy: {backend.health.problem}"
            elif unfit := backend.unfit(greedy):
                reasons[backend.name] = _UNFIT[unfit].format(setting="greedy" if greedy else "sampled")
    return reasons


_UNFIT = {
    "sampling": "configured for greedy requests only (sampling: greedy)",
    "disagrees": "its {setting} answers differ from the model's quality table (`profile --check` tests again)",
}
