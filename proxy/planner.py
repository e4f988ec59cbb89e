"""Which plan? The one place where backend, strategy and sample count are chosen together.

Inputs: the SLO and pins of the request, its prompt length, the tables of its model, the backends' load now. Output: a
`Decision` with the plan, the predictions, and how many candidates each constraint dropped. Without an SLO every plan
is feasible and the objective alone decides. Without a profile or a quality table the tables hold a stated prior, and
the plan says so.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
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


@dataclass(frozen=True, slots=True)
class _Block:
    """One model's candidates: (backends × settings), flattened, from `start` on."""

    served: Served
    settings: Sequence[Setting]
    start: int


class Candidates:
    """All (backend × setting) of a request as parallel flat arrays; `alive`: those that may run at all."""

    def __init__(self, ask: Ask, models: Sequence[Served]) -> None:
        self.ask = ask
        self.dropped: dict[str, int] = {}
        self.blocks: list[_Block] = []
        start, parts = 0, []
        for served in models:
            settings, table, allowed = _settings(served, ask)
            if not settings:
                continue
            self.blocks.append(_Block(served, settings, start))
            parts.append(self._columns(served, table, allowed))
            start += len(parts[-1][0])
        self.empty = not parts
        if self.empty:
            return
        columns = parts[0] if len(parts) == 1 else [np.concatenate(column) for column in zip(*parts, strict=True)]
        self.tail_s, self.median_s, self.ttft_s, self.tpot_s, self.gpu_s, self.usd = columns[:6]
        self.list_gpu_s, self.list_usd, self.lower, fits, alive = columns[6:]
        self.fits: np.ndarray = fits
        self.alive: np.ndarray = alive
        self.empty = not alive.any()

    def _columns(self, served: Served, table: LatencyTable, allowed: np.ndarray) -> Sequence[np.ndarray]:
        ask, backends = self.ask, served.backends
        usable = self._usable(backends, int(np.count_nonzero(allowed)))
        loads = np.array([backend.branches_running for backend in backends])
        bias = np.array([backend.correction.bias for backend in backends])
        spread = np.array([backend.correction.spread for backend in backends])
        predicted = table.predict(loads, ask.prompt_tokens, bias, spread)
        gpu_s = predicted.busy_s * served.gpus
        single = table.branches == 1
        # A scaled answer arrives whole: its first token is its last.
        ttft = np.where(single, predicted.ttft_s, predicted.tail_s)
        fits = single | (loads[:, None] + table.branches <= served.max_num_seqs)
        lower = np.repeat(table.accuracy_lower[None], len(backends), axis=0)
        alive = usable[:, None] & allowed
        # What a plan is compared by must not fall with the load: sharing makes a busy backend look cheap, and would
        # draw every request to it.
        list_gpu_s = table.idle_busy_s * served.gpus
        prices = served.usd_per_gpu_s
        columns = (predicted.tail_s, predicted.median_s, ttft, predicted.tpot_s, gpu_s, gpu_s * prices)
        return [column.ravel() for column in (*columns, list_gpu_s, list_gpu_s * prices, lower, fits, alive)]

    def _usable(self, backends: Sequence[Backend], settings: int) -> np.ndarray:
        """Per backend whether it may be used; counts the candidates of those that may not."""
        reasons = [_unusable(backend, self.ask) for backend in backends]
        for reason in reasons:
            if reason is not None and settings:
                self.dropped[reason] = self.dropped.get(reason, 0) + settings
        return np.array([reason is None for reason in reasons])

    def violations(self) -> dict[str, np.ndarray]:
        """Per demanded limit how far each candidate is over it, as a log ratio (0: within)."""
        slo = self.ask.slo
        found: dict[str, np.ndarray] = {}
        if not self.fits.all():
            found["queue"] = np.where(self.fits, 0.0, CANNOT_TELL)
        if not slo.demanding:
            return found
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
        block = next(block for block in reversed(self.blocks) if block.start <= row)
        served, (at, column) = block.served, divmod(row - block.start, len(block.settings))
        backend, setting = served.backends[at], block.settings[column]
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
    if candidates.empty:
        return NoCandidate(sum(dropped.values()), dropped)
    feasible = candidates.alive
    considered = int(np.count_nonzero(feasible)) + sum(dropped.values())
    violations = candidates.violations()
    for limit, over in violations.items():
        failing = feasible & (over > 0)
        if count := int(np.count_nonzero(failing)):
            dropped[limit] = dropped.get(limit, 0) + count
            feasible = feasible & ~failing
    row = _nearest(candidates, violations, np.flatnonzero(candidates.alive))
    gave_up = tuple(limit for limit, over in violations.items() if over[row] > 0)
    return Decision(candidates.plan(row), not gave_up, considered, dropped, gave_up)


