"""The policies of the proof: each decides (backend, strategy, parameters) of a request, and the same proxy executes it.

A policy is a chooser as `proxy.planner.choose` is one; what the planner does not know of a request (its index and its
question) comes by a context variable that the caller sets.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import proof_fleet as fleets

from proxy import planner
from proxy.backend import Backend
from proxy.catalog import Served
from proxy.correction import Correction, Forecast
from proxy.plans import Ask, Chooser, Decision, NoCandidate, Pinned, Plan, Predicted
from strategies.registry import Registry

BOUND = 1.25  # of prefix affinity: a backend with more than this times the mean load is passed over


@dataclass(frozen=True, slots=True)
class Request:
    """What a policy may know of the request that it decides on. `seed`: of its first branch."""

    index: int
    question: str
    seed: int


REQUEST: ContextVar[Request] = ContextVar("REQUEST")


# -- what operators configure today --


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always the same strategy and N; `model`: on whose engines (`any`: all)."""

    routing: str
    model: str
    strategy: str
    params: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        told = dict(self.params)
        n = f":{told['n']}" if "n" in told else ":greedy" if "greedy" in told else ""
        m = f"/{told['m']}" if "m" in told else ""
        return f"{self.routing} {self.model} {self.strategy}{n}{m}"


ROUTINGS = ("round-robin", "least-loaded", "prefix-affine")
SETTINGS: tuple[tuple[str, tuple[tuple[str, Any], ...]], ...] = (
    ("none", ()),
    ("none", (("greedy", True),)),
    ("first-finish", (("n", 4), ("m", 1))),
    ("self-consistency", (("n", 4),)),
    ("self-consistency", (("n", 8),)),
    ("self-consistency", (("n", 16),)),
)
FIXED = tuple(
    Fixed(routing, model, strategy, params)
    for model in (fleets.LARGE, fleets.SMALL, fleets.ANY)
    for strategy, params in SETTINGS
    for routing in ROUTINGS
)


class Router:
    """Picks a backend by one of `ROUTINGS`."""

    def __init__(self, routing: str) -> None:
        self._routing, self._turn = routing, 0

    def pick(self, backends: Sequence[Backend], request: Request) -> Backend:
        if self._routing == "round-robin":
            self._turn += 1
            return backends[(self._turn - 1) % len(backends)]
        if self._routing == "least-loaded":
            return least_loaded(backends, self._spin())
        return prefix_affine(backends, request.question)

    def _spin(self) -> int:
        self._turn += 1
        return self._turn


def least_loaded(backends: Sequence[Backend], turn: int = 0) -> Backend:
    """The fewest running branches; equal ones in turn."""
    at = turn % len(backends)
    return min((*backends[at:], *backends[:at]), key=lambda backend: backend.branches_running)


def prefix_affine(backends: Sequence[Backend], question: str) -> Backend:
    """The same question to the same backend, unless it is loaded beyond its share (consistent hashing with bounded
    loads, Mirrokni et al., 2018)."""
    limit = BOUND * (1 + sum(backend.branches_running for backend in backends)) / len(backends)
    home = zlib.crc32(question.encode())
    ring = sorted(backends, key=lambda backend: zlib.crc32(b"%d %s" % (home, backend.name.encode())))
    return next((backend for backend in ring if backend.branches_running <= limit), ring[0])


def fixed(policy: Fixed, registry: Registry) -> Chooser:
    strategy = registry.build(policy.strategy, dict(policy.params))
    params, branches = strategy.params.model_dump(), strategy.shape().branches
    router = Router(policy.routing)

    def choose(ask: Ask, models: Sequence[Served], rng: Random) -> Decision | NoCandidate:
        wanted = [served for served in models if policy.model in (fleets.ANY, served.name)]
        owners = [(served, b) for served in wanted for b in served.backends if b.name not in ask.exclude]
        if not owners:
            return NoCandidate(0, {"failed": 1})
        backend = router.pick([b for _, b in owners], REQUEST.get())
        served = next(served for served, b in owners if b is backend)
        return Decision(plan_of(served, backend, policy.strategy, params, branches), feasible=True, considered=1)

    return choose


_UNTOLD = Predicted(1e3, 1e3, 0.0, 0.0, 0.0, None, 0.0, None, 0.0, 1.0, 1.0, 0.0, 0.0, True)


def plan_of(served: Served, backend: Backend, strategy: str, params: dict[str, Any], branches: int) -> Plan:
    """A plan that nobody predicted."""
    return Plan(served, backend, strategy, params, branches, _UNTOLD)


# -- the planner, whole and with parts taken out --


def slo_aware(strategy: str, params: dict[str, Any], registry: Registry) -> Chooser:
    """A router that knows profiles, load and deadlines, and always runs the same strategy and N."""
    built = registry.build(strategy, params)
    shape = built.shape()
    pinned = Pinned(strategy, built.params.model_dump(), shape.branches, shape.waves, built.required(), shape.window)

    def choose(ask: Ask, models: Sequence[Served], rng: Random) -> Decision | NoCandidate:
        return planner.choose(replace(ask, pinned=pinned), models, rng)

    return choose


def blind(ask: Ask, models: Sequence[Served], rng: Random) -> Decision | NoCandidate:
    """Without load awareness: every backend looks idle."""
    with _idle([backend for served in models for backend in served.backends]):
        return planner.choose(ask, models, rng)


@contextmanager
def _idle(backends: Sequence[Backend]) -> Iterator[None]:
    told = [(backend.gpu_time, backend.gpu_time.running, backend.gpu_time.others) for backend in backends]
    for gpu_time, _, _ in told:
        gpu_time.running, gpu_time.others = 0, 0.0
    try:
        yield
    finally:
        for gpu_time, running, others in told:
            gpu_time.running, gpu_time.others = running, others


def backend_first() -> Chooser:
    """Without joint choice: the least loaded backend, then the best strategy and N on it."""
    turn = iter(range(1 << 62))

    def choose(ask: Ask, models: Sequence[Served], rng: Random) -> Decision | NoCandidate:
        backends = [backend for served in models for backend in served.backends if backend.name not in ask.exclude]
        chosen = least_loaded(backends, next(turn)).name
        others = frozenset(backend.name for backend in backends) - {chosen}
        return planner.choose(replace(ask, exclude=ask.exclude | others), models, rng)

    return choose


def strategy_first(ask: Ask, models: Sequence[Served], rng: Random) -> Decision | NoCandidate:
    """Without joint choice: strategy and N as on an idle fleet, then the best backend for them under the load now."""
    with _idle([backend for served in models for backend in served.backends]):
        found = planner.choose(ask, models)
    if isinstance(found, NoCandidate):
        return found
    plan = found.plan
    return planner.choose(replace(ask, pinned=Pinned(plan.strategy, plan.params, plan.branches)), models, rng)


class Unmoved(Correction):
    """Without online correction: sees, and learns nothing."""

    def observe(self, measured_s: float, forecast: Forecast, *, cut: bool = False, pace: float | None = None) -> None:
        self.seen += 1


def without_correction(backends: Sequence[Backend]) -> None:
    for backend in backends:
        backend.correction = Unmoved()
