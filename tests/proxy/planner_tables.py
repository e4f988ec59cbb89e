"""Hand-made tables for the planner: a step takes 10 ms and 0.5 ms a branch, every branch 100 steps.

So n branches take 1.02 + 0.05 n seconds on an idle backend, and cost one dollar a second.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from profiler.prediction import Setting
from profiler.profile_file import Profile, wide_prior
from profiler.steptime import StepTime
from proxy.backend import Backend, open_backend
from proxy.catalog import Served, TaskTable
from proxy.config import BackendConfig, ModelConfig
from proxy.controls import Slo
from proxy.planner import choose
from proxy.plans import Ask, Decision, Pinned

STEP = replace(StepTime.linear(c0_s=0.010, c_tok_s=0.0005, c_kv_s=0.0, p0_s=0.02, p_tok_s=0.0), stall=0.0)


def setting(strategy: str, n: int, lower: float, *, greedy: bool = False, steps: int = 100, **params: Any) -> Setting:
    lengths = np.full((8, n), steps + 1.0)  # the first token comes with the prefill
    given_params = {"n": n, **params} if strategy != "none" else {}
    return Setting(strategy, given_params, n, greedy, lower + 0.02, lower, False, lengths)


SETTINGS = (
    setting("none", 1, 0.60),
    setting("self-consistency", 4, 0.70),
    setting("self-consistency", 8, 0.76),
    setting("self-consistency", 16, 0.80),
    setting("none", 1, 0.62, greedy=True),
)


def backend(
    name: str = "a",
    *,
    others: float = 0,
    max_num_seqs: int = 256,
    clock: Callable[[], float] = lambda: 0.0,
    **config: Any,
) -> Backend:
    profile: Profile = msgspec.structs.replace(
        wide_prior(name), step_time=STEP, residual_sigma=1e-9, max_num_seqs=max_num_seqs
    )
    config = {"url": "http://b", "gpu_hour_usd": 3600, **config}
    opened = open_backend(BackendConfig(name=name, **config), "m", profile, clock)
    opened.gpu_time.set_others(others)
    return opened


def served(*backends: Backend, table: tuple[Setting, ...] = SETTINGS) -> list[Served]:
    backends = backends or (backend(),)
    config = ModelConfig(name="m", backends=[one.config for one in backends])
    tables: dict[str | None, TaskTable] = {None: TaskTable(None, "math", table, False, 0.0)}
    return [Served(config, list(backends), tables, None, None, 0.95)]


def ask(slo: Slo | None = None, **members: Any) -> Ask:
    """`pinned`: as (strategy, parameters)."""
    if isinstance(given := members.get("pinned"), tuple):
        members["pinned"] = Pinned(given[0], given[1], given[1].get("n", 1))
    plain = {"slo": slo or Slo(), "task": None, "prompt_tokens": 0, "max_tokens": None, "greedy": False}
    return Ask(**{**plain, **members})


def decide(asked: Ask, *backends: Backend, table: tuple[Setting, ...] = SETTINGS) -> Decision:
    decision = choose(asked, served(*backends, table=table))
    assert isinstance(decision, Decision)
    return decision


def chosen(slo: Slo, *backends: Backend) -> int:
    """The number of branches."""
    return decide(ask(slo), *backends).plan.branches
