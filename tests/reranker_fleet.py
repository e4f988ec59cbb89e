"""The outcome verifier once more, as a reranker: one class, asked at `/score`."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def make_weights(engine_python: str, weights: Path) -> None:
    """With the engines' Python, which has torch. Raises CalledProcessError."""
    command = [engine_python, "-m", "profiler.tinymath.reranker", "--out", str(weights)]
    subprocess.run(command, check=True, cwd=ROOT, timeout=120, stdout=subprocess.DEVNULL)


def with_a_reranker(fleet: dict[str, Any], weights: Path, port: int) -> dict[str, Any]:
    """The fleet with one beside each model's outcome verifier, launched as that is."""
    models = []
    for model in fleet["models"]:
        rewards = list(model.get("reward_model", ()))
        for outcome in [one for one in rewards if one["kind"] == "outcome"]:
            template = {"chat-template": str(weights / "score_template.jinja")}
            launch = {**outcome["launch"], "model": str(weights), "args": {**outcome["launch"]["args"], **template}}
            url = f"{outcome['url'].rpartition(':')[0]}:{port}"
            rewards.append({**outcome, "name": "reranker", "kind": "reranker", "url": url, "launch": launch})
        models.append({**model, "reward_model": rewards} if rewards else model)
    return {**fleet, "models": models}
