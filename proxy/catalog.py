"""What can be chosen from: for every model its backends, and for every backend the predicted settings. Built once,
from files.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from math import ceil, log2
from pathlib import Path

import numpy as np

from profiler import quality_file, verdict
from profiler.budgets import find
from profiler.latency_rows import LOADS
from profiler.prediction import LatencyTable, Setting, Traffic
from profiler.prior import prior_pool
from profiler.quality_sections import AgreementCurve, BudgetCurve
from profiler.solve_rates import RateModel, rate_model
from profiler.verdict import SamplingSetting
from proxy.backend import Backend, open_backend
from proxy.capabilities import ENGINE_NEEDS
from proxy.config import BackendConfig, Config, ConfigError, ModelConfig
from proxy.model_files import ModelFiles
from proxy.quality_watch import PriorWatch, QualityWatch, TableWatch, Voted
from proxy.scoring import KINDS
from proxy.tokens import TokenCounter
from strategies.answers import AnswerKind
from strategies.base import SCORER_NEEDS, Need, Scorer
from strategies.registry import InvalidParameters, Registry

log = logging.getLogger("paretoproxy")

Clock = Callable[[], float]
BUCKETS_PER_DOUBLING = 4
MAX_TABULATED_LOAD = 512
MAX_CUSTOM_TABLES = 512
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
    usd_per_gpu_s: np.ndarray = field(init=False)
    max_num_seqs: np.ndarray = field(init=False)
    _allowed: dict[tuple[Hashable, ...], np.ndarray] = field(default_factory=dict)
    _latency: dict[tuple[str | None, int], LatencyTable] = field(default_factory=dict)
    _custom: dict[tuple[str | None, int, Hashable], tuple[Sequence[Setting], LatencyTable]] = field(
        default_factory=dict
    )
    _single: dict[str, list[float]] = field(default_factory=dict)
    _settings: dict[tuple[str | None, int], tuple[Setting, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Per backend, as columns (backends, 1); an unknown price is NaN."""
        column = (len(self.backends), 1)
        prices = [backend.config.gpu_hour_usd for backend in self.backends]
        self.gpus = np.array([backend.config.gpus for backend in self.backends]).reshape(column)
        self.usd_per_gpu_s = np.array([np.nan if price is None else price / 3600 for price in prices]).reshape(column)
        self.max_num_seqs = np.array([backend.profile.max_num_seqs for backend in self.backends]).reshape(column)

    @property
    def name(self) -> str:
        return self.config.name

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
        """Those of them that are met now: whose models serve."""
        silent = {SCORER_NEEDS[name] for name, backend in self.scorers.items() if not backend.health.serving}
        if self.judge is not None and not self.judge.serves:
            silent.add(Need.JUDGE)
        if self.larger is not None and not self.larger.serves:
            silent.add(Need.LARGER_MODEL)
        return self.has - silent

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
    ) -> np.ndarray:
        """Which of `settings` a request's nature admits, (settings,). `lacking`: needs that it does not meet itself."""
        lacking |= MODEL_NEEDS - self.met
        key = (self.table(task).task, _bucket(max_tokens), greedy, single_only, at_least, lacking)
        if key not in self._allowed:
            self._allowed[key] = np.array(
                [
                    setting.greedy == greedy
                    and (setting.strategy == "none" or not single_only)
                    and setting.branches >= at_least
                    and not (setting.needs & lacking)
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

    def fastest(self) -> Backend | None:
        """The backend on which one branch is predicted to be over first, of those that serve."""
        serving = [b for b in self.backends if b.health.serving and b.unfit(greedy=False) is None]
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

    @cached_property
    def by_name(self) -> dict[str, Backend]:
        """Everything that a request may use."""
        return {backend.name: backend for backend in (*self.backends, *self.pooled)}

    def find(self, model: str) -> tuple[Served, ...] | None:
        return self.choices.get(model)

    @property
    def names(self) -> list[str]:
        return list(self.choices)


def build(config: Config, registry: Registry, clock: Clock) -> Catalog:
    """Raises ConfigError, naming the file that is at fault."""
    assumed, rates, files = _prior_settings(registry), rate_model(registry), ModelFiles()
    served = {
        model.name: _serve(model, config.slo.percentile, registry, clock, files, assumed, rates)
        for model in config.models
        if model.backends
    }
    choices = {model.name: tuple(served[name] for name in (model.any_of or [model.name])) for model in config.models}
    backends = tuple(backend for model in served.values() for backend in model.backends)
    pooled = {one.name: open_backend(one.as_backend, one.model or one.name, None, clock) for one in config.pooled()}
    for model in served.values():
        _introduce(model, served, pooled)
    return Catalog(served, choices, backends, tuple(pooled.values()))


def _introduce(model: Served, served: Mapping[str, Served], pooled: Mapping[str, Backend]) -> None:
    """The models that it may ask."""
    config = model.config
    model.judge = served[config.judge] if config.judge is not None else None
    model.larger = served[config.larger_model] if config.larger_model is not None else None
    model.scorers = {KINDS[reward.kind]: pooled[reward.name] for reward in config.reward_model}
    model.reads_thinking = frozenset(KINDS[reward.kind] for reward in config.reward_model if reward.reads_thinking)
    model.step_token = next((r.step_token for r in config.reward_model if r.kind == "process"), None)
    model.embedding = pooled[config.embedding_model.name] if config.embedding_model is not None else None


def _serve(
    model: ModelConfig,
    percentile: float,
    registry: Registry,
    clock: Clock,
    files: ModelFiles,
    assumed: tuple[Setting, ...],
    rates: RateModel,
) -> Served:
    backends = [open_backend(backend, model.name, files.profile(backend), clock) for backend in model.backends]
    for backend in backends:
        backend.disagrees = _disagrees(backend.config)
    tables: dict[str | None, TaskTable] = {None: _prior_table(None, model.answers, assumed)}
    for task, path in model.quality.items():
        tables[task] = _measured_table(path, registry)
    if model.task is not None and model.task not in tables:
        tables[model.task] = _prior_table(model.task, model.answers, assumed)
    served = Served(model, backends, tables, model.task, files.counter(model.tokenizer), percentile)
    for name, table in tables.items():
        if table.prior:
            served.watches[name] = PriorWatch(rates, partial(served.believe, name))
        elif table.agreement:
            served.watches[name] = TableWatch(model.name, str(name), table.agreement, table.questions)
    return served


def _disagrees(backend: BackendConfig) -> frozenset[SamplingSetting]:
    """The settings that the last check found wrong; none where no check was made."""
    if backend.profile is None:
        return frozenset()
    path = verdict.agreement_path(backend.profile)
    try:
        agreement = verdict.read(path)
    except verdict.AgreementError as error:
        raise ConfigError(f"backend {backend.name}: {error}") from error
    if agreement is None:
        return frozenset()
    for found in agreement.verdicts:
        if found.verdict == "differs" and (found.setting == "greedy" or backend.sampling == "all"):
            log.warning("backend %s gets no %s requests: %s (%s)", backend.name, found.setting, found.reason, path.name)
    return agreement.differing


def _measured_table(path: Path, registry: Registry) -> TaskTable:
    try:
        quality = quality_file.read(path)
        settings = tuple(_setting(curve, registry, quality.budgets) for curve in quality.curves)
    except (quality_file.QualityError, InvalidParameters, ValueError) as error:
        raise ConfigError(f"quality table {path}: {error}") from error
    answers: AnswerKind = quality.answers  # type: ignore[assignment]
    longest = quality.lengths.longest if quality.lengths is not None else 0
    return TaskTable(
        quality.task,
        answers,
        settings,
        prior=False,
        mean_prompt_tokens=quality.mean_prompt_tokens,
        agreement=quality.agreement,
        questions=quality.questions,
        longest=longest,
    )


def _prior_table(task: str | None, answers: AnswerKind | None, assumed: tuple[Setting, ...]) -> TaskTable:
    return TaskTable(task, answers, assumed, prior=True, mean_prompt_tokens=200.0)


def _prior_settings(registry: Registry) -> tuple[Setting, ...]:
    """Every strategy's gains as the prior has them; whether a request may vote at all is the request's affair."""
    pool = prior_pool()
    curves = [
        quality_file.curve(strategy.name, params.model_dump(), strategy(params).shape(), pool, greedy=False)
        for strategy in registry
        for params in strategy.grid()
        if strategy(params).shape().votes
    ]
    curves.append(quality_file.curve("none", {}, registry.build("none", {}).shape(), pool, greedy=True))
    return tuple(_setting(curve, registry, prior=True) for curve in curves)


def _setting(
    curve: quality_file.Curve, registry: Registry, budgets: Sequence[BudgetCurve] = (), *, prior: bool = False
) -> Setting:
    strategy = registry.build(curve.strategy, curve.params)
    branches = strategy.shape().branches
    budget = find(budgets, curve.strategy, curve.params, greedy=curve.greedy)
    return Setting.from_curve(curve, branches, prior=prior, budget=budget, needs=strategy.required())
