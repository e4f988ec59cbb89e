"""What a fleet offers, for the report: the planner's own tables, read from files; no engine is asked.

Without a configuration one is made up from the profiles: one backend each, no prices.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from profiler import profile_file, quality_file
from profiler.report import ReportError
from profiler.report.points import Comparison, Engine, ModelTask, points
from proxy import catalog_build
from proxy.catalog import Served
from proxy.config import BackendConfig, Config, ModelConfig, SloConfig
from strategies.registry import Registry

NOBODY = "http://unused.invalid"  # the address of a backend that is known by its profile only


def comparisons(
    config: Config, *, prompt_tokens: float | None = None, load: float = 0.0, models: Sequence[str] = ()
) -> list[Comparison]:
    """Per task the models that answer it, in the configuration's order. `prompt_tokens`: default the task's mean;
    `load`: branches of others running on every backend; `models`: only these.

    Raises ConfigError for a file that cannot be used, ReportError where nothing is left to show.
    """
    served = catalog_build.build(_offline(config), Registry.installed(), time.monotonic).served
    if unknown := set(models) - set(served):
        raise ReportError(f"no model is named {sorted(unknown)[0]!r}; there are {', '.join(served)}")
    chosen = [one for name, one in served.items() if not models or name in models]
    by_task: dict[str | None, list[ModelTask]] = {}
    for one in chosen:
        for task in sorted(one.tables.keys() - {None}, key=str) or (None,):
            by_task.setdefault(task, []).append(_model_task(one, task, prompt_tokens, load))
    found = [Comparison(task, config.slo.percentile, load, tuple(parts)) for task, parts in by_task.items()]
    for comparison in found:
        if not comparison.points:
            raise ReportError(f"no plan can run for task {comparison.task!r} beside {load:g} branches of others")
    return found


def config_of(profiles: Path, quality: Path | None) -> Config:
    """A configuration of the profiles in a folder, with the quality tables of another matched by the model's name.

    Raises ReportError, ProfileError, QualityError.
    """
    read = [profile_file.read(path) for path in _json_files(profiles)]
    tables = _tables(quality)
    names = [profile.backend for profile in read]
    if twins := sorted({name for name in names if names.count(name) > 1}):
        raise ReportError(
            f"two profiles in {profiles} are of a backend {twins[0]!r}; keep one, or name both in a config"
        )
    backends: dict[str, list[BackendConfig]] = {}
    try:
        for path, profile in zip(_json_files(profiles), read, strict=True):
            model = str(profile.environment.get("model") or profile.backend)
            backends.setdefault(model, []).append(_backend(path, profile))
        models = [
            ModelConfig(name=name, backends=sorted(parts, key=_plainest_first), quality=tables.get(name, {}))
            for name, parts in backends.items()
        ]
        return Config(models=models, slo=SloConfig())
    except ValidationError as error:
        raise ReportError(f"{profiles}: {error.errors()[0]['msg']} ({error.errors()[0]['input']!r})") from error


def _offline(config: Config) -> Config:
    """Without what only a running proxy needs: keys, which may not be set here, and tokenizers."""
    models = [
        model.model_copy(
            update={
                "tokenizer": None,
                "backends": [backend.model_copy(update={"api_key_env": None}) for backend in model.backends],
            }
        )
        for model in config.models
    ]
    return config.model_copy(update={"models": models})


def _model_task(served: Served, task: str | None, prompt_tokens: float | None, load: float) -> ModelTask:
    table = served.table(task)
    prompt = table.mean_prompt_tokens if prompt_tokens is None else prompt_tokens
    engines = _engines(served)
    found = points(engines, served.settings(task, None), served.latency(task, None), prompt, load)
    return ModelTask(served.name, task, tuple(engines), tuple(found), table.prior, prompt)


def _engines(served: Served) -> list[Engine]:
    engines = [
        Engine(
            name=backend.name,
            model=served.name,
            profile=backend.profile,
            tensor_parallel_size=backend.config.tensor_parallel_size,
            gpus=backend.config.gpus,
            gpu_hour_usd=backend.pricing.at(time.time()).gpu_hour_usd,
            speculative=backend.config.speculative,
            greedy_only=backend.config.sampling == "greedy",
        )
        for backend in served.backends
    ]
    # The size is the model's: one profile that tells it speaks for all.
    told = [engine.profile.environment.get("parameters") for engine in engines]
    sizes = [float(size) for size in told if isinstance(size, int | float) and size > 0]
    return [replace(engine, parameters=sizes[0] if sizes else None) for engine in engines]


def _backend(path: Path, profile: profile_file.Profile) -> BackendConfig:
    environment: dict[str, Any] = profile.environment
    ranks = environment.get("tensor_parallel_size") or 1
    return BackendConfig(
        name=profile.backend,
        url=NOBODY,
        tensor_parallel_size=ranks,
        gpus=environment.get("gpus") or ranks,
        speculative=environment.get("speculative"),
        profile=path,
    )


def _plainest_first(backend: BackendConfig) -> tuple[bool, int]:
    return backend.speculative is not None, backend.tensor_parallel_size


def _tables(folder: Path | None) -> dict[str, dict[str, Path]]:
    """Per model and task the quality table's file."""
    found: dict[str, dict[str, Path]] = {}
    for path in _json_files(folder) if folder is not None else []:
        table = quality_file.read(path)
        found.setdefault(table.model, {})[table.task] = path
    return found


def _json_files(folder: Path) -> list[Path]:
    """Raises ReportError for a folder without any."""
    files = sorted(folder.glob("*.json"))
    if not files:
        raise ReportError(f"{folder} has no .json files")
    return files
