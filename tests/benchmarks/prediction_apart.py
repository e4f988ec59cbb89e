"""`prediction.py --apart`: every engine has a GPU of its own and runs already; they are measured side by side.

Each engine gets a proxy of its own, whose configuration holds that engine alone.
"""

from __future__ import annotations

from pathlib import Path

import yaml
from bench_fleet import OUT

from proxy.config import BackendConfig, Config, ModelConfig, load

FIRST_PORT = 8700


def alone(
    path: Path, name: str, port: int = FIRST_PORT, profiles: Path | None = None
) -> tuple[Path, Config, ModelConfig, BackendConfig]:
    """A configuration file with the named backend and no other, for a proxy at `port`. `profiles`: a folder of others
    than the configured ones."""
    told = yaml.safe_load(path.read_text())
    told["server"] = {"host": "127.0.0.1", "port": port}
    told["traces"] = {"path": str(OUT / f"apart-{name}.db")}
    models = [model for model in told["models"] if "backends" in model]
    for model in models:
        model["backends"] = [backend for backend in model["backends"] if backend["name"] == name]
        for backend in model["backends"] if profiles is not None else ():
            backend["profile"] = str(profiles.resolve() / f"{name}.json")
        for key in ("reward_model", "embedding_model", "judge", "larger_model"):
            model.pop(key, None)
    told["models"] = [model for model in models if model["backends"]]
    if not told["models"]:
        raise SystemExit(f"no backend is named {name!r} in {path}")
    written = path.parent / f".apart-{name}.yaml"  # beside the original: its paths are relative
    written.write_text(yaml.safe_dump(told))
    config = load(written)
    return written, config, config.models[0], config.models[0].backends[0]
