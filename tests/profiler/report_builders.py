"""Hand-made plans for the report's tests."""

from typing import Any

import msgspec

from profiler.profile_file import wide_prior
from profiler.report.points import Comparison, Engine, ModelTask, Point


def engine(name: str = "a", model: str = "m", *, environment: dict[str, Any] | None = None, **members: Any) -> Engine:
    """A measured engine at $3600 an hour a GPU: a GPU-second costs a dollar."""
    profile = msgspec.structs.replace(wide_prior(name), environment=environment or {"vllm": "0.0"}, residual_sigma=0.1)
    return Engine(name, model, profile, **{"gpu_hour_usd": 3600.0, **members})


def point(on: Engine, n: int, lower: float, tail_ms: float, gpu_s: float = 1.0, **members: Any) -> Point:
    """`n` samples of 100 tokens; 1 is `none`, more are `self-consistency`."""
    defaults: dict[str, Any] = {
        "strategy": "none" if n == 1 else "self-consistency",
        "params": {} if n == 1 else {"n": n},
        "greedy": False,
        "assumed": False,
        "median_ms": tail_ms / 2,
        "mean_tokens": 100.0 * n,
    }
    measured = {"accuracy": lower + 0.02, "accuracy_lower": lower, "gpu_seconds": gpu_s, "idle_gpu_seconds": gpu_s}
    return Point(engine=on, branches=n, tail_ms=tail_ms, **{**defaults, **measured, **members})


def comparison(*points: Point, task: str | None = "math", **members: Any) -> Comparison:
    models = dict.fromkeys(one.engine.model for one in points)
    parts = [
        ModelTask(
            model=model,
            task=task,
            engines=tuple(dict.fromkeys(one.engine for one in points if one.engine.model == model)),
            points=tuple(one for one in points if one.engine.model == model),
            assumed=any(one.assumed for one in points if one.engine.model == model),
            prompt_tokens=75.0,
        )
        for model in models
    ]
    return Comparison(task=task, models=tuple(parts), **{"percentile": 0.95, "load": 0.0, **members})
