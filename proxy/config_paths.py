"""Paths of a configuration, relative to its file's folder, made absolute."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proxy.config import BackendConfig, Config, LaunchConfig, PooledConfig, TlsConfig


def resolve_paths(config: Config, folder: Path) -> Config:
    """A launch or draft model that is a folder there is a path, too."""

    def fix(path: Path | None) -> Path | None:
        return None if path is None else folder / path

    models = []
    for model in config.models:
        backends = [
            backend.model_copy(
                update={
                    "profile": fix(backend.profile),
                    "tls": _tls(backend.tls, folder),
                    "launch": _launch(backend.launch, folder),
                    "speculative": _draft(backend.speculative, folder),
                }
            )
            for backend in model.backends
        ]
        tokenizer = fix(model.tokenizer) or _launched_folder(backends)
        quality = {task: folder / path for task, path in model.quality.items()}
        rewards = [_pooled(one, folder) for one in model.reward_model]
        embedding = model.embedding_model and _pooled(model.embedding_model, folder)
        models.append(
            model.model_copy(
                update={
                    "backends": backends,
                    "quality": quality,
                    "tokenizer": tokenizer,
                    "reward_model": rewards,
                    "embedding_model": embedding,
                }
            )
        )
    return config.model_copy(
        update={
            "server": config.server.model_copy(
                update={
                    "api_keys": fix(config.server.api_keys),
                    "tls": config.server.tls
                    and config.server.tls.model_copy(
                        update={"cert": fix(config.server.tls.cert), "key": fix(config.server.tls.key)}
                    ),
                }
            ),
            "traces": config.traces.model_copy(update={"path": fix(config.traces.path)}),
            "models": models,
        }
    )


def _pooled(pooled: PooledConfig, folder: Path) -> PooledConfig:
    resolved = {"launch": _launch(pooled.launch, folder), "tls": _tls(pooled.tls, folder)}
    return pooled.model_copy(update=resolved)


def _tls(tls: TlsConfig | None, folder: Path) -> TlsConfig | None:
    if tls is None:
        return None
    paths = {name: getattr(tls, name) for name in ("ca", "cert", "key")}
    return tls.model_copy(update={name: folder / path for name, path in paths.items() if path is not None})


def _launch(launch: LaunchConfig | None, folder: Path) -> LaunchConfig | None:
    if launch is None:
        return None
    local = folder / launch.model
    return launch.model_copy(update={"model": str(local) if local.is_dir() else launch.model})


def _launched_folder(backends: list[BackendConfig]) -> Path | None:
    for backend in backends:
        if backend.launch is not None and (Path(backend.launch.model) / "tokenizer.json").is_file():
            return Path(backend.launch.model)
    return None


def _draft(speculative: dict[str, Any] | None, folder: Path) -> dict[str, Any] | None:
    """vLLM's own speculative config; its draft `model` may be a folder, as a launch's may."""
    draft = (speculative or {}).get("model")
    if not isinstance(draft, str) or not (folder / draft).is_dir():
        return speculative
    return {**(speculative or {}), "model": str((folder / draft).resolve())}
