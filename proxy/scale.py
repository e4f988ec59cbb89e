"""A request with controls: choose a plan, run its strategy under the deadline, answer, and say what it cost.

`scale` is the whole story in order. What fails before the client has an answer is planned again on another backend.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from proxy import reply
from proxy.asgi import JSON, unless_gone
from proxy.asking import Question, question
from proxy.branch import BranchStream
from proxy.call import Call
from proxy.catalog import Served
from proxy.context_room import room
from proxy.correction import Forecast
from proxy.errors import (
    DeadlineExceeded,
    ProxyError,
    SloInfeasible,
    Unavailable,
    UpstreamFailed,
    UpstreamRefused,
)
from proxy.fanout import Run
from proxy.generations import Requests
from proxy.planner import Ask, Decision, NoCandidate
from proxy.prompt_length import REMOTE_TIMEOUT_S, prompt_length
from proxy.quality_watch import Voted
from proxy.same_answer import Within, text_equivalence
from proxy.scale_stream import Events, StreamedReply, VoteSoFar
from proxy.scale_trace import note_plan, note_run
from proxy.scoring import Scoring
from proxy.server_protocol import Client
from proxy.service import Service
from proxy.trace import Trace
from proxy.upstream.connection import Headers
from strategies.answers import Grouper
from strategies.base import Outcome


@dataclass(slots=True)
class Exchange:
    """One client's request as the server holds it. `arrived_at`: time.monotonic(); `finish`: work left for the
    trace's writer."""

    call: Call
    client: Client
    arrived_at: float
    trace: Trace
    finish: Callable[[Trace], None] | None = None


@dataclass(slots=True)
class Executed:
    """A plan that was run, and what its strategy decided. `winners`: best first; `cut`: one had to be cut
    unfinished."""

    decision: Decision
    run: Run
    outcome: Outcome
    winners: list[BranchStream]
    decided_at: float


async def scale(service: Service, exchange: Exchange, models: Sequence[Served]) -> None:
    """Answer one controlled request. Raises ProxyError before anything was sent; ClientGone."""
    call, trace = exchange.call, exchange.trace
    tokens, trace.tokens_exact = await _prompt_length(exchange, models[0])
    asked = question(call, models, service.registry, tokens)
    streamed = StreamedReply(exchange.client.send, call) if call.stream else None
    try:
        executed = await _until_answered(service, exchange, models, asked, streamed)
        await _answer(service, exchange, executed, streamed)
        _learn_quality(executed, asked)
    except ProxyError as error:
        if call.controls.slo.demanding and error.http_status >= 500 and not isinstance(error, SloInfeasible):
            trace.slo_status = "missed"
        if streamed is None or not streamed.started:
            raise
        await streamed.fail(error)  # the status line is long gone: tell it in the stream
        trace.outcome, trace.error, trace.status = "failed", error.message, 200


async def _prompt_length(exchange: Exchange, served: Served) -> tuple[float, bool]:
    """Spends a fifth of the deadline at most; without asking a backend there is no need to watch over the client."""
    latency_ms = exchange.call.controls.slo.latency_ms
    ask_for_s = REMOTE_TIMEOUT_S if latency_ms is None else min(REMOTE_TIMEOUT_S, latency_ms / 5e3)
    counting = prompt_length(exchange.call, served, ask_for_s)
    asks = served.counter is None and any(backend.tokenizes for backend in served.backends)
    return await (unless_gone(exchange.client, counting) if asks else counting)


async def _until_answered(
    service: Service, exchange: Exchange, models: Sequence[Served], asked: Question, streamed: StreamedReply | None
) -> Executed:
    """Plans until one gives an answer; a backend whose every branch failed is left out of the next plan."""
    trace, ask = exchange.trace, asked.ask
    while True:
        decision = _decide(service, ask, models, asked.note, trace)
        executed = await _execute(service, exchange, decision, asked, streamed)
        if executed.winners:
            return executed
        failed = executed.run.failed
        if executed.run.fault is not None:
            raise executed.run.fault
        own = [branch for branch in failed if branch.generation.model == "own"]
        refusals = [branch.refusal for branch in own if branch.refusal is not None]
        client_fault = next((refusal for refusal in refusals if 400 <= refusal[0] < 500 and refusal[0] != 429), None)
        if client_fault is not None:
            raise UpstreamRefused(*client_fault)
        if executed.run.cut_by_deadline:
            raise DeadlineExceeded("The deadline came before any branch had produced a token.")
        problem = failed[0].error if failed else None
        if streamed is not None and streamed.sent_content:
            raise UpstreamFailed(f"The backend failed mid-answer: {problem}")
        ask = replace(ask, exclude=ask.exclude | {decision.plan.backend.name})


