"""One simulated vLLM server, whatever carries its bytes: requests come in as path and body, answers go to a `Reply`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from random import Random
from typing import Protocol

import msgspec

from profiler.simulation import vllm_text
from profiler.simulation.answers import AnswerPool
from profiler.simulation.asked import Asked, Reader, Refused, bad_request
from profiler.simulation.clock import Clock
from profiler.simulation.completion import Choice, Completion
from profiler.simulation.engine import Engine, QueueFull
from profiler.simulation.engine_spec import EngineSpec
from profiler.simulation.faults import Fault, FaultError, Faults, read_fault
from profiler.simulation.tokenizer import Vocabulary

JSON = b"application/json"
TEXT = b"text/plain; version=0.0.4; charset=utf-8"
EVENTS = b"text/event-stream; charset=utf-8"
VERSION = "0.26.0+simulated"
COMPLETIONS = {"/v1/chat/completions": True, "/v1/completions": False}
_REMEMBERED_BODIES = 256


class Reply(Protocol):
    """Where an answer goes: `whole`, or `start` and then chunks and `finish`; `cut` breaks the connection instead."""

    def whole(self, status: int, content_type: bytes, body: bytes) -> None: ...

    def start(self, content_type: bytes) -> None: ...

    def chunk(self, data: bytes) -> None: ...

    def finish(self) -> None: ...

    def cut(self) -> None: ...


class SimulatedBackend:
    """`epoch_s`: what the clock's 0 is in Unix time; `peers`: the backends of the fleet by name, for faults.

    `on_dead` is called when a fault kills or revives it: whoever listens on a port opens and closes it.
    """

    def __init__(
        self,
        name: str,
        model: str,
        spec: EngineSpec,
        answers: AnswerPool,
        clock: Clock,
        *,
        epoch_s: float = 0.0,
        peers: Mapping[str, SimulatedBackend] | None = None,
    ) -> None:
        self.name, self.model, self.clock, self._epoch_s = name, model, clock, epoch_s
        self.engine = Engine(spec, clock)
        self.faults = Faults()
        self.on_dead: Callable[[bool], None] | None = None
        self.running: dict[Completion, None] = {}  # in order: faults are deterministic, too
        self._peers = peers if peers is not None else {name: self}
        self._answers = answers
        self._vocabulary = Vocabulary()
        self._reader = Reader(model, spec.max_model_len, answers, self._vocabulary)
        self._random = Random(f"{spec.seed} answers")
        self._read: OrderedDict[tuple[str, bytes], Asked] = OrderedDict()
        self._count = 0
        self._fault_number = 0

    # -- HTTP without HTTP --

    def handle(
        self, method: str, path: str, body: bytes, reply: Reply, *, few_chunks: bool = False
    ) -> Completion | None:
        """Answer, or begin to; the completion that now runs, to be cancelled when the client leaves.

        `few_chunks`: a stream that is not asked for token by token comes in its first chunk and the rest, and
        `Completion.flush` gives what there is: for virtual time, where nobody looks in between.
        """
        try:
            if path in COMPLETIONS:
                self._only(method, "POST")
                return self._complete(path, body, reply, few_chunks)
            content_type, answer = self._side(method, path, body)
            reply.whole(200, content_type, answer)
        except Refused as error:
            reply.whole(error.status, JSON, error.body())
        return None

    def _side(self, method: str, path: str, body: bytes) -> tuple[bytes, bytes]:
        if path in ("/tokenize", "/detokenize", "/simulate/fault"):
            self._only(method, "POST")
            route = {"/tokenize": self._tokenize, "/detokenize": self._detokenize}.get(path, self._fault)
            return JSON, route(body)
        if path not in ("/health", "/ping", "/version", "/v1/models", "/metrics"):
            raise Refused(404, "NotFoundError", f"Not Found: {path}")
        self._only(method, "GET")
        if path == "/metrics":
            return TEXT, vllm_text.metrics_page(self.engine, self.model, self.faults.lies)
        if path == "/version":
            return JSON, msgspec.json.encode({"version": VERSION})
        if path == "/v1/models":
            return JSON, self._models()
        return JSON, b""

    def _only(self, method: str, allowed: str) -> None:
        if method != allowed:
            raise Refused(405, "MethodNotAllowed", f"Method Not Allowed: use {allowed}")

    def _models(self) -> bytes:
        card = {"id": self.model, "object": "model", "created": self.created, "owned_by": "vllm", "root": self.model}
        return msgspec.json.encode(
            {"object": "list", "data": [{**card, "parent": None, "max_model_len": self.engine.spec.max_model_len}]}
        )

    def _tokenize(self, body: bytes) -> bytes:
        question = self._reader.question(body)
        tokens, max_len = self._vocabulary.encode(question.pieces), self.engine.spec.max_model_len
        told = {"count": question.told, "max_model_len": max_len, "tokens": tokens, "token_strs": None}
        return msgspec.json.encode(told)

    def _detokenize(self, body: bytes) -> bytes:
        try:
            ids = msgspec.json.decode(body, type=_Detokenize).tokens
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise bad_request(f"the body is not valid: {error}") from error
        return msgspec.json.encode({"prompt": self._vocabulary.decode(ids)})

    @property
    def created(self) -> int:
        return int(self._epoch_s + self.clock.now())

    # -- completions --

    def _complete(self, path: str, body: bytes, reply: Reply, few_chunks: bool) -> Completion:
        asked = self.read(path, body)
        self._count += 1
        identity = f"{'chatcmpl' if asked.chat else 'cmpl'}-{self.name}-{self._count:x}"
        completion = Completion(self, asked, identity, reply, self.draw(asked, asked.seed))
        self.running[completion] = None
        try:
            completion.start(few_chunks=few_chunks)
        except QueueFull:
            completion.cancel()
            waiting = self.engine.queued
            raise Refused(503, "ServiceUnavailableError", f"The queue is full: {waiting} requests wait.") from None
        return completion

    def read(self, path: str, body: bytes) -> Asked:
        """Branches of one request are equal bytes: read once. Raises Refused."""
        key = (path, body)
        found = self._read.get(key)
        if found is None:
            found = self._read[key] = self._reader.read(body, chat=COMPLETIONS[path])
            if len(self._read) > _REMEMBERED_BODIES:
                self._read.popitem(last=False)
        return found

    def draw(self, asked: Asked, seed: int | None) -> list[Choice]:
        """What is answered: the same to the same seed."""
        choices: list[Choice] = []
        for question, limit in zip(asked.questions, asked.limits, strict=True):
            for number in range(asked.n):
                random = self._random
                if seed is not None:
                    random = Random(f"{seed} {number} {question.text}")
                text = self._answers.sample(question.text, random, greedy=asked.greedy, after=question.continues)
                doubts = random.getrandbits(32) if asked.top_logprobs is not None else 0
                choices.append(Choice.of(len(choices), question.prompt, text, asked, limit, doubts))
        return choices

    # -- faults --

    def _fault(self, body: bytes) -> bytes:
        try:
            fault = read_fault(body)
            target = self if fault.backend is None else self._peers.get(fault.backend)
            if target is None:
                raise FaultError(f"no backend {fault.backend!r}; there are {', '.join(self._peers)}")
        except FaultError as error:
            raise bad_request(str(error)) from error
        target.inflict(fault)
        return msgspec.json.encode({"backend": target.name, **target.faults.shown()})

    def inflict(self, fault: Fault) -> None:
        """From now on, until `revive`."""
        self._fault_number += 1
        number, faults = self._fault_number, self.faults
        if fault.kind == "slow":
            faults.slow = fault.factor
            self.engine.slow_down(fault.factor)
        elif fault.kind == "stall":
            faults.stalled = True
        elif fault.kind == "cut":
            faults.cut_after, faults.cuts_left = fault.after_chunks, fault.streams
        elif fault.kind == "lie":
            faults.lies = dict(fault.metrics)
        elif fault.kind == "die":
            self._die()
        else:
            self.revive()
        if fault.for_s is not None:
            self.clock.at(self.clock.now() + fault.for_s, lambda: self._over(number))

    def revive(self) -> None:
        """All is well again; what a stall held back is sent."""
        was_dead, self.faults = self.faults.dead, Faults()
        self.engine.slow_down(1.0)
        for completion in list(self.running):
            completion.release()
        if was_dead and self.on_dead is not None:
            self.on_dead(False)

    def _die(self) -> None:
        self.faults.dead = True
        running = list(self.running)
        self.engine.drop_all()
        if self.on_dead is not None:
            self.on_dead(True)
        for completion in running:
            completion.break_off()

    def _over(self, number: int) -> None:
        if number == self._fault_number:  # else another fault came since
            self.revive()


class _Detokenize(msgspec.Struct):
    tokens: list[int]
    model: str | None = None
