"""What all requests of a run in virtual time share: the proxy's tables and planner, and the engines, on one clock."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Self

from profiler.simulation.clock import VirtualClock
from profiler.simulation.simulated_backend import SimulatedBackend
from proxy import catalog_build
from proxy.catalog import Catalog
from proxy.config import Config
from proxy.load_metrics import EngineLoad
from proxy.planner import choose
from proxy.plans import Chooser, Plan
from proxy.service import FinishTime
from proxy.simulated_fleet import Simulation, capabilities, simulated_backends
from strategies.registry import AnyStrategy, Registry

STARTS_AT_S = 1000.0  # not 0: code may take 0 for "never"


@dataclass(slots=True)
class VirtualFleet:
    """`engines`: by the backends' names; `choose`: the planner, but where others are compared with it; `received_at`:
    Unix seconds, for prices."""

    config: Config
    registry: Registry
    catalog: Catalog
    engines: Mapping[str, SimulatedBackend]
    clock: VirtualClock
    choose: Chooser = choose
    rng: Random = field(default_factory=Random)
    finish_time: FinishTime = field(default_factory=FinishTime)
    received_at: float = field(default_factory=time.time)
    _built: dict[tuple[str, str], AnyStrategy] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        config: Config,
        how: Simulation | None = None,
        *,
        registry: Registry | None = None,
        engines: Config | None = None,
        chooser: Chooser = choose,
        seed: int = 0,
    ) -> Self:
        """Reward and embedding models are left out: they are not simulated. `engines`: the configuration whose profiles
        they are timed by, where it is not the proxy's. Raises ConfigError, ProfileError, QualityError."""
        config, registry, clock = without_scorers(config), registry or Registry.installed(), VirtualClock(STARTS_AT_S)
        catalog = catalog_build.build(config, registry, clock.now)
        fleet = simulated_backends(engines or config, clock, how)
        for backend in catalog.backends:
            backend.capabilities = capabilities(fleet[backend.name].engine.spec.max_model_len)
        return cls(config, registry, catalog, fleet, clock, chooser, Random(seed))

    def look(self) -> None:
        """At every engine's load, as the prober reads it from /metrics. The tokens are left out: what a cut branch
        generated unseen need not be learned from them here."""
        for backend in self.catalog.backends:
            engine = self.engines[backend.name].engine
            backend.note_load(EngineLoad(float(engine.running), float(engine.queued), engine.kv_usage))

    def strategy(self, plan: Plan) -> AnyStrategy:
        """They keep nothing of a run, so one serves all requests with these parameters."""
        key = plan.strategy, repr(plan.params)
        built = self._built.get(key)
        if built is None:
            built = self._built[key] = self.registry.build(plan.strategy, plan.params)
        return built


def without_scorers(config: Config) -> Config:
    """The same models without those that score them."""
    bare: dict[str, Any] = {"reward_model": [], "embedding_model": None, "compare_text": None}
    return config.model_copy(update={"models": [model.model_copy(update=bare) for model in config.models]})
