"""The catalog from its files: profiles, quality tables, tokenizers, and the verdicts of the test of agreement."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from profiler import quality_file, verdict
from profiler.budgets import find
from profiler.prediction import Setting
from profiler.prior import prior_pool
from profiler.quality_sections import BudgetCurve
from profiler.solve_rates import RateModel, assumed, rate_model
from profiler.verdict import SamplingSetting
from proxy.backend import Backend, continued, open_backend
from proxy.catalog import Catalog, Served, TaskTable
from proxy.config import BackendConfig, Config, ConfigError, ModelConfig
from proxy.model_files import ModelFiles
from proxy.quality_watch import PriorWatch, TableWatch
from proxy.scoring import KINDS
from strategies.answers import AnswerKind
from strategies.registry import InvalidParameters, Registry

log = logging.getLogger("paretoproxy")

Clock = Callable[[], float]


def build(config: Config, registry: Registry, clock: Clock, before: Catalog | None = None) -> Catalog:
    """Raises ConfigError, naming the file that is at fault. What stays of the catalog `before` keeps its connections,
    load, health and corrections; it is only read here, and of the same registry."""
    priors = before.priors if before is not None else None
    assumed, rates = priors or (_prior_settings(registry), rate_model(registry))
    files = ModelFiles()
    known = before.by_name if before is not None else {}
    served = {
        model.name: _serve(model, config, registry, clock, files, assumed, rates, known)
        for model in config.models
        if model.backends
    }
    choices = {model.name: tuple(served[name] for name in (model.any_of or [model.name])) for model in config.models}
    backends = tuple(backend for model in served.values() for backend in model.backends)
    pooled = {
        one.name: continued(
            known.get(one.name),
            open_backend(one.as_backend, one.model or one.name, None, clock, breaker=config.reliability.breaker),
        )
        for one in config.pooled()
    }
    for model in served.values():
        _introduce(model, served, pooled)
    kinds = {one.name: one.kind for one in config.pooled()}
    for name, backend in pooled.items():
        if before is not None and before.pooled_kinds.get(name) != kinds[name]:
            backend.capabilities = None  # it was asked for something else
    return Catalog(served, choices, backends, tuple(pooled.values()), kinds, (assumed, rates))


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
    config: Config,
    registry: Registry,
    clock: Clock,
    files: ModelFiles,
    assumed: tuple[Setting, ...],
    rates: RateModel,
    known: Mapping[str, Backend],
) -> Served:
    breaker = config.reliability.breaker
    backends = [
        continued(
            known.get(backend.name),
            open_backend(backend, model.name, files.profile(backend), clock, breaker=breaker),
        )
        for backend in model.backends
    ]
    for backend in backends:
        backend.disagrees = _disagrees(backend.config)
    tables: dict[str | None, TaskTable] = {None: _prior_table(None, model.answers, assumed)}
    for task, path in model.quality.items():
        tables[task] = _measured_table(path, registry)
    if model.task is not None and model.task not in tables:
        tables[model.task] = _prior_table(model.task, model.answers, assumed)
    served = Served(model, backends, tables, model.task, files.counter(model.tokenizer), config.slo.percentile)
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
        quality_file.curve(strategy.name, params.model_dump(), shape, pool, greedy=False)
        for strategy, params, shape in assumed(registry)
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
