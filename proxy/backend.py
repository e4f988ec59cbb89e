"""One backend while the proxy runs: its connections, health, load, and what its profile says."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from profiler.profile_file import Profile, wide_prior
from profiler.verdict import SamplingSetting
from proxy.capabilities import Capabilities
from proxy.config import BackendConfig, backend_api_key
from proxy.correction import Correction
from proxy.engine_flags import max_model_len
from proxy.gpu_time import GpuTime
from proxy.load_metrics import EngineLoad
from proxy.upstream.pool import Limits, Origin, Pool
from proxy.upstream.request import RequestHead
from strategies.base import Need

OTHERS_GAIN = 0.3  # with g, up to 2/g replicas settle; a lasting change is seen by two thirds after three looks


@dataclass(slots=True)
class Health:
    """`serving` starts true: a backend is used until a probe or a request says otherwise. `late`: how many looks in a
    row had no answer in time."""

    serving: bool = True
    problem: str | None = None
    checked: bool = False
    late: int = 0


@dataclass(slots=True)
class Backend:
    """`load`: what its last metrics said, others' branches included; `metric_missing`: a name it lacks.

    `disagrees`: settings in which its answers were found to differ from the model's quality table. `capabilities`: None
    until it was asked.
    """

    config: BackendConfig
    model: str
    pool: Pool
    profile: Profile
    gpu_time: GpuTime
    heads: dict[str, RequestHead]
    health: Health = field(default_factory=Health)
    load: EngineLoad | None = None
    metric_missing: str | None = None
    correction: Correction = field(default_factory=Correction)
    api_key: str | None = None
    tokenizes: bool = True
    disagrees: frozenset[SamplingSetting] = frozenset()
    capabilities: Capabilities | None = None

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def max_model_len(self) -> int | None:
        """Tokens of its context, as it says itself, else as it is launched."""
        told = self.capabilities.max_model_len if self.capabilities is not None else None
        return told or max_model_len(self.config)

    @property
    def in_flight(self) -> int:
        return self.gpu_time.running

    @property
    def branches_running(self) -> float:
        """Ours and others', the load that a new branch meets."""
        return self.gpu_time.running + self.gpu_time.others

    def note_load(self, load: EngineLoad) -> None:
        """The engine's own count, just read: what of it is not ours is others'.

        Ours change while the answer travels, and the engine still counts some that were cancelled a moment ago: take
        the most since the last look, so that our own are never "others". Others are believed gradually after the
        first look: other replicas see the same, and if each made up for all of a difference at once, together they
        would make up for it many times, look after look.
        """
        gpu_time = self.gpu_time
        seen = max(0.0, load.running + load.waiting - gpu_time.take_peak())
        gain = 1.0 if self.load is None else OTHERS_GAIN
        gpu_time.set_others(gpu_time.others + gain * (seen - gpu_time.others))
        self.load = load

    def unfit(self, greedy: bool) -> Literal["sampling", "disagrees"] | None:
        """Why requests at temperature 0 (`greedy`) or above may not run here, where they may not."""
        if self.config.sampling == "greedy" and not greedy:
            return "sampling"
        if self.disagrees and ("greedy" if greedy else "sampled") in self.disagrees:
            return "disagrees"
        return None

    def meets(self, needs: Iterable[Need], *, unless_known: bool) -> bool:
        """Whether the engine can do all that the needs ask of engines."""
        able = self.capabilities or Capabilities()
        return all(able.meets(need, unless_known=unless_known) for need in needs)

    def head(self, path: str) -> RequestHead:
        """The constant bytes of a request to `path`, built once."""
        if path not in self.heads:
            self.heads[path] = RequestHead(self.pool.origin, "POST", path, self.api_key)
        return self.heads[path]

    def get(self, path: str) -> bytes:
        """A whole GET request."""
        if path not in self.heads:
            self.heads[path] = RequestHead(self.pool.origin, "GET", path, self.api_key)
        return self.heads[path].with_body(b"")


def open_backend(
    config: BackendConfig, model: str, profile: Profile | None, clock: Callable[[], float], limits: Limits | None = None
) -> Backend:
    """Raises ConfigError where the backend's key variable is not set."""
    return Backend(
        config=config,
        model=model,
        pool=Pool(Origin.parse(config.url), limits),
        profile=profile or wide_prior(config.name),
        gpu_time=GpuTime(config.gpus, clock),
        heads={},
        api_key=backend_api_key(config),
    )
