"""Which plan? The one place where backend, strategy and sample count are chosen together.

Inputs: the SLO and pins of the request, its prompt length, the tables of its model, the backends' load now. Output: a
`Decision` with the plan, the predictions, and how many candidates each constraint dropped. Without an SLO every plan
is feasible and the objective alone decides. Without a profile or a quality table the tables hold a stated prior, and
the plan says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from profiler.prediction import LatencyTable, Setting
from proxy.backend import Backend
from proxy.catalog import Served
from proxy.controls import Slo

QUALITY_TIE = 0.005  # half a point of accuracy is not worth paying for
CANNOT_TELL = 1e3  # over the limit, as a log ratio, where it is unknown by how much; finite: other limits still count


@dataclass(frozen=True, slots=True)
class Ask:
    """What the planner needs to know of a request. `pinned`: (strategy, its parameters) fixed by the client."""

    slo: Slo
    task: str | None
    prompt_tokens: float
    max_tokens: int | None
    greedy: bool
    stream: bool = False
    pinned: tuple[str, dict[str, Any]] | None = None
    n: int | None = None
    at_least: int = 1  # answers wanted: fewer branches cannot give them
    single_only: str | None = None  # why only `none` may run, where that is so
    exclude: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Predicted:
    """Of one plan. Costs are attributed; `cost_usd` is None where the backend has no price."""

    latency_ms: float
    median_ms: float
    ttft_ms: float
    tpot_ms: float
    gpu_seconds: float
    cost_usd: float | None
    accuracy: float
    accuracy_lower: float
    prior: bool


@dataclass(frozen=True, slots=True)
class Plan:
    served: Served
    backend: Backend
    strategy: str
    params: dict[str, Any]
    branches: int
    predicted: Predicted


@dataclass(frozen=True, slots=True)
class Decision:
    """`feasible`: the plan is predicted to meet every demand. `gave_up`: the demands that it is not.

    `dropped`: candidates per constraint that dropped them; a candidate that fails several counts for the first.
    """

    plan: Plan
    feasible: bool
    considered: int
    dropped: dict[str, int] = field(default_factory=dict)
    gave_up: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NoCandidate:
    """Nothing can run at all: `reasons` counts why, per backend or candidate."""

    considered: int
    dropped: dict[str, int]


class Candidates:
    """All (backend × setting) of a request as parallel arrays; row i is one candidate."""

    def __init__(self, ask: Ask, models: Sequence[Served]) -> None:
        self.ask = ask
        self.dropped: dict[str, int] = {}
        self.rows: list[tuple[Served, Backend, Sequence[Setting], np.ndarray]] = []
        parts: list[tuple[np.ndarray, ...]] = []
        for served in models:
            settings, allowed = _allowed(served, ask)
            for backend in served.backends:
                reason = _unusable(backend, ask)
                if reason is not None:
                    self._drop(reason, len(settings) if allowed is None else int(allowed.sum()))
                    continue
                if allowed is None:
                    table = served.custom_latency(backend, ask.task, settings)
                else:
                    table = served.latency(backend, ask.task, ask.max_tokens)
                index = np.arange(len(settings)) if allowed is None else np.flatnonzero(allowed)
                if len(index):
                    self.rows.append((served, backend, settings, index))
                    parts.append(_columns(backend, settings, table, ask, index))
        self.empty = not parts
        if self.empty:
            return
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        self.tail_s, self.median_s, self.ttft_s, self.tpot_s, self.gpu_s, self.usd, self.lower, self.fits = columns
        self.starts = np.cumsum([0, *(len(index) for *_, index in self.rows)])

    def __len__(self) -> int:
        return 0 if self.empty else int(self.starts[-1])

    def _drop(self, reason: str, count: int) -> None:
        if count:
            self.dropped[reason] = self.dropped.get(reason, 0) + count

    def violations(self) -> dict[str, np.ndarray]:
        """Per demanded limit how far each candidate is over it, as a log ratio (0: within)."""
        slo = self.ask.slo
        found: dict[str, np.ndarray] = {"queue": np.where(self.fits, 0.0, 10.0)}
        with np.errstate(divide="ignore", invalid="ignore"):
            if slo.latency_ms is not None:
                found["latency"] = np.maximum(np.log(self.tail_s * 1e3 / slo.latency_ms), 0)
            if slo.ttft_ms is not None:
                found["ttft"] = np.maximum(np.log(self.ttft_s * 1e3 / slo.ttft_ms), 0)
            if slo.tpot_ms is not None:
                found["tpot"] = np.maximum(np.log(self.tpot_s * 1e3 / slo.tpot_ms), 0)
            if slo.cost_usd is not None:
                over = np.maximum(np.log(self.usd / slo.cost_usd), 0)
                found["cost"] = np.where(np.isnan(self.usd), CANNOT_TELL, over)
            if slo.quality is not None:
                found["quality"] = np.maximum(np.log(slo.quality / np.maximum(self.lower, 1e-6)), 0)
        return found

    def plan(self, row: int) -> Plan:
        block = int(np.searchsorted(self.starts, row, side="right")) - 1
        served, backend, settings, index = self.rows[block]
        setting = settings[int(index[row - self.starts[block]])]
        usd = float(self.usd[row])
        predicted = Predicted(
            latency_ms=float(self.tail_s[row] * 1e3),
            median_ms=float(self.median_s[row] * 1e3),
            ttft_ms=float(self.ttft_s[row] * 1e3),
            tpot_ms=float(self.tpot_s[row] * 1e3),
            gpu_seconds=float(self.gpu_s[row]),
            cost_usd=None if np.isnan(usd) else usd,
            accuracy=setting.accuracy,
            accuracy_lower=setting.accuracy_lower,
            prior=setting.prior,
        )
        return Plan(served, backend, setting.strategy, setting.params, setting.branches, predicted)


def choose(ask: Ask, models: Sequence[Served]) -> Decision | NoCandidate:
    """The best feasible plan, else the nearest one with what it gives up; NoCandidate where nothing can run."""
    candidates = Candidates(ask, models)
    dropped = dict(candidates.dropped)
    considered = len(candidates) + sum(dropped.values())
    if candidates.empty:
        return NoCandidate(considered, dropped)
    feasible = np.ones(len(candidates), bool)
    violations = candidates.violations()
    for limit, over in violations.items():
        failing = feasible & (over > 0)
        if count := int(failing.sum()):
            dropped[limit] = dropped.get(limit, 0) + count
            feasible &= ~failing
    row = _nearest(candidates, violations, np.arange(len(candidates)))
    gave_up = tuple(limit for limit, over in violations.items() if over[row] > 0)
    return Decision(candidates.plan(row), not gave_up, considered, dropped, gave_up)


def rank(ask: Ask, models: Sequence[Served]) -> list[tuple[Plan, tuple[str, ...]]]:
    """Every candidate with the limits that drop it, feasible ones first and best first: for people, not per request."""
    candidates = Candidates(ask, models)
    if candidates.empty:
        return []
    violations = candidates.violations()
    left = np.arange(len(candidates))
    order: list[int] = []
    while len(left):
        order.append(_nearest(candidates, violations, left))
        left = left[left != order[-1]]
    return [
        (candidates.plan(row), tuple(limit for limit, over in violations.items() if over[row] > 0)) for row in order
    ]


def _nearest(candidates: Candidates, violations: dict[str, np.ndarray], rows: np.ndarray) -> int:
    """The best of the feasible rows; where there are none, of those that are least over their limits together."""
    over = np.sum(list(violations.values()), axis=0)[rows]
    return _best(candidates, rows[over == over.min()], candidates.ask.slo.objective)


def _best(candidates: Candidates, rows: np.ndarray, objective: str) -> int:
    """The objective first; near-ties by attributed cost, then by latency."""
    cost = candidates.gpu_s if np.isnan(candidates.usd[rows]).any() else candidates.usd
    if objective == "latency":
        keys = (cost[rows], candidates.tail_s[rows])
    elif objective == "cost":
        keys = (-candidates.lower[rows], cost[rows])
    else:
        lower = candidates.lower[rows]
        near = lower >= lower.max() - QUALITY_TIE
        rows = rows[near]
        keys = (candidates.tail_s[rows], cost[rows])
    return int(rows[np.lexsort(keys)[0]])


def _allowed(served: Served, ask: Ask) -> tuple[Sequence[Setting], np.ndarray | None]:
    """The settings to consider, and which of them the request's own nature and pins allow (None: all, made to
    measure)."""
    settings = served.settings(ask.task, ask.max_tokens)
    if ask.pinned is not None:
        return [_pinned_setting(settings, *ask.pinned, greedy=ask.greedy)], None
    keep = np.array([setting.greedy == ask.greedy for setting in settings])
    if ask.single_only is not None:
        keep &= np.array([setting.strategy == "none" for setting in settings])
    branches = np.array([setting.branches for setting in settings])
    if ask.n is not None:
        if ask.n not in branches[keep]:
            return _with_n([setting for setting, kept in zip(settings, keep, strict=True) if kept], ask.n), None
        keep &= branches == ask.n
    return settings, keep & (branches >= ask.at_least)


def _with_n(settings: Sequence[Setting], n: int) -> list[Setting]:
    """Per strategy that takes an `n`, its nearest measured setting scaled to it."""
    scalable = [setting for setting in settings if "n" in setting.params and setting.params.get("m", 1) <= n]
    nearest: dict[str, Setting] = {}
    for setting in sorted(scalable, key=lambda s: abs(s.branches - n)):
        nearest.setdefault(setting.strategy, setting)
    return [setting.with_branches(n, {**setting.params, "n": n}) for setting in nearest.values()]


def _pinned_setting(settings: Sequence[Setting], strategy: str, params: dict[str, Any], *, greedy: bool) -> Setting:
    """The measured setting with these parameters, else the nearest of the strategy, scaled to its branches."""
    same = [s for s in settings if s.strategy == strategy and s.greedy == greedy] or [
        s for s in settings if s.strategy == strategy
    ]
    for setting in same:
        if setting.params == params:
            return setting
    branches = int(params.get("n", 1))
    nearest = min(
        same or settings, key=lambda s: (abs(s.branches - branches), abs(s.params.get("m", 0) - params.get("m", 0)))
    )
    scaled = nearest.with_branches(branches, params)
    return scaled if nearest.strategy == strategy else scaled.renamed(strategy)


def _unusable(backend: Backend, ask: Ask) -> str | None:
    if not backend.health.serving:
        return "unhealthy"
    if backend.name in ask.exclude:
        return "failed"
    if backend.config.sampling == "greedy" and not ask.greedy:
        return "sampling"
    return None


def _columns(
    backend: Backend, settings: Sequence[Setting], table: LatencyTable, ask: Ask, index: np.ndarray
) -> tuple[np.ndarray, ...]:
    load = backend.branches_running
    predicted = table.predict(load, ask.prompt_tokens, backend.correction.bias)
    gpu_s = predicted.busy_s * backend.config.gpus
    price = backend.config.gpu_hour_usd
    usd = np.full(len(settings), np.nan) if price is None else gpu_s * (price / 3600)
    lower = np.array([setting.accuracy_lower for setting in settings])
    fits = (table.branches == 1) | (load + table.branches <= backend.profile.max_num_seqs)
    # A scaled answer arrives whole: its first token is its last.
    ttft = np.where(table.branches == 1, predicted.ttft_s, predicted.tail_s)
    columns = (predicted.tail_s, predicted.median_s, ttft, predicted.tpot_s, gpu_s, usd, lower, fits)
    return tuple(column[index] for column in columns)
