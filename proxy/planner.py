"""Which plan? The one place where backend, strategy and sample count are chosen together.

Inputs: the SLO and pins of the request, its prompt length, the tables of its model, the backends' load now. Output: a
`Decision` with the plan, the predictions, and how many candidates each constraint dropped. Without an SLO every plan
is feasible and the objective alone decides. Without a profile or a quality table the tables hold a stated prior, and
the plan says so. Among plans that are as good, chance decides where the caller gives a source of it (`ties.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np

from proxy.candidates import Candidates
from proxy.catalog import Served
from proxy.plans import Ask, Decision, NoCandidate, Plan
from proxy.ties import LATENCY_TIE, one_of

QUALITY_TIE = 0.005  # half a point of accuracy is not worth paying for
COST_TIE = 0.02  # less is beyond what a profile can tell


def choose(ask: Ask, models: Sequence[Served], rng: Random | None = None) -> Decision | NoCandidate:
    """The best feasible plan, else the nearest one with what it gives up; NoCandidate where nothing can run.

    Of plans that are as good, `rng` draws one; without it the first by `rank`'s order is taken.
    """
    candidates = Candidates(ask, models)
    if candidates.empty:
        dropped = dict(candidates.dropped)
        return NoCandidate(sum(dropped.values()), dropped)
    violations = candidates.violations()
    considered, dropped = count_dropped(candidates, violations)
    alive, over_in_all = np.flatnonzero(candidates.alive), _over_in_all(violations)
    row = _best(candidates, _nearest(over_in_all, alive, toll=candidates.toll))
    if rng is not None:
        row = _one_as_good(candidates, _nearest(over_in_all, alive, slack=LATENCY_TIE, toll=candidates.toll), row, rng)
    gave_up = tuple(limit for limit, over in violations.items() if over[row] > 0)
    return Decision(candidates.plan(row), not gave_up, considered, dropped, gave_up)


def count_dropped(candidates: Candidates, violations: dict[str, np.ndarray]) -> tuple[int, dict[str, int]]:
    """How many candidates there are, and how many each reason and then each limit drops."""
    dropped = dict(candidates.dropped)
    feasible = candidates.alive
    considered = int(np.count_nonzero(feasible)) + sum(dropped.values())
    for limit, over in violations.items():
        failing = feasible & (over > 0)
        if count := int(np.count_nonzero(failing)):
            dropped[limit] = dropped.get(limit, 0) + count
            feasible = feasible & ~failing
    return considered, dropped


def best_row(candidates: Candidates, violations: dict[str, np.ndarray]) -> int:
    """The row that `choose` takes where chance has no say."""
    return _best(candidates, _nearest(_over_in_all(violations), np.flatnonzero(candidates.alive)))


def rank(ask: Ask, models: Sequence[Served]) -> list[tuple[Plan, tuple[str, ...]]]:
    """Every candidate with the limits that drop it, feasible ones first and best first: for people, not per request."""
    candidates = Candidates(ask, models)
    if candidates.empty:
        return []
    violations = candidates.violations()
    left, over_in_all = np.flatnonzero(candidates.alive), _over_in_all(violations)
    order: list[int] = []
    while len(left):
        order.append(_best(candidates, _nearest(over_in_all, left, toll=candidates.toll)))
        left = left[left != order[-1]]
    return [
        (candidates.plan(row), tuple(limit for limit, over in violations.items() if over[row] > 0)) for row in order
    ]


def _over_in_all(violations: dict[str, np.ndarray]) -> np.ndarray | None:
    """How far each candidate is over its limits together; None where nothing is demanded."""
    return sum(violations.values(), np.zeros(1)) if violations else None


def _nearest(
    over_in_all: np.ndarray | None, rows: np.ndarray, slack: float = 0.0, toll: np.ndarray | None = None
) -> np.ndarray:
    """The feasible rows; where there are none, those that are least over their limits together, or by up to `slack`
    more (a log ratio), the toll included."""
    if over_in_all is None or len(rows) == 1:
        return rows
    over = over_in_all[rows]
    least = float(over.min())
    if least > 0 and toll is not None:  # demands that nobody meets are no reason to hold up everybody
        over = over + toll[rows]
        least = float(over.min())
    nearest: np.ndarray = rows[over <= (least + slack if least > 0 else 0.0)]
    return nearest


def _best(candidates: Candidates, rows: np.ndarray) -> int:
    """The objective first; near-ties by cost (see `compared_cost`), then by latency under the load now: of equal
    replicas the least busy one."""
    if len(rows) == 1:
        return int(rows[0])
    objective = candidates.ask.slo.objective
    keys: tuple[np.ndarray, ...]  # the last one counts first
    if objective == "quality":
        worth = candidates.worth(rows)
        rows = rows[worth >= worth.max() - QUALITY_TIE]
    cost, tail_s = candidates.compared_cost(rows), candidates.tail_s[rows]
    if objective == "latency":
        keys = (cost, tail_s)
    elif objective == "cost":
        keys = (tail_s, -candidates.lower[rows], cost)
    else:
        keys = (tail_s, cost)
    return int(rows[np.lexsort(keys)[0]])


def _one_as_good(candidates: Candidates, rows: np.ndarray, best: int, rng: Random) -> int:
    """One of the rows that are no less accurate than the best and would cost as much on an idle backend: what is left
    to tell them apart is the load, which other proxies change while nobody looks."""
    if len(rows) == 1:
        return best
    cost = candidates.list_cost(rows)
    as_cheap = cost <= cost[rows == best] * (1 + COST_TIE)
    equal = rows[as_cheap & (candidates.worth(rows) >= candidates.worth(best))]
    return int(equal[one_of(candidates.tail_s[equal].tolist(), rng)]) if len(equal) > 1 else best
