"""Fills a request's trace from its plan and its run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from proxy import ledgers
from proxy.backend import Backend
from proxy.branch import BranchStream
from proxy.fanout import Run
from proxy.planner import Decision, Plan
from proxy.pooled import PooledCall
from proxy.trace import BranchTrace, PlanTrace, Trace

SCORED = ("score",)  # what these read is no prompt of the client's


def note_plan(trace: Trace, decision: Decision, note: str | None) -> None:
    """Record the decision; an earlier plan of the same request moves to `earlier_plans`."""
    if trace.plan is not None:
        trace.earlier_plans.append(trace.plan)
    plan = decision.plan
    trace.plan = PlanTrace(
        backend=plan.backend.name,
        model=plan.served.name,
        strategy=plan.strategy,
        params=plan.params,
        n=plan.branches,
        predicted=predicted(plan),
        feasible=decision.feasible,
        considered=decision.considered,
        dropped=decision.dropped,
        gave_up=list(decision.gave_up),
        note=_note(plan, note),
    )


def predicted(plan: Plan) -> dict[str, object]:
    """Six digits of each: costs may be millionths of a dollar."""
    fields: dict[str, object] = {
        name: float(f"{value:.6g}") if isinstance(value, float) else value
        for name, value in msgspec.to_builtins(plan.predicted).items()
    }
    return fields


def _note(plan: Plan, note: str | None) -> str | None:
    notes = [note] if note else []
    if plan.predicted.prior:
        notes.append("accuracy is a stated prior: the task has no quality table")
    profile = plan.backend.profile
    if profile.assumed:
        notes.append("latency is a wide prior: the backend has no profile")
    elif profile.environment.get("modelled"):
        notes.append("latency is modelled from other tensor-parallel degrees")
    return "; ".join(notes) or None


def note_run(trace: Trace, run: Run, arrived_at: float, backends: Mapping[str, Backend]) -> None:
    """Record every branch and score, and the ledgers. A run that was planned again adds to what the earlier ones cost.
    `backends`: all that there are, by name."""
    run.first_row = len(trace.branches)
    prompts = _prompt_tokens(run.branches)
    rows = [
        _branch(branch, prompts[id(branch.generation)], arrived_at, run.first_row + i)
        for i, branch in enumerate(run.branches)
    ]
    trace.branches.extend(rows)
    if run.scoring is not None:
        calls = run.scoring.calls
        first = len(trace.branches)
        trace.branches.extend([_call(call, arrived_at, first + i) for i, call in enumerate(calls)])
    trace.prompt_tokens = sum(row.prompt_tokens for row in trace.branches if row.role not in SCORED)
    trace.completion_tokens = sum(row.completion_tokens for row in trace.branches)
    trace.ledgers = ledgers.of_request(parts(trace.branches, backends))


def _prompt_tokens(branches: Sequence[BranchStream]) -> dict[int, int]:
    """Of each generation, by identity: a branch that ended before it told its own has as many as another with the same
    prompt."""
    found: dict[int, int] = {}
    for branch in branches:
        key = id(branch.generation)
        found[key] = max(found.get(key, 0), branch.prompt_tokens)
    return found


def parts(rows: Sequence[BranchTrace], backends: Mapping[str, Backend]) -> list[ledgers.Part]:
    """What the rows did on each backend."""
    found = []
    for name in dict.fromkeys(row.backend for row in rows):
        backend = backends[name]
        mine = [row for row in rows if row.backend == name]
        ends = [row.end_ms for row in mine if row.end_ms is not None]
        wall_s = (max(ends) - min(row.start_ms for row in mine)) / 1e3 if ends else 0.0
        seconds, tokens = sum(row.gpu_seconds for row in mine), sum(row.completion_tokens for row in mine)
        found.append(ledgers.Part(backend, seconds, wall_s, tokens))
    return found


def _call(call: PooledCall, arrived_at: float, index: int) -> BranchTrace:
    return BranchTrace(
        index=index,
        backend=call.backend.name,
        outcome=call.outcome,
        start_ms=round((call.started_at - arrived_at) * 1e3, 3),
        end_ms=round((call.ended_at - arrived_at) * 1e3, 3),
        gpu_seconds=call.gpu_seconds,
        prompt_tokens=call.prompt_tokens,
        completion_tokens=call.completion_tokens,
        cost_usd=ledgers.usd(call.backend, call.gpu_seconds),
        wave=call.wave or 1,
        role=call.role,
    )


def _role(branch: BranchStream) -> str | None:
    """What a branch was for, where it is no answer to the client."""
    generation = branch.generation
    if generation.model == "judge":
        return "judge"
    return None if generation.final else "aside"


def _branch(branch: BranchStream, prompt_tokens: int, arrived_at: float, index: int) -> BranchTrace:
    def since(at: float | None) -> float | None:
        return None if at is None else round((at - arrived_at) * 1e3, 3)

    error = branch.error
    text = str(error) if error else f"the backend answered {branch.refusal[0]}" if branch.refusal else None
    return BranchTrace(
        index=index,
        backend=branch.backend.name,
        outcome=branch.state,
        start_ms=since(branch.started_at) or 0.0,
        first_token_ms=since(branch.first_token_at),
        end_ms=since(branch.ended_at),
        prompt_tokens=branch.prompt_tokens or prompt_tokens,
        cached_tokens=branch.cached_tokens,
        completion_tokens=branch.completion_tokens,
        finish_reason=branch.finish_reason,
        gpu_seconds=branch.gpu_seconds,
        cost_usd=ledgers.usd(branch.backend, branch.gpu_seconds),
        answer=branch.answer,
        score=branch.score,
        error=text,
        wave=branch.wave,
        role=_role(branch),
        attempt=branch.attempt,
    )
