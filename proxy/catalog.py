"""What can be chosen from: for every model its backends, and for every backend the predicted settings. Built from files
by `catalog_build.py`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from math import ceil, inf, log2

import numpy as np

from profiler.latency_rows import LOADS
from profiler.prediction import LatencyTable, Setting, Traffic
from profiler.quality_sections import AgreementCurve
from profiler.solve_rates import RateModel
from proxy.backend import Backend
from proxy.capabilities import ENGINE_NEEDS
from proxy.config import ModelConfig, PooledKind
from proxy.quality_watch import PriorWatch, QualityWatch, Voted
from proxy.tokens import TokenCounter
from strategies.answers import AnswerKind
from strategies.base import SCORER_NEEDS, Need, Scorer

log = logging.getLogger("paretoproxy")

Clock = Callable[[], float]
BUCKETS_PER_DOUBLING = 4
MAX_TABULATED_LOAD = 512
MAX_CUSTOM_TABLES = 512
MAX_ALLOWED = 4096
MODEL_NEEDS = frozenset({*SCORER_NEEDS.values(), Need.JUDGE, Need.LARGER_MODEL})


@dataclass(frozen=True, slots=True)
class TaskTable:
    """What is known of one model on one task. `settings`: sampled ones and the greedy `none`.

    `agreement`: how right votes are by how they agree, measured on `questions`; `longest`: of the samples, in tokens.
    """

    task: str | None
    answers: AnswerKind | None
    settings: tuple[Setting, ...]
    prior: bool
    mean_prompt_tokens: float
    agreement: Sequence[AgreementCurve] = ()
    questions: int = 0
    longest: int = 0

    @property
    def mean_output_tokens(self) -> float:
        """Of one whole sample: what others run is not known to be anything else."""
        return float(self._whole.mean()) if self.settings else 0.0

    @property
    def traffic(self) -> Traffic:
        """What others' branches look like."""
        lengths = self._whole if self.settings else np.zeros(1)
        written = float((lengths**2).mean() / (2 * max(lengths.mean(), 1.0)))
        return Traffic(self.mean_prompt_tokens, self.mean_output_tokens, written)

    @property
    def _whole(self) -> np.ndarray:
        whole = [setting for setting in self.settings if setting.branches == 1 and not setting.greedy]
        return (whole or self.settings)[0].lengths


