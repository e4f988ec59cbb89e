"""What a finished request teaches: how far off its backend was predicted, and how right its model is on the task."""

from __future__ import annotations

from typing import Any

from proxy.asking import Question
from proxy.correction import Forecast
from proxy.plan_run import PlanRun
from proxy.plans import Plan, Predicted
from proxy.quality_watch import Voted
from strategies.base import Outcome


def learn_latency(plan: Plan, run: PlanRun[Any], decided_at: float, percentile: float) -> None:
    """Correct the backend's predictions; a run with failed branches is not the one that was predicted."""
    known = plan.single_wave or not plan.predicted.prior  # waves that nobody measured are guessed
    if run.branches and not run.failed and known:
        predicted = plan.predicted
        tail_ms = predicted.uncut_ms or predicted.latency_ms
        waited_s = _waited_s(run) if predicted.wait_ms else 0.0
        if waited_s is None:
            return
        wait_ms = predicted.wait_ms
        forecast = Forecast(
            (predicted.median_ms - wait_ms) / 1e3,
            (tail_ms - wait_ms) / 1e3,
            percentile,
            predicted.bias,
            predicted.spread,
        )
        took_s = decided_at - run.branches[0].started_at - waited_s
        pace = _pace(run, predicted) if predicted.cut else None
        plan.backend.correction.observe(took_s, forecast, cut=run.cut_by_deadline, pace=pace)


def _pace(run: PlanRun[Any], predicted: Predicted) -> float | None:
    """Measured over predicted time per token."""
    paces = [b.pace_s for b in run.branches if b.backend is run.backend and b.pace_s is not None]
    return sum(paces) / len(paces) / (predicted.pace_ms / 1e3) if paces and predicted.pace_ms else None


def _waited_s(run: PlanRun[Any]) -> float | None:
    """For a seat, on average over the branches; None where some had none yet."""
    waits = [b.first_token_at - b.started_at for b in run.branches if b.first_token_at is not None]
    return sum(waits) / len(waits) if len(waits) == len(run.branches) else None


def learn_quality(plan: Plan, run: PlanRun[Any], outcome: Outcome, asked: Question) -> None:
    """How the branches agreed tells how right the model is on this task; a run with failed branches is another vote."""
    if plan.branches > 1 and not run.failed:
        agreement = outcome.agreement or 0.0
        voted = Voted(plan.strategy, plan.params, plan.branches, outcome.votes, agreement, run.cut_by_deadline)
        plan.served.observe_vote(asked.ask.task, asked.answers, asked.ask.max_tokens, voted)