def _decide(service: Service, ask: Ask, models: Sequence[Served], note: str | None, trace: Trace) -> Decision:
    decision = service.choose(ask, models, service.rng)
    if isinstance(decision, NoCandidate):
        why = ", ".join(f"{count} {reason}" for reason, count in decision.dropped.items())
        if ask.exclude:
            raise UpstreamFailed(f"Every backend that could serve the request failed ({why}).")
        raise Unavailable(f"No backend can serve the request now ({why or 'no candidate'}).")
    note_plan(trace, decision, note)
    if ask.slo.strict and not decision.feasible:
        best = decision.plan.predicted
        dropped = ", ".join(f"{count} dropped by {limit}" for limit, count in decision.dropped.items())
        raise SloInfeasible(
            f"No plan meets the SLO now: {dropped}. The nearest is predicted to take {best.latency_ms:.0f} ms at the "
            f"{models[0].percentile:.0%} percentile with an accuracy of at least {best.accuracy_lower:.2f}.",
            retry_after_s=1,
        )
    return decision


async def _execute(
    service: Service, exchange: Exchange, decision: Decision, asked: Question, streamed: StreamedReply | None
) -> Executed:
    call, plan = exchange.call, decision.plan
    strategy = service.registry.build(plan.strategy, plan.params)
    shape = strategy.shape()
    # Others go on from what they wrote, or may answer with something else.
    live = streamed is not None and shape.votes and shape.branches == shape.waves == 1
    progress = streamed is not None and not live and call.chat and call.controls.progress
    events = Events(content=live) if live or progress else None
    told = VoteSoFar(events, plan.branches, exchange.trace.id, plan.backend.model) if events and progress else None
    decide_by = None
    if asked.ask.slo.latency_ms is not None:
        decide_by = exchange.arrived_at + asked.ask.slo.latency_ms / 1e3 - service.finish_time.reserve_s
    scoring = _scoring(service, call, plan.served)
    known = asked.ask.prompt_tokens if exchange.trace.tokens_exact else None
    run = Run(
        plan.backend,
        Requests.of(call, plan, exchange.trace, live=live, fastest=Served.fastest, prompt_tokens=known),
        _grouper(service, call, asked, plan.served, scoring, decide_by),
        decide_by=decide_by,
        clock=service.clock,
        scoring=scoring,
        question=call.question,
        max_tokens=call.max_tokens,
        room=room(plan.backend, known),
        top_logprobs=call.top_logprobs,
        on_event=events.put if events is not None and live else None,
        on_answer=told.add if told is not None else None,
    )
    if streamed is not None:
        await streamed.start(_headers(exchange, decision))
    try:
        with exchange.client.watch(run.client_gone):
            if streamed is not None:
                outcome = await streamed.while_running(strategy.run(run), run, events)
            else:
                outcome = await strategy.run(run)
    finally:
        run.cancel_all()
        # Also of a client that left: what ran was paid for.
        note_run(exchange.trace, run, exchange.arrived_at, service.catalog.by_name)
    decided_at = service.clock()
    winners = _winners(run, outcome, call.answers_wanted)
    _reason_alike(winners, run)
    return Executed(decision, run, outcome, winners, decided_at)


def _scoring(service: Service, call: Call, served: Served) -> Scoring | None:
    """None where there is nobody to ask: most models have no reward model."""
    if not served.scorers and served.embedding is None and served.config.compare_text is None:
        return None
    return Scoring(served.scorers, served.embedding, call, service.clock, served.step_token, served.reads_thinking)


def _grouper(
    service: Service, call: Call, asked: Question, served: Served, scoring: Scoring | None, decide_by: float | None
) -> Grouper | None:
    if asked.answers is None:
        return None
    if asked.answers != "text":
        return Grouper(asked.answers, Within(service.equivalence, decide_by), schema=call.answer_schema)
    compared = text_equivalence(served, scoring, call.question, service.clock)
    return Grouper("text", Within(compared, decide_by) if compared is not None else None)


def _winners(run: Run, outcome: Outcome, wanted: int) -> list[BranchStream]:
    """The strategy's ranking; without one, the longest unfinished branch that has said something, or a part of an
    answer that no further part followed in time."""
    ranked = [run.branches[index] for index in outcome.ranking[:wanted]]
    if ranked:
        return ranked
    finals = [branch for branch in run.branches if branch.events and branch.generation.final]
    unfinished = [branch for branch in finals if branch.state == "cancelled"] or [
        b for b in finals if b in run.finished
    ]
    return sorted(unfinished, key=lambda branch: (-len(branch.continues), -branch.completion_tokens))[:1]


def _reason_alike(winners: Sequence[BranchStream], run: Run) -> None:
    """One that went on after the thinking has told none itself; its client gets it apart all the same."""
    for winner in winners:
        if "think>" in winner.continues and not winner.reasons_apart:
            winner.reasons_apart = any(b.reasons_apart for b in run.branches if b.backend is winner.backend)