@dataclass(slots=True)
class Served:
    """One model with its backends, tables and tokenizer, and the models that it may ask: a judge, a larger one, and
    those that score its answers."""

    config: ModelConfig
    backends: list[Backend]
    tables: dict[str | None, TaskTable]
    default_task: str | None
    counter: TokenCounter | None
    percentile: float
    watches: dict[str | None, QualityWatch] = field(default_factory=dict)
    judge: Served | None = None
    larger: Served | None = None
    scorers: dict[Scorer, Backend] = field(default_factory=dict)
    embedding: Backend | None = None
    step_token: str | None = None
    reads_thinking: frozenset[Scorer] = frozenset()
    gpus: np.ndarray = field(init=False)
    now: Callable[[], float] = time.time  # Unix seconds: prices change with the calendar
    max_num_seqs: np.ndarray = field(init=False)
    by_priority: np.ndarray = field(init=False)  # whether those that wait for a seat are ordered by their deadline
    _allowed: dict[tuple[Hashable, ...], np.ndarray] = field(default_factory=dict)
    _latency: dict[tuple[str | None, int], LatencyTable] = field(default_factory=dict)
    _custom: dict[tuple[str | None, int, Hashable], tuple[Sequence[Setting], LatencyTable]] = field(
        default_factory=dict
    )
    _single: dict[str, list[float]] = field(default_factory=dict)
    _settings: dict[tuple[str | None, int], tuple[Setting, ...]] = field(default_factory=dict)
    _usd_per_gpu_s: np.ndarray = field(init=False)
    _usd_per_token: np.ndarray | None = field(init=False)
    _prices_until: float = field(init=False, default=-inf)

    def __post_init__(self) -> None:
        """Per backend, as columns (backends, 1)."""
        column = (len(self.backends), 1)
        self.gpus = np.array([backend.config.gpus for backend in self.backends]).reshape(column)
        self.max_num_seqs = np.array([backend.profile.max_num_seqs for backend in self.backends]).reshape(column)
        self.by_priority = np.array([backend.line is not None for backend in self.backends]).reshape(column)

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def usd_per_gpu_s(self) -> np.ndarray:
        """Prices in force, (backends, 1); an unknown one is NaN."""
        self._look_at_prices()
        return self._usd_per_gpu_s

    @property
    def usd_per_token(self) -> np.ndarray | None:
        """Of a prompt's and of a generated token, where no GPU-hour has a price, (2, backends, 1), else NaN; None where
        there are no such backends."""
        self._look_at_prices()
        return self._usd_per_token

    def _look_at_prices(self) -> None:
        now = self.now()
        if now < self._prices_until:
            return
        rates = [backend.pricing.at(now) for backend in self.backends]
        hours = np.array([np.nan if rate.gpu_hour_usd is None else rate.gpu_hour_usd for rate in rates])
        tokens = [
            (rate.tokens.prompt, rate.tokens.completion)
            if rate.tokens is not None and rate.gpu_hour_usd is None
            else (np.nan, np.nan)
            for rate in rates
        ]
        billed = np.array(tokens).reshape(-1, 2).T[:, :, None] / 1e6
        self._usd_per_gpu_s = hours.reshape(-1, 1) / 3600
        self._usd_per_token = None if np.isnan(billed).all() else billed
        self._prices_until = min((backend.pricing.next_change(now) for backend in self.backends), default=inf)

    def table(self, task: str | None) -> TaskTable:
        """The task's table, or the prior that stands in for one."""
        if task not in self.tables:
            return self.tables[None]
        return self.tables[task]

    def settings(self, task: str | None, max_tokens: int | None) -> tuple[Setting, ...]:
        """The settings of a task when branches are cut at `max_tokens` (rounded up to a bucket)."""
        table = self.table(task)
        key = (table.task, _bucket(max_tokens))
        if key not in self._settings:
            self._settings[key] = tuple(setting.within(key[1] or None) for setting in table.settings)
        return self._settings[key]

    @property
    def has(self) -> frozenset[Need]:
        """The needs that the configuration meets, whatever its engines can."""
        others = {Need.JUDGE: self.judge, Need.LARGER_MODEL: self.larger}
        return frozenset(
            {SCORER_NEEDS[name] for name in self.scorers}
            | {need for need, model in others.items() if model is not None}
        )

    @property
    def met(self) -> frozenset[Need]:
        """Those of them that are met now: whose models serve, and are not known to be unable."""
        silent = {
            SCORER_NEEDS[name]
            for name, backend in self.scorers.items()
            if not backend.health.serving or backend.problem
        }
        if self.judge is not None and not self.judge.serves:
            silent.add(Need.JUDGE)
        if self.larger is not None and not self.larger.serves:
            silent.add(Need.LARGER_MODEL)
        return self.has - silent

    def problem_of(self, need: Need) -> str | None:
        """Why what is configured to score for the need cannot, where it was asked and cannot."""
        return next((scorer.problem for name, scorer in self.scorers.items() if SCORER_NEEDS[name] is need), None)

    @property
    def serves(self) -> bool:
        """At least one backend does."""
        return any(backend.health.serving for backend in self.backends)

    def allowed(
        self,
        task: str | None,
        max_tokens: int | None,
        greedy: bool,
        single_only: bool,
        at_least: int,
        lacking: frozenset[Need] = frozenset(),
        rights: tuple[int | None, frozenset[str] | None] = (None, None),
    ) -> np.ndarray:
        """Which of `settings` a request's nature admits, (settings,). `lacking`: needs that it does not meet itself.
        `rights`: how many branches, and which strategies besides `none`, the caller may use; None: all."""
        lacking |= MODEL_NEEDS - self.met
        key = (self.table(task).task, _bucket(max_tokens), greedy, single_only, at_least, lacking, rights)
        if key not in self._allowed:
            if len(self._allowed) >= MAX_ALLOWED:  # clients may ask for any combination
                self._allowed.clear()
            at_most, strategies = rights
            self._allowed[key] = np.array(
                [
                    setting.greedy == greedy
                    and (setting.strategy == "none" or not single_only)
                    and min(setting.branches, setting.lengths.shape[1]) >= at_least
                    and not (setting.needs & lacking)
                    and (at_most is None or setting.branches <= at_most)
                    and (strategies is None or setting.strategy == "none" or setting.strategy in strategies)
                    for setting in self.settings(task, max_tokens)
                ]
            )
        return self._allowed[key]

    def able(self, settings: Sequence[Setting], *, unless_known: bool) -> np.ndarray | None:
        """Which backends can what each setting needs of engines, (backends, settings); None where all can all."""
        needs = [frozenset(setting.needs & ENGINE_NEEDS.keys()) for setting in settings]
        if not any(needs):
            return None
        # Few settings need anything, and most of those the same: each is asked of each backend once.
        meet = {
            need: [backend.meets(need, unless_known=unless_known) for backend in self.backends] for need in set(needs)
        }
        return np.array([meet[need] for need in needs]).T

    def fastest(self, avoid: Container[str] = ()) -> Backend | None:
        """The backend on which one branch is predicted to be over first, of those that serve; `avoid`: names."""
        serving = [
            b for b in self.backends if b.health.serving and b.unfit(greedy=False) is None and b.name not in avoid
        ]
        return min(serving, key=self.single_latency_s, default=None)

    def latency(self, task: str | None, max_tokens: int | None) -> LatencyTable:
        """Latencies of `settings` on every backend; milliseconds each the first time, then a look-up."""
        key = (self.table(task).task, _bucket(max_tokens))
        if key not in self._latency:
            self._latency[key] = self._build(task, self.settings(task, max_tokens))
        return self._latency[key]

    def _build(self, task: str | None, settings: Sequence[Setting]) -> LatencyTable:
        profiles, traffic = [backend.profile for backend in self.backends], self.table(task).traffic
        return LatencyTable(profiles, settings, self.percentile, traffic)

    def single_latency_s(self, backend: Backend) -> float:
        """Median seconds of one plain request under the load now: a list look-up, for the pass-through path."""
        if not self._single:
            self._tabulate_single()
        seconds = self._single[backend.name]
        return seconds[min(int(backend.branches_running), MAX_TABULATED_LOAD)] * backend.correction.bias

    def warm_up(self) -> None:
        """Tabulate what a request without controls needs, so that none waits for it."""
        self._tabulate_single()

    def keep_watching(self, before: Served) -> None:
        """After a reload: what votes told of tasks whose tables have not changed is still known. On the loop."""
        for name, watch in before.watches.items():
            old, new = before.tables[name], self.tables.get(name)
            if new is None or (old.prior, old.agreement, old.questions) != (new.prior, new.agreement, new.questions):
                continue
            if name in self.watches:
                self.watches[name] = watch
                if isinstance(watch, PriorWatch):
                    watch.move_to(partial(self.believe, name))

    def _tabulate_single(self) -> None:
        table = self.latency(self.default_task, None)
        prompt = self.table(self.default_task).mean_prompt_tokens
        column = int(np.flatnonzero(table.branches == 1)[0])
        ones = np.ones(len(self.backends))
        # Between the loads of the table a median is linear, so nothing is lost by predicting at these alone.
        grid = np.array([table.predict(ones * load, prompt, ones).median_s[:, column] for load in LOADS])
        loads = np.arange(MAX_TABULATED_LOAD + 1)
        for index, backend in enumerate(self.backends):
            self._single[backend.name] = np.interp(loads, LOADS, grid[:, index]).tolist()

    def custom(
        self, task: str | None, max_tokens: int | None, key: Hashable, make: Callable[[], Sequence[Setting]]
    ) -> tuple[Sequence[Setting], LatencyTable]:
        """Settings that are not in the table (pinned ones), made once per `key`; the latest few are kept."""
        whole = (self.table(task).task, _bucket(max_tokens), key)
        found = self._custom.get(whole)
        if found is None:
            settings = make()
            found = settings, self._build(task, settings)
            while len(self._custom) >= MAX_CUSTOM_TABLES:
                self._custom.pop(next(iter(self._custom)))
            self._custom[whole] = found
        return found

    def observe_vote(self, task: str | None, answers: AnswerKind | None, max_tokens: int | None, voted: Voted) -> None:
        """What a finished vote says of accuracy; nothing where it is not a vote of the kind that the table knows: other
        answers than the task's, or cut shorter than its samples."""
        table = self.table(task)
        watch = self.watches.get(table.task)
        alike = table.answers in (None, answers) and (max_tokens is None or max_tokens >= table.longest)
        if watch is not None and alike:
            watch.observe(voted)

    def believe(self, task: str | None, accuracy: np.ndarray, lower: np.ndarray) -> None:
        """Replace what the prior assumes of its settings, (settings,) each; latencies stay as tabulated."""
        table = self.tables[task]
        settings = tuple(
            replace(setting, accuracy=float(a), accuracy_lower=float(low))
            for setting, a, low in zip(table.settings, accuracy, lower, strict=True)
        )
        self.tables[task] = replace(table, settings=settings)
        for key in [key for key in self._settings if key[0] == task]:
            self._settings[key] = tuple(setting.within(key[1] or None) for setting in settings)
            if key in self._latency:
                self._latency[key].accuracy_lower = np.array([s.accuracy_lower for s in self._settings[key]])
        for whole, (made, latency) in self._custom.items():
            if whole[0] == task:
                fresh = [_as_right_as_nearest(setting, self._settings[whole[:2]]) for setting in made]
                latency.accuracy_lower = np.array([s.accuracy_lower for s in fresh])
                self._custom[whole] = fresh, latency


