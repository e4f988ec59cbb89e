"""Where each generation of a request goes, and its bytes: the plan's backend, the judge's, or the larger model's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from proxy import upstream_body
from proxy.backend import Backend
from proxy.call import Call
from proxy.catalog import Served
from proxy.context_room import fitting
from proxy.errors import Unavailable
from proxy.planner import Plan
from proxy.trace import Trace
from proxy.upstream.request import forwarded_lines
from strategies.base import WHOLE, Generation

CHAT = "/v1/chat/completions"


@dataclass(slots=True)
class Requests:
    """Of one plan (`fanout.Requests`). All branches of the client's own request are the same bytes, but for the seed
    where the client gave one."""

    call: Call
    plan: Plan
    live: bool
    lines: bytes
    fastest: Callable[[Served], Backend | None]
    prompt_tokens: float | None = None  # of the client's request, where that is known exactly
    _own: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)  # by interval: the body, and the whole request

    @classmethod
    def of(
        cls,
        call: Call,
        plan: Plan,
        trace: Trace,
        *,
        live: bool,
        fastest: Callable[[Served], Backend | None],
        prompt_tokens: float | None = None,
    ) -> Requests:
        """The client's own headers go along, but not its request id: branches are requests of their own, tied together
        by the trace context."""
        own = [(name, value) for name, value in call.headers if name not in (b"x-request-id", b"traceparent")]
        return cls(call, plan, live, forwarded_lines(own) + trace.context_line(), fastest, prompt_tokens)

    def __call__(self, generation: Generation, index: int, every_tokens: int = 0) -> tuple[Backend, bytes]:
        """Raises Unavailable where the judge or the larger model has no backend that serves; InvalidRequest."""
        # Progress comes with chunks.
        most = upstream_body.VOTE_STREAM_INTERVAL
        interval = min(every_tokens, most) if every_tokens else most
        if generation is WHOLE:
            return self.plan.backend, self._whole(index, interval)
        served, backend = self._backend(generation)
        body = self._body(generation, served, backend, interval)
        seed = self.call.peek.seed
        if seed is not None and generation.prompt is None:
            body = upstream_body.with_seed(body, seed + index)
        path = CHAT if generation.prompt is not None else self.call.path
        return backend, backend.head(path).with_body(body, self.lines)

    def _whole(self, index: int, interval: int) -> bytes:
        backend, seed = self.plan.backend, self.call.peek.seed
        if interval not in self._own:
            body = upstream_body.branch(self.call, backend.model, live=self.live, interval=interval)
            self._own[interval] = body, backend.head(self.call.path).with_body(body, self.lines)
        body, request = self._own[interval]
        if seed is None or index == 0:
            return request
        return backend.head(self.call.path).with_body(upstream_body.with_seed(body, seed + index), self.lines)

    def _body(self, generation: Generation, served: Served, backend: Backend, interval: int) -> bytes:
        """With a budget that fits the backend's context."""

        def written(generation: Generation) -> bytes:
            return upstream_body.branch(
                self.call, backend.model, live=self.live, generation=generation, interval=interval
            )

        body, budget = written(generation), generation.max_tokens
        if budget is None:
            return body
        most = fitting(
            budget,
            body,
            backend=backend,
            counter=served.counter,
            chat=self.call.chat or generation.prompt is not None,
            known=self.prompt_tokens if generation.prompt is None and generation.model == "own" else None,
        )
        return body if most == budget else written(replace(generation, max_tokens=most))

    def _backend(self, generation: Generation) -> tuple[Served, Backend]:
        if generation.model == "own":
            return self.plan.served, self.plan.backend
        served = self.plan.served.judge if generation.model == "judge" else self.plan.served.larger
        backend = self.fastest(served) if served is not None else None
        if served is None or backend is None:
            raise Unavailable(f"No backend of the {generation.model} model serves now.")
        return served, backend
