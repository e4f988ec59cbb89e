"""Which branches answer the client, once the strategy has decided or the deadline has."""

from __future__ import annotations

from proxy.plan_run import B, PlanRun
from strategies.base import Outcome


def winners(run: PlanRun[B], outcome: Outcome, wanted: int) -> list[B]:
    """The strategy's ranking; without one, the longest unfinished branch that has said something, or a part of an
    answer that no further part followed in time."""
    ranked = [run.branches[index] for index in outcome.ranking[:wanted]]
    if ranked:
        return [*ranked, *_further(run, outcome, wanted - len(ranked))]
    finals = [branch for branch in run.branches if branch.spoke and branch.generation.final]
    finished = run.finished
    unfinished = [branch for branch in finals if branch.state == "cancelled"] or [b for b in finals if b in finished]
    return sorted(unfinished, key=lambda branch: (-len(branch.generation.continues), -branch.completion_tokens))[:1]


def _further(run: PlanRun[B], outcome: Outcome, count: int) -> list[B]:
    """Whole answers that came after the decision, for a client that wants more than were ranked."""
    if count <= 0:
        return []
    ranked = set(outcome.ranking)
    return [branch for branch in run.finished if branch.generation.final and branch.index not in ranked][:count]
