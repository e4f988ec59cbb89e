"""A finished trace as OpenTelemetry spans.

    invoke_workflow STRATEGY                    server, under the client's own span
    ├── decide                                  internal, one per plan
    ├── chat MODEL                              client, one per branch: the parent of the engine's spans
    └── select                                  internal

Names and attributes follow the GenAI semantic conventions as of 1.41 (development); what they have no name for is under
`paretoproxy.`. Tokens and money stand on the branches alone: a sum over a trace counts nothing twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from proxy.backend import Backend
from proxy.ledgers import Amount
from proxy.operations import FINISHED, PROVIDER, first_chunk_s, operation, streamed
from proxy.trace import BranchTrace, PlanTrace, Trace
from proxy.trace_context import BRANCHES, DECISIONS, ROOT, SELECTION

SCHEMA_URL = "https://opentelemetry.io/schemas/1.41.0"
SCOPE = InstrumentationScope("paretoproxy", schema_url=SCHEMA_URL)
_SHOWN_CONTROLS = ("strategy", "n", "max_tokens")
_NO_STATUS = Status(StatusCode.UNSET)
Attributes = dict[str, Any]


class SpanBuilder:
    """`backends`: all that there are, by name; `content`: prompts and answers are shown."""

    def __init__(self, resource: Resource, backends: Mapping[str, Backend], *, content: bool = False) -> None:
        self._resource = resource
        self.backends = backends
        self._content = content

    def spans(self, trace: Trace) -> list[ReadableSpan]:
        """Of one request, the root first."""
        return list(_Tree(self._resource, self.backends, self._content, trace).spans())


class _Tree:
    """Of one trace."""

    def __init__(self, resource: Resource, backends: Mapping[str, Backend], content: bool, trace: Trace) -> None:
        self._resource = resource
        self._backends = backends
        self._content = content
        self._trace = trace
        self._trace_id = int(trace.id, 16)
        self._flags = TraceFlags(TraceFlags.SAMPLED if trace.sampled else TraceFlags.DEFAULT)
        self._state = TraceState.from_header([trace.tracestate]) if trace.tracestate else TraceState()
        self._root = self._context(int(trace.span_id(ROOT), 16))

    def spans(self) -> Iterator[ReadableSpan]:
        trace = self._trace
        yield self._request()
        plans = [*trace.earlier_plans, *([trace.plan] if trace.plan is not None else [])]
        for number, plan in enumerate(plans):
            yield self._decision(number, plan)
        for row, branch in enumerate(trace.branches):
            yield self._branch(row, branch)
        if trace.selection:
            yield self._selection()

    def _request(self) -> ReadableSpan:
        trace, plan = self._trace, self._trace.plan
        name = plan.strategy if plan is not None else None
        attributes: Attributes = {
            "gen_ai.operation.name": "invoke_workflow",
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.workflow.name": name,
            "gen_ai.agent.name": name,  # its later name
            "gen_ai.request.model": trace.model,
            "gen_ai.request.stream": trace.stream or None,
            "gen_ai.request.choice.count": trace.choices if trace.choices != 1 else None,  # as the conventions say
            "gen_ai.request.max_tokens": trace.max_tokens,
            "http.route": trace.path,
            "http.response.status_code": trace.status or None,
            "error.type": trace.error_code if trace.outcome in ("refused", "failed") else None,
            "paretoproxy.request_id": trace.request_id,
            "paretoproxy.outcome": trace.outcome,
            "paretoproxy.latency_ms": trace.latency_ms,
            "paretoproxy.ttft_ms": trace.ttft_ms,
            "paretoproxy.prompt_tokens": trace.prompt_tokens,
            "paretoproxy.completion_tokens": trace.completion_tokens,
            "paretoproxy.tokens_exact": trace.tokens_exact,
            "paretoproxy.slo.status": trace.slo_status,
        }
        attributes |= {f"paretoproxy.slo.{key}": value for key, value in trace.slo.items()}
        attributes |= {f"paretoproxy.tts.{key}": trace.controls.get(key) for key in _SHOWN_CONTROLS}
        attributes |= _ledgers(trace)
        if self._content:
            attributes |= _content(trace)
        status = Status(StatusCode.ERROR, trace.error) if trace.outcome == "failed" else _NO_STATUS
        parent = None
        if trace.parent_id is not None:
            parent = SpanContext(self._trace_id, int(trace.parent_id, 16), True, self._flags, self._state)
        title = f"invoke_workflow {name}" if name else "invoke_workflow"
        # The conventions say INTERNAL of workflows inside an application; this one serves a remote caller.
        return self._span(
            title, ROOT, 0.0, trace.latency_ms, attributes, kind=SpanKind.SERVER, status=status, parent=parent
        )

    def _decision(self, number: int, plan: PlanTrace) -> ReadableSpan:
        attributes: Attributes = {
            "paretoproxy.plan.backend": plan.backend,
            "paretoproxy.plan.model": plan.model,
            "paretoproxy.plan.strategy": plan.strategy,
            "paretoproxy.plan.n": plan.n,
            "paretoproxy.plan.params": msgspec.json.encode(plan.params).decode() if plan.params else None,
            "paretoproxy.plan.feasible": plan.feasible,
            "paretoproxy.plan.gave_up": plan.gave_up or None,
            "paretoproxy.plan.considered": plan.considered,
            "paretoproxy.plan.note": plan.note,
        }
        attributes |= {f"paretoproxy.plan.dropped.{why}": count for why, count in plan.dropped.items()}
        attributes |= {f"paretoproxy.plan.predicted.{what}": value for what, value in plan.predicted.items()}
        start_ms = plan.start_ms
        if start_ms is None:  # pass-through: there was nothing to plan
            start_ms = self._trace.branches[0].start_ms if self._trace.branches else 0.0
        return self._span("decide", DECISIONS + number, start_ms, start_ms + (plan.took_ms or 0.0), attributes)

    def _branch(self, row: int, branch: BranchTrace) -> ReadableSpan:
        trace, backend = self._trace, self._backends.get(branch.backend)
        name = operation(trace.path, branch)
        model = backend.model if backend is not None else None
        attributes: Attributes = {
            "gen_ai.operation.name": name,
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.request.model": model,
            "gen_ai.request.stream": streamed(trace, branch) or None,
            "gen_ai.response.model": model if branch.outcome in FINISHED else None,
            "gen_ai.response.finish_reasons": [branch.finish_reason] if branch.finish_reason else None,
            "gen_ai.response.time_to_first_chunk": first_chunk_s(trace, branch),
            "gen_ai.usage.input_tokens": branch.prompt_tokens or None,
            "gen_ai.usage.output_tokens": branch.completion_tokens or None,
            "gen_ai.usage.cache_read.input_tokens": branch.cached_tokens,
            "gen_ai.usage.reasoning.output_tokens": branch.reasoning_tokens or None,
            "gen_ai.usage.cost.amount": branch.cost_usd,  # proposed: semantic-conventions-genai#443
            "gen_ai.usage.cost.currency": "USD" if branch.cost_usd is not None else None,
            "gen_ai.usage.cost.source": "local" if branch.cost_usd is not None else None,
            "server.address": backend.pool.origin.host if backend is not None else None,
            "server.port": backend.pool.origin.port if backend is not None else None,
            "error.type": (branch.error_type or "_OTHER") if branch.outcome == "failed" else None,
            "paretoproxy.backend": branch.backend,
            "paretoproxy.branch.index": row,
            "paretoproxy.branch.wave": branch.wave,
            "paretoproxy.branch.role": branch.role or "answer",
            "paretoproxy.branch.outcome": branch.outcome,
            "paretoproxy.branch.gpu_seconds": branch.gpu_seconds,
            "paretoproxy.branch.score": branch.score,
            "paretoproxy.branch.chosen": row in trace.selection.get("winners", ()),
            "paretoproxy.branch.answer": branch.answer if self._content else None,
        }
        events = []
        if branch.first_token_ms is not None:
            events.append(Event("first_token", timestamp=self._at(branch.first_token_ms)))
        status = Status(StatusCode.ERROR, branch.error) if branch.outcome == "failed" else _NO_STATUS
        end_ms = branch.end_ms if branch.end_ms is not None else trace.latency_ms
        title = f"{name} {model}" if model else name
        return self._span(
            title,
            BRANCHES + row,
            branch.start_ms,
            end_ms,
            attributes,
            kind=SpanKind.CLIENT,
            status=status,
            events=events,
        )

    def _selection(self) -> ReadableSpan:
        """From the last answer's arrival to the decision: comparing, scoring, voting."""
        trace, told = self._trace, self._trace.selection
        decided_ms = told.get("decided_ms", trace.latency_ms)
        ends = [branch.end_ms for branch in trace.branches if branch.outcome in FINISHED and branch.end_ms is not None]
        start_ms = max((end for end in ends if end <= decided_ms), default=decided_ms)
        attributes: Attributes = {
            f"paretoproxy.selection.{key}": told.get(key)
            for key in ("agreement", "votes", "winners", "cut_by_deadline", "note")
        }
        return self._span("select", SELECTION, start_ms, decided_ms, attributes)

    # -- parts --

    def _span(
        self,
        name: str,
        offset: int,
        start_ms: float,
        end_ms: float,
        attributes: Attributes,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        status: Status = _NO_STATUS,
        parent: SpanContext | None = None,
        events: list[Event] | None = None,
    ) -> ReadableSpan:
        context = self._root if offset == ROOT else self._context(int(self._trace.span_id(offset), 16))
        return ReadableSpan(
            name,
            context=context,
            parent=parent if offset == ROOT else self._root,
            resource=self._resource,
            attributes={key: value for key, value in attributes.items() if value is not None},
            events=events or (),
            kind=kind,
            status=status,
            start_time=self._at(start_ms),
            end_time=self._at(max(start_ms, end_ms)),
            instrumentation_scope=SCOPE,
        )

    def _context(self, span_id: int) -> SpanContext:
        return SpanContext(self._trace_id, span_id, False, self._flags, self._state)

    def _at(self, ms: float) -> int:
        """Nanoseconds since 1970."""
        return int(self._trace.received_at * 1e6) * 1000 + int(ms * 1e6)


