"""One backend while the proxy runs: its connections, health, load, and what its profile says."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from profiler.profile_file import Profile, wide_prior
from profiler.verdict import SamplingSetting
from proxy.capabilities import Capabilities
from proxy.config import BackendConfig, backend_api_key
from proxy.correction import Correction
from proxy.engine_flags import by_priority, max_model_len
from proxy.gpu_time import GpuTime
from proxy.health import Health
from proxy.line import Line
from proxy.load_metrics import EngineLoad
from proxy.overrun import Overrun
from proxy.prices import Pricing
from proxy.reliability.settings import BreakerConfig
from proxy.spending import Spending
from proxy.tls import backend_context
from proxy.unseen_tokens import Pace
from proxy.upstream.pool import Limits, Origin, Pool
from proxy.upstream.request import RequestHead
from strategies.base import Need

OTHERS_GAIN = 0.3  # with g, up to 2/g replicas settle; a lasting change is seen by two thirds after three looks


@dataclass(slots=True)
class Backend:
    """`load`: what its last metrics said, others' branches included; `metric_missing`: a name it lacks.

    `line`: of our branches that wait there, where the engine orders them by `priority`; None: first come, first served.
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
    api_key: str | None = field(default=None, repr=False)
    tokenizes: bool = True
    disagrees: frozenset[SamplingSetting] = frozenset()
    capabilities: Capabilities | None = None
    line: Line | None = None
    pricing: Pricing = field(init=False)
    spending: Spending = field(init=False)
    pace: Pace = field(default_factory=Pace)
    overrun: Overrun = field(default_factory=Overrun)
    _secret: bytes | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.pricing = Pricing(self.config, self.profile)
        self.spending = Spending(self.gpu_time, self.pricing, time.time)
        self._secret = self.api_key.encode("latin-1", "replace") if self.api_key is not None else None

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
        if load.generated is not None:
            others = load.running + load.waiting > gpu_time.running
            self.overrun.look(load.generated, gpu_time.running, others=others)
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

    @property
    def problem(self) -> str | None:
        """Why it cannot what it is configured for, where it was asked and cannot."""
        return self.capabilities.problem if self.capabilities is not None else None

    def meets(self, needs: Iterable[Need], *, unless_known: bool) -> bool:
        """Whether the engine can do all that the needs ask of engines."""
        able = self.capabilities or Capabilities()
        return all(able.meets(need, unless_known=unless_known) for need in needs)

    def head(self, path: str) -> RequestHead:
        """The constant bytes of a request to `path`, built once."""
        if path not in self.heads:
            self.heads[path] = RequestHead(self.pool.origin, "POST", path, self.api_key)
        return self.heads[path]

    def without_key(self, data: bytes) -> bytes:
        """What the backend sent, with its API key, should it echo that, masked at the same length."""
        secret = self._secret
        if secret is None or secret not in data:
            return data
        return data.replace(secret, b"*" * len(secret))

    def get(self, path: str) -> bytes:
        """A whole GET request."""
        if path not in self.heads:
            self.heads[path] = RequestHead(self.pool.origin, "GET", path, self.api_key)
        return self.heads[path].with_body(b"")


def open_backend(
    config: BackendConfig,
    model: str,
    profile: Profile | None,
    clock: Callable[[], float],
    limits: Limits | None = None,
    breaker: BreakerConfig | None = None,
) -> Backend:
    """`breaker` None: only probes take it out. Raises ConfigError where the backend's key variable is not set, or its
    TLS files cannot be used."""
    return Backend(
        config=config,
        model=model,
        pool=Pool(Origin.parse(config.url), limits, backend_context(config)),
        profile=profile or wide_prior(config.name),
        gpu_time=GpuTime(config.gpus, clock),
        heads={},
        health=Health(config.name, breaker, clock),
        line=Line() if by_priority(config) else None,
        api_key=backend_api_key(config),
    )


def continued(before: Backend | None, after: Backend) -> Backend:
    """`after`, as one that was served already goes on: over the same connections, with what was seen of it. Its
    correction is of a profile, and starts anew with another one. `after` itself where it is another engine, or new."""
    if before is None or not _same_engine(before, after):
        return after
    # In place: `after` is nobody else's yet. Its prices are its own; `spending` gets them with the reload's last step.
    after.pool, after.heads = before.pool, before.heads
    after.gpu_time, after.spending = before.gpu_time, before.spending
    after.pace, after.overrun = before.pace, before.overrun
    after.health, after.load, after.metric_missing = before.health, before.load, before.metric_missing
    after.tokenizes, after.capabilities = before.tokenizes, before.capabilities
    if after.line is not None and before.line is not None:
        after.line = before.line
    if _same_profile(before, after):
        after.correction = before.correction
    return after


def _same_engine(one: Backend, other: Backend) -> bool:
    return (one.config.url, one.config.gpus, one.config.tls, one.model, one.api_key) == (
        other.config.url,
        other.config.gpus,
        other.config.tls,
        other.model,
        other.api_key,
    )


def _same_profile(one: Backend, other: Backend) -> bool:
    return one.profile is other.profile or msgspec.json.encode(one.profile) == msgspec.json.encode(other.profile)