def _as_right_as_nearest(setting: Setting, settings: Sequence[Setting]) -> Setting:
    """A setting that was scaled from the table's nearest one, with that one's accuracy."""
    same = [s for s in settings if (s.strategy, s.greedy) == (setting.strategy, setting.greedy)] or settings
    near = min(same, key=lambda s: (s.params != setting.params, abs(s.branches - setting.branches)))
    return replace(setting, accuracy=near.accuracy, accuracy_lower=near.accuracy_lower)


def _bucket(max_tokens: int | None) -> int:
    """0 for no limit, else rounded up to a quarter of a doubling: few tables, never an optimistic one."""
    if max_tokens is None or max_tokens > 1 << 20:
        return 0
    return ceil(2 ** (ceil(log2(max(1, max_tokens)) * BUCKETS_PER_DOUBLING) / BUCKETS_PER_DOUBLING))


@dataclass(frozen=True)
class Catalog:
    """All models by the name that clients use; a choice among models lists several."""

    served: Mapping[str, Served]
    choices: Mapping[str, tuple[Served, ...]]
    backends: tuple[Backend, ...]
    pooled: tuple[Backend, ...] = ()
    pooled_kinds: Mapping[str, PooledKind] = field(default_factory=dict)  # by their names
    priors: tuple[tuple[Setting, ...], RateModel] | None = None  # of the registry: most of the work of building one

    @cached_property
    def by_name(self) -> dict[str, Backend]:
        """Everything that a request may use."""
        return {backend.name: backend for backend in (*self.backends, *self.pooled)}

    def find(self, model: str) -> tuple[Served, ...] | None:
        return self.choices.get(model)

    @property
    def names(self) -> list[str]:
        return list(self.choices)