def _ledgers(trace: Trace) -> Attributes:
    """Of each ledger the GPU-seconds, the dollars, and where they are unknown why."""
    found: Attributes = {}
    for name in trace.ledgers.__struct_fields__ if trace.ledgers is not None else ():
        amount = getattr(trace.ledgers, name)
        if isinstance(amount, Amount):
            found[f"paretoproxy.cost.{name}.gpu_seconds"] = amount.gpu_seconds
            found[f"paretoproxy.cost.{name}.usd"] = amount.usd
            found[f"paretoproxy.cost.{name}.reason"] = amount.reason if amount.usd is None else None
    return found


def _content(trace: Trace) -> Attributes:
    found: Attributes = {}
    if isinstance(trace.prompt, list):
        asked = [_message(message) for message in trace.prompt if isinstance(message, dict)]
        found["gen_ai.input.messages"] = msgspec.json.encode(asked).decode()
    if trace.answer is not None:
        answer = [{"role": "assistant", "parts": [{"type": "text", "content": trace.answer}]}]
        found["gen_ai.output.messages"] = msgspec.json.encode(answer).decode()
    return found


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """An OpenAI message in the conventions' shape."""
    content = message.get("content")
    parts = [{"type": "text", "content": content}] if isinstance(content, str) else content or []
    return {"role": message.get("role"), "parts": parts}
