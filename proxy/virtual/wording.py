"""From a planned request to what engines are asked. All that a proxy and an engine would read from headers and bodies
is read by the same code, once for each kind of request and each of its prompts."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace

import msgspec

from profiler.loadtest.schedule import Planned
from profiler.simulation.asked import Asked
from profiler.simulation.simulated_backend import SimulatedBackend
from proxy import upstream_body
from proxy.aliases import named
from proxy.asking import Question, question
from proxy.backend import Backend
from proxy.call import Call, parse
from proxy.catalog import Served
from proxy.generations import Requests
from proxy.plans import Plan
from proxy.trace import Trace
from proxy.virtual.fleet import VirtualFleet
from strategies.base import GREEDY, WHOLE, Generation

CHAT = "/v1/chat/completions"
# Of a body: what is told apart otherwise, or makes no difference to what an engine reads.
NOT_SHAPE = ("messages", "stream", "stream_options", "seed", "priority")
MOST = 4096  # wordings that are remembered, of questions: made-up prompts differ all


@dataclass(slots=True)
class Wording:
    """One prompt in one shape of request, and what engines read of it. `tokens`: of the prompt, as the proxy counts."""

    call: Call
    tokens: float = 0.0
    asked: dict[Hashable, Asked] = field(default_factory=dict)

    def passed_through(self, served: Served, engine: SimulatedBackend) -> Asked:
        """As an engine reads it whose bytes nobody changed. Raises Refused."""
        key = served.name, engine.engine.spec.max_model_len, None
        asked = self.asked.get(key)
        if asked is None:
            asked = self.asked[key] = engine.read(CHAT, upstream_body.relayed(self.call, served.name))
        return asked


@dataclass(frozen=True, slots=True)
class Kind:
    """What requests of a class have in common. `asked`: what the planner is asked, but for the prompt's length;
    `scaled`: not passed through; `shape`: equal for kinds whose bodies differ in nothing that an engine sees."""

    call: Call
    models: tuple[Served, ...]
    asked: Question
    scaled: bool
    shape: Hashable


class Wordings:
    """Of one fleet and one name of a model."""

    def __init__(self, fleet: VirtualFleet, model: str) -> None:
        self._fleet, self._model = fleet, model
        self._kinds: dict[Hashable, Kind] = {}
        self._known: dict[Hashable, Wording] = {}

    def of(self, planned: Planned) -> tuple[Kind, Wording]:
        """Raises ProxyError as the proxy would answer it, Refused as its engines."""
        key = planned.slo_class.name, planned.stream, planned.output_tokens
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = self._kind(planned)
        if planned.question is None:
            return kind, self._wording(kind, planned)
        prompt = kind.shape, planned.prompt
        wording = self._known.get(prompt)
        if wording is None:
            if len(self._known) >= MOST:
                self._known.clear()
            wording = self._known[prompt] = self._wording(kind, planned)
        return kind, wording

    def _kind(self, planned: Planned) -> Kind:
        fleet = self._fleet
        members = planned.members(self._model)
        lines = [(name.encode(), value.encode("latin-1")) for name, value in planned.controls().items()]
        call = parse(CHAT, lines, msgspec.json.encode(members), fleet.config.slo.defaults)
        call, models = named(call, fleet.catalog)
        asked = question(call, models, fleet.registry, 0.0)
        own = {name: value for name, value in members.items() if name not in NOT_SHAPE}
        shape = repr(own), repr(planned.body.get("messages")), call.controls.max_tokens
        return Kind(call, tuple(models), asked, call.controls.scaled, shape)

    def _wording(self, kind: Kind, planned: Planned) -> Wording:
        wording = Wording(replace(kind.call, body=msgspec.json.encode(planned.members(self._model))))
        served = kind.models[0]
        if served.counter is not None:
            counted = served.counter.count_chat(wording.call.decoded())
            if counted is not None:
                wording.tokens = float(counted)
                return wording
        engine = self._fleet.engines[served.backends[0].name]
        read = engine.read(CHAT, upstream_body.branch(wording.call, engine.model, live=False))
        wording.tokens = float(read.questions[0].told)
        return wording


class Letters:
    """Of one plan of one request: where a generation goes, and what the engine there reads."""

    __slots__ = ("_fleet", "_live", "_plan", "_wording", "_written")

    def __init__(self, fleet: VirtualFleet, wording: Wording, plan: Plan, *, live: bool) -> None:
        self._fleet, self._wording, self._plan, self._live = fleet, wording, plan, live
        self._written: Requests | None = None

    def of(self, generation: Generation, backend: Backend) -> tuple[Backend, Asked]:
        """`backend`: the plan's. Raises InvalidRequest, Unavailable, Refused."""
        plain = generation is WHOLE or generation is GREEDY
        served = self._plan.served
        if not plain and generation.model != "own":
            served, backend = self._requests().destination(generation)
        engine = self._fleet.engines[backend.name]
        key = engine.model, engine.engine.spec.max_model_len, generation
        asked = self._wording.asked.get(key) if plain else None
        if asked is None:
            path = CHAT if generation.prompt is not None else self._wording.call.path
            asked = engine.read(path, self._requests().body(generation, served, backend, 1))
            if plain:
                self._wording.asked[key] = asked
        return backend, asked

    def _requests(self) -> Requests:
        if self._written is None:
            call, known = self._wording.call, self._wording.tokens or None
            nobody = Trace("", 0.0, call.path, None)
            self._written = Requests.of(
                call, self._plan, nobody, live=self._live, fastest=Served.fastest, prompt_tokens=known
            )
        return self._written
