"""From the proxy's configuration to a simulated fleet: each backend an engine timed by its profile, its answers the
samples beside its model's quality tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from profiler import profile_file
from profiler.profile_file import Profile, ProfileError
from profiler.simulation.answers import AnswerPool
from profiler.simulation.clock import Clock
from profiler.simulation.drafts import draft_tokens
from profiler.simulation.engine_spec import EngineSpec
from profiler.simulation.server import BackendServer
from profiler.simulation.simulated_backend import SimulatedBackend
from proxy.capabilities import Capabilities
from proxy.config import BackendConfig, Config, ConfigError
from proxy.engine_flags import by_priority, flag, max_model_len, max_num_batched_tokens, whole
from proxy.upstream.pool import Origin


def capabilities(max_model_len: int) -> Capabilities:
    """What a prober finds that a simulated engine can."""
    can = ("chat", "logprobs", "min_p", "logit_bias", "priority", "continuation")
    return Capabilities({**dict.fromkeys(can, True), "thinking_token_budget": False}, max_model_len)


@dataclass(frozen=True, slots=True)
class Simulation:
    """How to simulate. `noise`: draw each engine's pace from its profile's residuals; `max_waiting`: requests beyond
    it get 503; `seed`: of everything random."""

    seed: int = 0
    noise: bool = True
    max_waiting: int | None = None


def simulated_backends(
    config: Config, clock: Clock, how: Simulation | None = None, *, epoch_s: float = 0.0
) -> dict[str, SimulatedBackend]:
    """By name. Raises ConfigError where a backend has no profile, ProfileError, QualityError."""
    how = how or Simulation()
    fleet: dict[str, SimulatedBackend] = {}
    for model in config.models:
        if not model.backends:
            continue
        answers = AnswerPool.read(list(model.quality.values()))
        for backend in model.backends:
            spec = engine_spec(backend, how, seed=how.seed * 1000 + len(fleet))
            fleet[backend.name] = SimulatedBackend(
                backend.name, model.name, spec, answers, clock, epoch_s=epoch_s, peers=fleet
            )
    return fleet


def engine_spec(backend: BackendConfig, how: Simulation, *, seed: int) -> EngineSpec:
    """The profile's engine with the limits of the backend's `launch`, where it has some."""
    profile = _profile(backend)
    spec = EngineSpec.of_profile(profile, max_model_len=max_model_len(backend), seed=seed)
    drafts = draft_tokens(backend.speculative, spec.acceptance_length) if spec.draft_tokens else 0
    return replace(
        spec,
        max_num_seqs=whole(backend, "max-num-seqs") or spec.max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens(backend) or spec.max_num_batched_tokens,
        draft_tokens=drafts or spec.draft_tokens,
        prefix_caching=flag(backend, "enable-prefix-caching") is not False,
        max_waiting=how.max_waiting,
        by_priority=by_priority(backend),
        sigma=spec.sigma if how.noise else 0.0,
    )


def servers(config: Config, fleet: Mapping[str, SimulatedBackend]) -> list[BackendServer]:
    """Each backend where its URL says."""
    origins = {backend.name: Origin.parse(backend.url) for backend in config.backends()}
    for name, origin in origins.items():
        if origin.tls or origin.prefix:
            raise ConfigError(f"backend {name}: a simulated backend serves http://host:port, without TLS and path")
    return [BackendServer(backend, origins[name].host, origins[name].port) for name, backend in fleet.items()]


def made_up_answers(config: Config) -> list[str]:
    """Models without a quality table: their answers are invented."""
    return [model.name for model in config.models if model.backends and not model.quality]


def _profile(backend: BackendConfig) -> Profile:
    if backend.profile is None:
        raise ConfigError(
            f"backend {backend.name} has no profile, and a simulated engine is timed by one: set `profile` to a file "
            "that `paretoproxy profile` made"
        )
    try:
        return profile_file.read(backend.profile)
    except ProfileError as error:
        raise ConfigError(f"backend {backend.name}: {error}; a simulated engine is timed by its profile") from error
