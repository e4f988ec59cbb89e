"""Where each generation of a request goes, and its bytes: the plan's backend, the judge's, or the larger model's."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, field, replace

from proxy import upstream_body
from proxy.backend import Backend
from proxy.call import Call
from proxy.catalog import Served
from proxy.context_room import fitting
from proxy.errors import Unavailable
from proxy.plans import Plan
from proxy.trace import Trace
from proxy.trace_context import BRANCHES, ROOT
from proxy.upstream.request import forwarded_lines
from strategies.base import WHOLE, Generation

CHAT = "/v1/chat/completions"
SHARED_FROM_BYTES = 256 * 1024


@dataclass(slots=True)
class Requests:
    """Of one plan (`fanout.Requests`). All branches of the client's own request have the same body, but for the seed
    where the client gave one; each has its span in its trace context. `first_row`: of this plan's branches in the
    trace."""

    call: Call
    plan: Plan
    live: bool
    lines: bytes
    fastest: Callable[[Served], Backend | None]
    trace: Trace
    first_row: int
    priority: Callable[[int], int] | None = None
    prompt_tokens: float | None = None  # of the client's request, where that is known exactly
    _own: dict[int, bytes] = field(default_factory=dict)  # by interval: the body
    _shared: dict[int, bytes] = field(default_factory=dict)  # by interval: the whole request, where it is large

    @classmethod
    def of(
        cls,
        call: Call,
        plan: Plan,
        trace: Trace,
        *,
        live: bool,
        fastest: Callable[[Served], Backend | None],
        priority: Callable[[int], int] | None = None,
        prompt_tokens: float | None = None,
    ) -> Requests:
        """The client's own headers go along, but not its request id: branches are requests of their own, tied together
        by the trace context."""
        own = [(name, value) for name, value in call.headers if name != b"x-request-id"]
        first_row = len(trace.branches)
        return cls(call, plan, live, forwarded_lines(own), fastest, trace, first_row, priority, prompt_tokens)

    def __call__(self, generation: Generation, index: int, every_tokens: int = 0) -> tuple[Backend, bytes]:
        """Raises Unavailable where the judge or the larger model has no backend that serves; InvalidRequest."""
        return self.elsewhere(generation, index, every_tokens, ())

    def elsewhere(
        self, generation: Generation, index: int, every_tokens: int, avoid: Container[str]
    ) -> tuple[Backend, bytes]:
        """The same, on none of the backends of these names where another serves."""
        interval = self._interval(every_tokens)
        if generation is WHOLE and not avoid:
            return self.plan.backend, self._whole(index, interval)
        served, backend = self.destination(generation, avoid)
        body = self.body(generation, served, backend, interval)
        seed, priority = self.call.peek.seed, self._priority(backend, index)
        own_seed = None if seed is None or generation.prompt is not None else seed + index
        if own_seed is not None or priority is not None:
            body = upstream_body.of_branch(body, own_seed, priority)
        path = CHAT if generation.prompt is not None else self.call.path
        return backend, backend.head(path).with_body(body, self._context(index))

    def interval(self, every_tokens: int) -> int:
        """Tokens from chunk to chunk of what is asked with so many `every_tokens`."""
        return 1 if self.live else self._interval(every_tokens)

    def _interval(self, every_tokens: int) -> int:
        """Progress comes with chunks."""
        most = upstream_body.VOTE_STREAM_INTERVAL
        return min(every_tokens, most) if every_tokens else most

    def _whole(self, index: int, interval: int) -> bytes:
        backend, seed = self.plan.backend, self.call.peek.seed
        body = self._own.get(interval)
        if body is None:
            body = upstream_body.branch(self.call, backend.model, live=self.live, interval=interval)
            self._own[interval] = body
        head, priority = backend.head(self.call.path), self._priority(backend, index)
        own_seed = None if seed is None or index == 0 else seed + index
        if own_seed is not None or priority is not None:
            return head.with_body(upstream_body.of_branch(body, own_seed, priority), self._context(index))
        if len(body) < SHARED_FROM_BYTES:
            return head.with_body(body, self._context(index))
        if interval not in self._shared:  # sixteen copies of an image are worth more than sixteen parents
            self._shared[interval] = head.with_body(body, self.lines + self.trace.context_lines(ROOT))
        return self._shared[interval]

    def _priority(self, backend: Backend, index: int) -> int | None:
        return None if backend.line is None or self.priority is None else self.priority(index)

    def _context(self, index: int) -> bytes:
        return self.lines + self.trace.context_lines(BRANCHES + self.first_row + index)

    def body(self, generation: Generation, served: Served, backend: Backend, interval: int) -> bytes:
        """With a budget that fits the backend's context. Raises InvalidRequest."""

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

    def others(self, generation: Generation, avoid: Container[str]) -> bool:
        """Whether another backend than these serves it."""
        served = self._served(generation)
        return served is not None and served.fastest(avoid) is not None

    def _served(self, generation: Generation) -> Served | None:
        models = {"own": self.plan.served, "judge": self.plan.served.judge, "larger": self.plan.served.larger}
        return models[generation.model]

    def destination(self, generation: Generation, avoid: Container[str] = ()) -> tuple[Served, Backend]:
        """Raises Unavailable."""
        if generation.model == "own" and not avoid:
            return self.plan.served, self.plan.backend
        served = self._served(generation)
        backend = (served.fastest(avoid) or self.fastest(served)) if served is not None else None
        if served is None or backend is None:
            raise Unavailable(f"No backend of the {generation.model} model serves now.")
        return served, backend
