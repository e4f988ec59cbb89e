"""Every backend × setting that a request could have, as flat arrays: what each would take, cost and be worth, and which
may run at all. `planner.py` chooses among them.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from profiler.prediction import LatencyTable, Prediction, Setting
from proxy.backend import Backend
from proxy.capabilities import ENGINE_NEEDS
from proxy.catalog import MODEL_NEEDS, Served
from proxy.plans import Ask, Pinned, Plan, Predicted

MOST_WAVES = 16  # of a pinned strategy that was never measured
# Accuracy that one more branch must be worth for each second of line that the engine has: what it takes from those to
# come. Chosen in `make proof`: without it early votes are large and late ones starve.
TOLL_PER_S = 0.0012
OVERFLOWS = 1e6  # an engine's queue: given up last of all
CANNOT_TELL = 1e3  # over the limit, as a log ratio, where it is unknown by how much; finite: other limits still count


@dataclass(frozen=True, slots=True)
class _Block:
    """One model's candidates: (backends × settings), flattened, from `start` on."""

    served: Served
    settings: Sequence[Setting]
    table: LatencyTable
    start: int


class Candidates:
    """All (backend × setting) of a request as parallel flat arrays; `alive`: those that may run at all.

    `toll`: accuracy that a plan takes from those who wait and who come while they do. `price`: USD per GPU-second, NaN
    where unknown. `cost_usd`: at that, or, where GPU-hours have no price, at the one per token. `list_gpu_s`: what a
    plan would be charged on an idle backend.
    """

    def __init__(self, ask: Ask, models: Sequence[Served]) -> None:
        self.ask = ask
        self.dropped: dict[str, int] = {}
        self.blocks: list[_Block] = []
        start, parts = 0, []
        for served in models:
            settings, table, allowed = _settings(served, ask)
            if not settings:
                continue
            self.blocks.append(_Block(served, settings, table, start))
            parts.append(self._columns(served, settings, table, allowed))
            start += len(parts[-1][0])
        self.empty = not parts
        if self.empty:
            return
        columns = parts[0] if len(parts) == 1 else [np.concatenate(column) for column in zip(*parts, strict=True)]
        self.tail_s, self.median_s, self.ttft_s, self.tpot_s, self.gpu_s = columns[:5]
        self.list_gpu_s, self.congestion_gpu_s, self.price, self.cost_usd = columns[5:9]
        self.lower, self.uncut_s, fits, alive, self.toll, self.wait_s, self.pace_s = columns[9:]
        self.fits: np.ndarray = fits
        self.alive: np.ndarray = alive
        self.empty = not alive.any()

    def _columns(
        self, served: Served, settings: Sequence[Setting], table: LatencyTable, allowed: np.ndarray
    ) -> Sequence[np.ndarray]:
        ask, backends = self.ask, served.backends
        loads, bias, spread = np.array(
            [(b.gpu_time.running + b.gpu_time.others, b.correction.bias, b.correction.spread) for b in backends]
        ).T
        predicted = table.predict(loads, ask.prompt_tokens, bias, spread, self._passed(backends))
        single = table.branches == 1
        fits = single | (loads[:, None] + table.branches <= served.max_num_seqs)
        if ask.slo.latency_ms is not None:
            # The wait is predicted, and the deadline decides. Where the line is first come, first served, those with
            # less time would pay for it.
            fits = fits | served.by_priority
        lower = np.repeat(table.accuracy_lower[None], len(backends), axis=0)
        lower, tail_s = self._by_the_deadline(table, predicted, lower)
        # A scaled answer arrives whole: its first token is its last.
        ttft = np.where(single, predicted.ttft_s, tail_s)
        alive = self._usable(backends, table, allowed)
        if not ask.greedy and table.turns_greedy.any():
            barred = np.array([backend.unfit(greedy=True) is not None for backend in backends])
            unfit = alive & barred[:, None] & table.turns_greedy
            if count := int(np.count_nonzero(unfit)):
                self.dropped["disagrees"] = self.dropped.get("disagrees", 0) + count
            alive = alive & ~unfit
        if not allowed.any() and ask.pinned is not None:
            self.dropped["needs-unserved"] = self.dropped.get("needs-unserved", 0) + len(backends)
        engine_needs = table.needs & ENGINE_NEEDS.keys()
        able = served.able(settings, unless_known=ask.pinned is not None) if engine_needs else None
        if able is not None:
            if unable := int(np.count_nonzero(alive & ~able)):
                self.dropped["incapable"] = self.dropped.get("incapable", 0) + unable
            alive = alive & able
        line_s = np.maximum(loads - served.max_num_seqs[:, 0], 0.0) * table.turnover_s
        toll = np.multiply.outer(TOLL_PER_S * line_s, table.mean_tokens / table.branch_tokens)
        price = np.repeat(served.usd_per_gpu_s, len(table.branches), axis=1)
        seconds = (tail_s, predicted.median_s, ttft, predicted.tpot_s)
        gpu_seconds = (predicted.busy_s, table.idle_busy_s, predicted.congestion_s)
        costs = [busy_s * served.gpus for busy_s in gpu_seconds]
        usd = costs[0] * price
        if (tokens := served.usd_per_token) is not None:
            billed = tokens[0] * ask.prompt_tokens * table.branches + tokens[1] * table.mean_tokens
            usd = np.where(np.isnan(usd), billed, usd)
        others = (price, usd, lower, predicted.tail_s, fits, alive, toll, predicted.wait_s, predicted.pace_s)
        return [column.ravel() for column in (*seconds, *costs, *others)]

    def _by_the_deadline(
        self, table: LatencyTable, predicted: Prediction, lower: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Accuracy's lower bound and latency of plans as the deadline leaves them. One that would end too late is cut:
        its branches have so many tokens as fit, those that need more abstain, and the others' vote is in time."""
        if self.ask.slo.latency_ms is None:
            return lower, predicted.tail_s
        slo_s = self.ask.slo.latency_ms / 1e3
        within = table.lower_within((slo_s - predicted.begin_s) / predicted.pace_s)
        if within is None:
            return lower, predicted.tail_s
        cut = (predicted.tail_s > slo_s) & (within > 0)
        return np.where(cut, within, lower), np.where(cut, slo_s, predicted.tail_s)

    def worth(self, rows: np.ndarray | int) -> np.ndarray:
        """Accuracy's lower bound less the toll: what one vote is worth to all."""
        worth: np.ndarray = self.lower[rows] - self.toll[rows]
        return worth

    def list_cost(self, rows: np.ndarray) -> np.ndarray:
        """What each row would cost on an idle backend: in USD, or in GPU-seconds where one of them has no price."""
        cost: np.ndarray = self.list_gpu_s[rows] * self._prices(rows)
        return cost

    def compared_cost(self, rows: np.ndarray) -> np.ndarray:
        """What plans are compared by: the idle price, and what they add to the charges of the others now running. Not
        the request's own charge, which falls with the load: sharing makes a busy backend look cheap, and would draw
        every request to it."""
        cost: np.ndarray = (self.list_gpu_s[rows] + self.congestion_gpu_s[rows]) * self._prices(rows)
        return cost

    def _prices(self, rows: np.ndarray) -> np.ndarray | float:
        prices = self.price[rows]
        return 1.0 if np.isnan(prices).any() else prices

    def _passed(self, backends: Sequence[Backend]) -> np.ndarray:
        """Branches that wait on each and are due later."""
        due_s = self.ask.due_s
        if due_s is None:
            return np.zeros(len(backends))
        return np.array([0.0 if b.line is None else b.line.behind(due_s) for b in backends])

    def _usable(self, backends: Sequence[Backend], table: LatencyTable, allowed: np.ndarray) -> np.ndarray:
        """Whether it may be used, (backends, settings); counts the candidates that may not. A backend at which requests
        above temperature 0 may not run takes settings of theirs that ask at 0 alone."""
        ask = self.ask
        usable = np.repeat(allowed[None], len(backends), axis=0)
        for row, backend in enumerate(backends):
            reason = _unusable(backend, ask)
            if reason is None:
                continue
            greedy = reason in ("sampling", "disagrees") and not ask.greedy and backend.unfit(greedy=True) is None
            usable[row] &= table.turns_greedy & (table.branches == 1) & greedy
            if count := int(np.count_nonzero(allowed & ~usable[row])):
                self.dropped[reason] = self.dropped.get(reason, 0) + count
        return usable

    def violations(self) -> dict[str, np.ndarray]:
        """Per demanded limit how far each candidate is over it, as a log ratio (0: within)."""
        slo = self.ask.slo
        found: dict[str, np.ndarray] = {}
        if not self.fits.all():
            found["queue"] = np.where(self.fits, 0.0, OVERFLOWS)
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
                over = np.maximum(np.log(self.cost_usd / slo.cost_usd), 0)
                found["cost"] = np.where(np.isnan(self.cost_usd), CANNOT_TELL, over)
            if slo.quality is not None:
                found["quality"] = np.maximum(np.log(slo.quality / np.maximum(self.lower, 1e-6)), 0)
        return found

    def plan(self, row: int) -> Plan:
        block = next(block for block in reversed(self.blocks) if block.start <= row)
        served, (at, column) = block.served, divmod(row - block.start, len(block.settings))
        backend, setting = served.backends[at], block.settings[column]
        gpu_s, congestion_gpu_s, price = (float(c[row]) for c in (self.gpu_s, self.congestion_gpu_s, self.price))
        cost_usd = float(self.cost_usd[row])
        cut = bool(self.uncut_s[row] > self.tail_s[row])
        predicted = Predicted(
            latency_ms=float(self.tail_s[row] * 1e3),
            median_ms=float(self.median_s[row] * 1e3),
            ttft_ms=float(self.ttft_s[row] * 1e3),
            tpot_ms=float(self.tpot_s[row] * 1e3),
            gpu_seconds=gpu_s,
            cost_usd=None if np.isnan(cost_usd) else cost_usd,
            congestion_gpu_seconds=congestion_gpu_s,
            congestion_usd=None if np.isnan(price) else congestion_gpu_s * price,
            tokens=float(block.table.mean_tokens[column]),
            bias=backend.correction.bias,
            spread=backend.correction.spread,
            accuracy=setting.accuracy - setting.accuracy_lower + float(self.lower[row]),
            accuracy_lower=float(self.lower[row]),
            prior=setting.prior,
            cut=cut,
            wait_ms=float(self.wait_s[row] * 1e3),
            pace_ms=float(self.pace_s[row] * 1e3),
            uncut_ms=float(self.uncut_s[row] * 1e3) if cut else None,
        )
        alone = not setting.later
        return Plan(served, backend, setting.strategy, setting.params, setting.branches, predicted, alone)


def _settings(served: Served, ask: Ask) -> tuple[Sequence[Setting], LatencyTable, np.ndarray]:
    """The settings to consider, their latencies, and which of them the request's own nature and pins allow."""
    task, limit = ask.task, ask.max_tokens
    settings = served.settings(task, limit)
    if (pinned := ask.pinned) is not None:
        key: Hashable = (pinned.strategy, repr(pinned.params), ask.greedy)
        made, table = served.custom(task, limit, key, lambda: [_pinned_setting(settings, pinned, greedy=ask.greedy)])
        return made, table, np.full(1, not (pinned.needs & MODEL_NEEDS - served.met))
    single = ask.single_only is not None
    rights = ask.at_most, ask.strategies
    keep = served.allowed(task, limit, ask.greedy, single, ask.at_least, ask.lacking, rights)
    if ask.n is None:
        return settings, served.latency(task, limit), keep
    exact = keep & np.array([setting.branches == ask.n for setting in settings])
    if exact.any():
        return settings, served.latency(task, limit), exact
    kept = [setting for setting, kept in zip(settings, keep, strict=True) if kept]
    key = ("n", ask.n, ask.greedy, single, ask.at_least, ask.lacking, served.met, rights)
    made, table = served.custom(task, limit, key, lambda: _with_n(kept, ask.n or 1))
    return made, table, np.ones(len(made), bool)


def _with_n(settings: Sequence[Setting], n: int) -> list[Setting]:
    """Per strategy that takes an `n`, its nearest measured setting scaled to it."""
    scalable = [setting for setting in settings if "n" in setting.params and setting.params.get("m", 1) <= n]
    scalable = [setting for setting in scalable if not setting.later]
    nearest: dict[str, Setting] = {}
    for setting in sorted(scalable, key=lambda s: abs(s.branches - n)):
        nearest.setdefault(setting.strategy, setting)
    return [setting.with_branches(n, {**setting.params, "n": n}) for setting in nearest.values()]


def _pinned_setting(settings: Sequence[Setting], pinned: Pinned, *, greedy: bool) -> Setting:
    """The measured setting with these parameters, else the nearest of the strategy, scaled to its branches; of one that
    was never measured, as many samples in as many waves."""
    same = [s for s in settings if s.strategy == pinned.strategy]
    same = [s for s in same if s.greedy == greedy] or same
    for setting in same:
        if setting.params == pinned.params:
            return setting
    m, at_once = pinned.params.get("m", 0), [s for s in same if not s.later]
    nearest = min(
        at_once or same or [s for s in settings if not s.later],
        key=lambda s: (abs(s.branches - pinned.branches), abs(s.params.get("m", 0) - m)),
    )
    if at_once and pinned.window is not None:  # all of its windows run
        a_window = nearest.with_branches(pinned.window, pinned.params)
        scaled = replace(a_window.repeated(pinned.waves), branches=pinned.branches)
    else:
        scaled = nearest.with_branches(pinned.branches, pinned.params)
        if not same:
            scaled = scaled.renamed(pinned.strategy).repeated(min(pinned.waves, MOST_WAVES))
    return replace(scaled, needs=pinned.needs)


def _unusable(backend: Backend, ask: Ask) -> str | None:
    if not backend.health.serving:
        return "unhealthy"
    if ask.exclude and backend.name in ask.exclude:
        return "failed"
    return backend.unfit(ask.greedy)
