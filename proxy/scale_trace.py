"""Fills a request's trace from its plan and its run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from proxy import branch_ledgers, ledgers
from proxy.backend import Backend
from proxy.branch import BranchStream
from proxy.fanout import Run
from proxy.plans import Decision, Plan
from proxy.pooled import PooledCall
from proxy.trace import BranchTrace, PlanTrace, Trace
from proxy.upstream.errors import ConnectFailed
from strategies.base import WHOLE

SCORED = ("score",)  # what these read is no prompt of the client's


def note_plan(trace: Trace, decision: Decision, note: str | None, since_s: float, took_s: float) -> None:
    """Record the decision; an earlier plan of the same request moves to `earlier_plans`. `since_s`: from the request's
    arrival until the planner was asked; `took_s`: until it had decided."""
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
        start_ms=round(since_s * 1e3, 3),
        took_ms=round(took_s * 1e3, 4),
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


def note_run(
    trace: Trace, run: Run, arrived_at: float, backends: Mapping[str, Backend], prompt_tokens: int | None = None
) -> None:
    """Record every branch and score, and the ledgers. A run that was planned again adds to what the earlier ones cost.
    `backends`: all that there are, by name; `prompt_tokens`: of the client's own prompt, None where it was guessed."""
    run.first_row = len(trace.branches)
    calls = run.scoring.calls if run.scoring is not None else []
    for name in {branch.backend.name for branch in run.branches} | {call.backend.name for call in calls}:
        trace.rates[name] = backends[name].pricing.at(trace.received_at)
    prompts = _prompt_tokens(run.branches, prompt_tokens or 0)
    rows = [
        _branch(branch, prompts[_prompt_of(branch)], arrived_at, run.first_row + i)
        for i, branch in enumerate(run.branches)
    ]
    trace.branches.extend(rows)
    first = len(trace.branches)
    trace.branches.extend([_call(call, arrived_at, first + i) for i, call in enumerate(calls)])
    for row in trace.branches[run.first_row :]:
        rate = trace.rates[row.backend]
        row.cost_usd = ledgers.cost_usd(
            rate, row.gpu_seconds, row.prompt_tokens, row.cached_tokens, row.completion_tokens
        )
    trace.prompt_tokens = sum(row.prompt_tokens for row in trace.branches if row.role not in SCORED)
    trace.completion_tokens = sum(row.completion_tokens for row in trace.branches)
    trace.tokens_exact = not any(row.estimated_tokens for row in trace.branches)
    trace.ledgers = branch_ledgers.of_trace(trace)


def _prompt_tokens(branches: Sequence[BranchStream], of_client: int) -> dict[int, int]:
    """Of each generation, by identity: a branch that ended before it told its own has as many as another with the same
    prompt, or as the proxy itself counted of the client's."""
    found: dict[int, int] = {id(WHOLE): of_client}
    for branch in branches:
        key = _prompt_of(branch)
        found[key] = max(found.get(key, 0), branch.prompt_tokens)
    return found


def _prompt_of(branch: BranchStream) -> int:
    return id(WHOLE if branch.generation.as_asked else branch.generation)


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
        wave=call.wave or 1,
        role=call.role,
    )


def _role(branch: BranchStream) -> str | None:
    """What a branch was for, where it is no answer to the client."""
    generation = branch.generation
    if generation.model == "judge":
        return "judge"
    return None if generation.final else "aside"


def _was_read(branch: BranchStream) -> bool:
    """As far as one can know: the engine had the prompt, and did not refuse it."""
    return branch.refusal is None and not isinstance(branch.error, ConnectFailed)


def _branch(branch: BranchStream, prompt_tokens: int, arrived_at: float, index: int) -> BranchTrace:
    def since(at: float | None) -> float | None:
        return None if at is None else round((at - arrived_at) * 1e3, 3)

    error = branch.error
    text, kind = None, None
    if error is not None:
        text, kind = error.safe, type(error).__name__
    elif branch.refusal is not None:
        text, kind = f"the backend answered {branch.refusal[0]}", str(branch.refusal[0])
    return BranchTrace(
        index=index,
        backend=branch.backend.name,
        outcome=branch.state,
        start_ms=since(branch.started_at) or 0.0,
        first_token_ms=since(branch.first_token_at),
        end_ms=since(branch.ended_at),
        prompt_tokens=branch.prompt_tokens or (prompt_tokens if _was_read(branch) else 0),
        cached_tokens=branch.cached_tokens,
        completion_tokens=branch.completion_tokens + branch.unseen_tokens,
        estimated_tokens=branch.unseen_tokens,
        reasoning_tokens=branch.reasoning_tokens,
        finish_reason=branch.finish_reason,
        gpu_seconds=branch.gpu_seconds,
        answer=branch.answer,
        score=branch.score,
        error=text,
        wave=branch.wave,
        role=_role(branch),
        error_type=kind,
        attempt=branch.attempt,
    )