def rank(ask: Ask, models: Sequence[Served]) -> list[tuple[Plan, tuple[str, ...]]]:
    """Every candidate with the limits that drop it, feasible ones first and best first: for people, not per request."""
    candidates = Candidates(ask, models)
    if candidates.empty:
        return []
    violations = candidates.violations()
    left = np.flatnonzero(candidates.alive)
    order: list[int] = []
    while len(left):
        order.append(_nearest(candidates, violations, left))
        left = left[left != order[-1]]
    return [
        (candidates.plan(row), tuple(limit for limit, over in violations.items() if over[row] > 0)) for row in order
    ]


def _nearest(candidates: Candidates, violations: dict[str, np.ndarray], rows: np.ndarray) -> int:
    """The best of the feasible rows; where there are none, of those that are least over their limits together."""
    if len(rows) == 1:
        return int(rows[0])
    if violations:
        over = sum(violations.values(), np.zeros(1))[rows]
        rows = rows[over == over.min()]
    return _best(candidates, rows, candidates.ask.slo.objective)


def _best(candidates: Candidates, rows: np.ndarray, objective: str) -> int:
    """The objective first; near-ties by what the plan costs on an idle backend, then by latency under the load now: of
    equal replicas the least busy one."""
    cost = candidates.list_gpu_s if np.isnan(candidates.list_usd[rows]).any() else candidates.list_usd
    keys: tuple[np.ndarray, ...]  # the last one counts first
    if objective == "latency":
        keys = (cost[rows], candidates.tail_s[rows])
    elif objective == "cost":
        keys = (candidates.tail_s[rows], -candidates.lower[rows], cost[rows])
    else:
        lower = candidates.lower[rows]
        near = lower >= lower.max() - QUALITY_TIE
        rows = rows[near]
        keys = (candidates.tail_s[rows], cost[rows])
    return int(rows[np.lexsort(keys)[0]])


def _settings(served: Served, ask: Ask) -> tuple[Sequence[Setting], LatencyTable, np.ndarray]:
    """The settings to consider, their latencies, and which of them the request's own nature and pins allow."""
    task, limit = ask.task, ask.max_tokens
    settings = served.settings(task, limit)
    if ask.pinned is not None:
        strategy, params = ask.pinned
        key: Hashable = (strategy, tuple(params.items()), ask.greedy)
        made, table = served.custom(
            task, limit, key, lambda: [_pinned_setting(settings, strategy, params, greedy=ask.greedy)]
        )
        return made, table, np.ones(1, bool)
    single = ask.single_only is not None
    keep = served.allowed(task, limit, ask.greedy, single, ask.at_least)
    if ask.n is None:
        return settings, served.latency(task, limit), keep
    exact = keep & np.array([setting.branches == ask.n for setting in settings])
    if exact.any():
        return settings, served.latency(task, limit), exact
    kept = [setting for setting, kept in zip(settings, keep, strict=True) if kept]
    key = ("n", ask.n, ask.greedy, single, ask.at_least)
    made, table = served.custom(task, limit, key, lambda: _with_n(kept, ask.n or 1))
    return made, table, np.ones(len(made), bool)


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
    return backend.unfit(ask.greedy)