async def _answer(service: Service, exchange: Exchange, executed: Executed, streamed: StreamedReply | None) -> None:
    call, trace, run = exchange.call, exchange.trace, executed.run
    _learn(executed, service.config.slo.percentile)
    latency_ms = (service.clock() - exchange.arrived_at) * 1e3
    status = _slo_status(call, executed, latency_ms, trace)
    trace.slo_status = status
    trace.selection = {
        "agreement": executed.outcome.agreement,
        "votes": executed.outcome.votes,
        "winners": [run.first_row + branch.index for branch in executed.winners],
        "cut_by_deadline": run.cut_by_deadline,
    }
    if notes := _notes(executed):
        trace.selection["note"] = notes
    usage = _usage(executed, trace, status)
    if not service.config.traces.store_prompts:
        for row in trace.branches:
            row.answer = None
    else:
        trace.prompt, trace.answer = call.decoded().get("messages"), executed.winners[0].text
    if streamed is not None:
        await streamed.finish(executed.winners, usage, trace.id, run.backend.model)
    else:
        headers = _headers(exchange, executed.decision)
        headers += [JSON, (b"x-slo-status", status.encode())]
        if trace.cost_usd is not None:
            headers.append((b"x-cost-usd", f"{trace.cost_usd:.9f}".encode()))
        body = reply.whole(executed.winners, call.chat, usage, trace.id, run.backend.model, int(time.time()))
        await exchange.client.send_whole(200, headers, body)
    service.finish_time.observe(service.clock() - executed.decided_at)
    trace.status = 200


def _learn(executed: Executed, percentile: float) -> None:
    """Correct the backend's predictions; a run with failed branches is not the one that was predicted."""
    run, plan = executed.run, executed.decision.plan
    known = plan.single_wave or not plan.predicted.prior  # waves that nobody measured are guessed
    if run.branches and not run.failed and known:
        predicted = plan.predicted
        tail_ms = predicted.uncut_ms or predicted.latency_ms
        forecast = Forecast(predicted.median_ms / 1e3, tail_ms / 1e3, percentile, predicted.bias, predicted.spread)
        took_s = executed.decided_at - run.branches[0].started_at
        plan.backend.correction.observe(took_s, forecast, cut=run.cut_by_deadline)


def _learn_quality(executed: Executed, asked: Question) -> None:
    """How the branches agreed tells how right the model is on this task; a run with failed branches is another vote."""
    run, plan, outcome = executed.run, executed.decision.plan, executed.outcome
    if plan.branches > 1 and not run.failed:
        agreement = outcome.agreement or 0.0
        voted = Voted(plan.strategy, plan.params, plan.branches, outcome.votes, agreement, run.cut_by_deadline)
        plan.served.observe_vote(asked.ask.task, asked.answers, asked.ask.max_tokens, voted)


def _slo_status(call: Call, executed: Executed, latency_ms: float, trace: Trace) -> str:
    slo = call.controls.slo
    if not slo.demanding:
        return "none"
    late = slo.latency_ms is not None and latency_ms > slo.latency_ms
    dear = slo.cost_usd is not None and trace.cost_usd is not None and trace.cost_usd > slo.cost_usd
    if late or dear:
        return "missed"
    planned = executed.decision.plan.predicted.cut and bool(executed.run.finished)
    cut_short = executed.run.cut_by_deadline and not planned
    return "degraded" if cut_short or not executed.decision.feasible else "met"


def _usage(executed: Executed, trace: Trace, status: str) -> reply.Usage:
    run, plan = executed.run, executed.decision.plan
    states = [branch.state for branch in run.branches]
    note = _notes(executed)
    return reply.Usage(
        prompt_tokens=trace.prompt_tokens,
        completion_tokens=trace.completion_tokens,
        tts={
            "strategy": plan.strategy,
            "n": plan.branches,
            "completed": len(run.finished),
            "cancelled": states.count("cancelled"),
            "failed": states.count("failed"),
            "agreement": executed.outcome.agreement,
            "backend": plan.backend.name,
            "trace_id": trace.id,
            "cost_usd": trace.cost_usd,
            "gpu_seconds": trace.gpu_seconds,
            "slo_status": status,
            **({"note": note} if note else {}),
        },
    )


def _notes(executed: Executed) -> str | None:
    """What the strategy had to do without."""
    notes = [executed.outcome.note, *dict.fromkeys(executed.run.notes)]
    return "; ".join(note for note in notes if note) or None


def _headers(exchange: Exchange, decision: Decision) -> Headers:
    plan = decision.plan
    return [
        (b"x-request-id", (exchange.trace.request_id or exchange.trace.id).encode()),
        (b"x-tts-strategy", plan.strategy.encode()),
        (b"x-tts-n", str(plan.branches).encode()),
        (b"x-tts-backend", plan.backend.name.encode()),
        (b"x-slo-predicted-latency-ms", f"{plan.predicted.latency_ms:.0f}".encode()),
    ]
