"""The upper bound: a planner that knows every branch before it runs, its length and whether it is right, and how fast
each engine truly is just now.

Of all plans that end in time and are right it takes the one with the least GPU time; where no plan is right, the
cheapest in time; where none is in time, the quickest. It does not know future arrivals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import proof_fleet as fleets
from proof_policies import REQUEST, Request, plan_of

from profiler.quality_file import StoredQuestion
from profiler.simulation.simulated_backend import SimulatedBackend
from profiler.votes import ABSTAINS, Drawn, vote
from proxy.backend import Backend
from proxy.catalog import Served
from proxy.plans import Ask, Decision, NoCandidate
from strategies.base import Shape
from strategies.registry import Registry

SETTINGS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("none", {}),
    ("first-finish", {"n": 2, "m": 1}),
    ("first-finish", {"n": 4, "m": 1}),
    ("first-finish", {"n": 8, "m": 3}),
    ("self-consistency", {"n": 3}),
    ("self-consistency", {"n": 5}),
    ("self-consistency", {"n": 8}),
    ("self-consistency", {"n": 12}),
    ("self-consistency", {"n": 16}),
)
MARGIN = 0.85  # of the deadline: those that come later slow it down
CONTEXT_TOKENS = 800.0  # that others' branches hold, on average
BATCH_OF_PRICE = 16.0  # a plan's GPU time is counted as if so many branches always ran: alike on idle and busy engines


@dataclass(frozen=True, slots=True)
class Known:
    """What one setting of one model would do with a request."""

    strategy: str
    params: dict[str, Any]
    branches: int
    right: bool
    waited_tokens: float
    all_tokens: float


class Foresight:
    """Which stored samples the branches of a request will be, as the simulated engines draw them from its seed."""

    def __init__(self, pools: Mapping[str, Sequence[StoredQuestion]], registry: Registry) -> None:
        self._pools = {model: {q.question: q for q in questions} for model, questions in pools.items()}
        self._settings: list[tuple[str, dict[str, Any], Shape]] = []
        for name, given in SETTINGS:
            strategy = registry.build(name, given)
            self._settings.append((name, strategy.params.model_dump(), strategy.shape()))
        self._seen: dict[tuple[str, int], list[Known]] = {}

    def of(self, model: str, request: Request) -> list[Known]:
        key = (model, request.index)
        if key not in self._seen:
            self._seen[key] = self._look(model, request)
        return self._seen[key]

    def drawn(self, model: str, request: Request, branches: int) -> Drawn:
        """Of each branch, (1, branches)."""
        samples = self._pools[model][request.question].samples
        picks = [
            int(Random(f"{request.seed + branch} 0 {request.question}").random() * len(samples))
            for branch in range(branches)
        ]
        chosen = [samples[pick] for pick in picks]
        classes = {answer: number for number, answer in enumerate(dict.fromkeys(s.answer for s in chosen))}
        answers = [ABSTAINS if s.answer is None else classes[s.answer] for s in chosen]
        return Drawn(
            np.array([answers]), np.array([[s.tokens for s in chosen]]), np.array([[s.correct for s in chosen]])
        )

    def _look(self, model: str, request: Request) -> list[Known]:
        every = self.drawn(model, request, 16)
        found = []
        for name, params, shape in self._settings:
            n = shape.branches
            votes = vote(Drawn(every.answers[:, :n], every.tokens[:, :n], every.correct[:, :n]), shape)
            lengths = votes.lengths[0]
            waited, total = float(lengths[-1]), float(lengths.sum())
            found.append(Known(name, params, n, bool(votes.correct[0]), waited, total))
        return found


class Clairvoyant:
    """A chooser over the engines themselves."""

    def __init__(self, foresight: Foresight, engines: Mapping[str, SimulatedBackend]) -> None:
        self._foresight, self._engines = foresight, engines

    def __call__(self, ask: Ask, models: Sequence[Served], rng: Random) -> Decision | NoCandidate:
        request = REQUEST.get()
        limit_s = (ask.slo.latency_ms or 1e12) / 1e3 * MARGIN
        best: tuple[tuple[float, ...], Served, Backend, Known] | None = None
        for served in models:
            known = self._foresight.of(served.name, request)
            for backend in served.backends:
                if backend.name in ask.exclude:
                    continue
                for one in known:
                    key = self._key(backend, one, limit_s)
                    if best is None or key < best[0]:
                        best = key, served, backend, one
        if best is None:
            return NoCandidate(0, {"failed": 1})
        _, served, backend, one = best
        plan = plan_of(served, backend, one.strategy, one.params, one.branches)
        return Decision(plan, feasible=best[0][0] < 2, considered=1)

    def _key(self, backend: Backend, one: Known, limit_s: float) -> tuple[float, ...]:
        engine = self._engines[backend.name].engine
        spec, now_s = engine.spec, engine.pace.at(engine._clock.now())
        step = spec.step_time.per_token(spec.acceptance_length)
        load = float(backend.branches_running)
        per_token_s = float(step.g_s(load + one.branches)) + step.c_kv_s * load * CONTEXT_TOKENS
        latency_s = now_s * (step.p0_s + one.waited_tokens * per_token_s)
        if load + one.branches > fleets.MAX_NUM_SEQS:
            return (3.0, latency_s)
        if latency_s > limit_s:
            return (2.0, latency_s)
        batch = BATCH_OF_PRICE + one.branches
        gpu_s = backend.config.gpus * one.all_tokens * float(step.g_s(batch)) / batch
        return (0.0 if one.right else 1.0, gpu_s, latency_s)
