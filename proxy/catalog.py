"""What can be chosen from: for every model its backends, and for every backend the predicted settings. Built once,
from files.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, log
from pathlib import Path

from profiler import profile_file, quality_file
from profiler.prediction import LatencyTable, Setting
from profiler.prior import prior_pool
from proxy.backend import Backend, open_backend
from proxy.config import BackendConfig, Config, ConfigError, ModelConfig
from proxy.tokenizer_json import UnsupportedTokenizer
from proxy.tokens import TokenCounter
from strategies.answers import AnswerKind
from strategies.registry import InvalidParameters, Registry

Clock = Callable[[], float]
BUCKETS_PER_DOUBLING = 4
MAX_TABULATED_LOAD = 512
MAX_CUSTOM_TABLES = 512


@dataclass(frozen=True, slots=True)
class TaskTable:
    """What is known of one model on one task. `settings`: sampled ones and the greedy `none`."""

    task: str | None
    answers: AnswerKind | None
    settings: tuple[Setting, ...]
    prior: bool
    mean_prompt_tokens: float


@dataclass(slots=True)
class Served:
    """One model with its backends, tables and tokenizer."""

    config: ModelConfig
    backends: list[Backend]
    tables: dict[str | None, TaskTable]
    default_task: str | None
    counter: TokenCounter | None
    percentile: float
    _latency: dict[tuple[str, str | None, int], LatencyTable] = field(default_factory=dict)
    _custom: dict[tuple[Hashable, ...], LatencyTable] = field(default_factory=dict)
    _single: dict[str, list[float]] = field(default_factory=dict)
    _settings: dict[tuple[str | None, int], tuple[Setting, ...]] = field(default_factory=dict)

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

    def latency(self, backend: Backend, task: str | None, max_tokens: int | None) -> LatencyTable:
        """Latencies of `settings` on one backend; a few milliseconds the first time, then a look-up."""
        table = self.table(task)
        key = (backend.name, table.task, _bucket(max_tokens))
        if key not in self._latency:
            settings = self.settings(task, max_tokens)
            context = table.mean_prompt_tokens + settings[0].steps.mean() / 2
            self._latency[key] = LatencyTable(backend.profile, settings, self.percentile, float(context))
        return self._latency[key]

    def single_latency_s(self, backend: Backend) -> float:
        """Median seconds of one plain request under the load now: a list look-up, for the pass-through path."""
        if backend.name not in self._single:
            table = self.latency(backend, self.default_task, None)
            prompt = self.table(self.default_task).mean_prompt_tokens
            row = next(i for i, s in enumerate(self.settings(self.default_task, None)) if s.branches == 1)
            loads = range(MAX_TABULATED_LOAD + 1)
            self._single[backend.name] = [float(table.predict(load, prompt).median_s[row]) for load in loads]
        seconds = self._single[backend.name]
        return seconds[min(int(backend.branches_running), MAX_TABULATED_LOAD)] * backend.correction.bias

    def custom_latency(self, backend: Backend, task: str | None, settings: Sequence[Setting]) -> LatencyTable:
        """The same for settings that are not in the table (pinned ones); the latest few are kept."""
        key = (backend.name, *(_identity(setting) for setting in settings))
        found = self._custom.get(key)
        if found is None:
            steps = settings[0].steps.mean() / 2 if settings else 0.0
            context = self.table(task).mean_prompt_tokens + steps
            found = LatencyTable(backend.profile, settings, self.percentile, float(context))
            while len(self._custom) >= MAX_CUSTOM_TABLES:
                self._custom.pop(next(iter(self._custom)))
            self._custom[key] = found
        return found


def _identity(setting: Setting) -> tuple[Hashable, ...]:
    """What a latency depends on: the work itself, and how it was scaled."""
    return (setting.strategy, setting.branches, float(setting.steps.sum()), float(setting.branch_steps.sum()))


def _bucket(max_tokens: int | None) -> int:
    """0 for no limit, else rounded up to a quarter of a doubling: few tables, never an optimistic one."""
    if max_tokens is None or max_tokens > 1 << 20:
        return 0
    return ceil(2 ** (ceil(log(max(1, max_tokens), 2) * BUCKETS_PER_DOUBLING) / BUCKETS_PER_DOUBLING))


@dataclass(frozen=True, slots=True)
class Catalog:
    """All models by the name that clients use; a choice among models lists several."""

    served: Mapping[str, Served]
    choices: Mapping[str, tuple[Served, ...]]
    backends: tuple[Backend, ...]

    def find(self, model: str) -> tuple[Served, ...] | None:
        return self.choices.get(model)

    @property
    def names(self) -> list[str]:
        return list(self.choices)


def build(config: Config, registry: Registry, clock: Clock) -> Catalog:
    """Raises ConfigError, naming the file that is at fault."""
    served = {
        model.name: _serve(model, config.slo.percentile, registry, clock) for model in config.models if model.backends
    }
    choices = {model.name: tuple(served[name] for name in (model.any_of or [model.name])) for model in config.models}
    backends = tuple(backend for model in served.values() for backend in model.backends)
    return Catalog(served, choices, backends)


def _serve(model: ModelConfig, percentile: float, registry: Registry, clock: Clock) -> Served:
    backends = [open_backend(backend, model.name, _profile(backend), clock) for backend in model.backends]
    tables: dict[str | None, TaskTable] = {None: _prior_table(registry, None, model.answers)}
    for task, path in model.quality.items():
        tables[task] = _measured_table(path, registry)
    if model.task is not None and model.task not in tables:
        tables[model.task] = _prior_table(registry, model.task, model.answers)
    return Served(model, backends, tables, model.task, _counter(model.tokenizer), percentile)


def _profile(backend: BackendConfig) -> profile_file.Profile | None:
    if backend.profile is None:
        return None
    try:
        return profile_file.read(backend.profile)
    except profile_file.ProfileError as error:
        raise ConfigError(f"backend {backend.name}: {error}") from error


def _counter(folder: Path | None) -> TokenCounter | None:
    if folder is None:
        return None
    try:
        return TokenCounter.from_folder(folder)
    except UnsupportedTokenizer:
        return None  # counted by the backend's own /tokenize


def _measured_table(path: Path, registry: Registry) -> TaskTable:
    try:
        quality = quality_file.read(path)
        settings = tuple(_setting(curve, registry, prior=False) for curve in quality.curves)
    except (quality_file.QualityError, InvalidParameters, ValueError) as error:
        raise ConfigError(f"quality table {path}: {error}") from error
    answers: AnswerKind = quality.answers  # type: ignore[assignment]
    return TaskTable(quality.task, answers, settings, prior=False, mean_prompt_tokens=quality.mean_prompt_tokens)


def _prior_table(registry: Registry, task: str | None, answers: AnswerKind | None) -> TaskTable:
    """Without a way to group answers only `none` can be chosen; with one, the prior's gains are assumed."""
    pool = prior_pool()
    curves = []
    for strategy in registry:
        if strategy.needs and answers is None:
            continue
        for params in strategy.grid():
            shape = strategy(params).shape()
            curves.append(quality_file.curve(strategy.name, params.model_dump(), shape, pool, greedy=False))
    greedy = quality_file.curve("none", {}, registry.build("none", {}).shape(), pool, greedy=True)
    settings = tuple(_setting(curve, registry, prior=True) for curve in [*curves, greedy])
    return TaskTable(task, answers, settings, prior=True, mean_prompt_tokens=200.0)


def _setting(curve: quality_file.Curve, registry: Registry, *, prior: bool) -> Setting:
    branches = registry.build(curve.strategy, curve.params).shape().branches
    return Setting.from_curve(curve, branches, prior=prior)
