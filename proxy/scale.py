"""A request with controls: choose a plan, run its strategy under the deadline, answer, and say what it cost.

`scale` is the whole story in order. What fails before the client has an answer is planned again on another backend.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from math import ceil

from proxy import reply, scale_told
from proxy.asgi import JSON, unless_gone
from proxy.asking import Question, question
from proxy.branch import BranchStream
from proxy.call import Call
from proxy.catalog import Served
from proxy.context_room import room
from proxy.deadline import decide_by, patience_s
from proxy.errors import (
    DeadlineExceeded,
    ProxyError,
    ShuttingDown,
    SloInfeasible,
    Unavailable,
    UpstreamFailed,
    UpstreamRefused,
)
from proxy.exchange import Exchange, Executed
from proxy.fanout import Run
from proxy.generations import Requests
from proxy.learning import learn_latency, learn_quality
from proxy.line import Dues
from proxy.plans import Ask, Decision, NoCandidate
from proxy.prompt_length import REMOTE_TIMEOUT_S, prompt_length
from proxy.reliability.retrying import Failure
from proxy.replacing import Replacements
from proxy.same_answer import Within, text_equivalence
from proxy.scale_stream import Events, StreamedReply, VoteSoFar
from proxy.scale_trace import note_plan, note_run
from proxy.scoring import Scoring
from proxy.service import Service
from proxy.winners import winners
from strategies.answers import Grouper

GUESSED = "the prompt's length was guessed: no tokenizer here, and no backend told it in time"


async def scale(service: Service, exchange: Exchange, models: Sequence[Served]) -> None:
    """Answer one controlled request. Raises ProxyError before anything was sent; ClientGone."""
    call, trace = exchange.call, exchange.trace
    tokens, counted = await _prompt_length(exchange, models[0])
    asked = question(call, models, service.registry, tokens, exchange.caller)
    if not counted:
        asked = replace(asked, note=f"{asked.note}; {GUESSED}" if asked.note else GUESSED)
    streamed = StreamedReply(exchange.client.send, call) if call.stream else None
    try:
        executed = await _until_answered(service, exchange, models, asked, streamed)
        await _answer(service, exchange, executed, streamed)
        learn_quality(executed.decision.plan, executed.run, executed.outcome, asked)
    except ProxyError as error:
        if call.controls.slo.demanding and error.http_status >= 500 and not isinstance(error, SloInfeasible):
            trace.slo_status = "missed"
        if streamed is None or not streamed.started:
            raise
        await streamed.fail(error)  # the status line is long gone: tell it in the stream
        trace.outcome, trace.error, trace.error_code, trace.status = "failed", error.safe, error.code, 200


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
    trace, attempts = exchange.trace, 0
    # Of its branches, the one in the middle.
    whole = replace(asked.ask, due_s=exchange.arrived_at + patience_s(asked.ask.slo) / 2)
    ask = _in_the_time_left(service, exchange, whole) if trace.queued_ms else whole
    while True:
        attempts += 1
        decision = _decide(service, ask, models, asked.note, exchange, first=attempts == 1)
        executed = await _execute(service, exchange, decision, asked, streamed, again=attempts > 1)
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
        if executed.run.called_off:
            raise ShuttingDown
        if executed.run.cut_by_deadline:
            raise DeadlineExceeded("The deadline came before any branch had produced a token.")
        problem = failed[0].error if failed else None
        if streamed is not None and streamed.sent_content:
            said, safe = (str(problem), problem.safe) if problem is not None else ("None", "None")
            raise UpstreamFailed(
                f"The backend failed mid-answer: {said}", safe=f"The backend failed mid-answer: {safe}"
            )
        exclude = ask.exclude | {decision.plan.backend.name}
        if failed:
            elsewhere = any(b.health.serving and b.name not in exclude for served in models for b in served.backends)
            if not elsewhere and not any(branch.first_token_at for branch in failed):
                exclude = frozenset()  # nothing came of it, and nobody else is there: the same once more
            await _before_the_next(service, exchange, executed, attempts, elsewhere=elsewhere)
        ask = replace(_in_the_time_left(service, exchange, whole), exclude=exclude)


def _in_the_time_left(service: Service, exchange: Exchange, ask: Ask) -> Ask:
    """A plan that is made late has less time; a millisecond at least, for the nearest plan."""
    slo = exchange.call.controls.slo
    if slo.latency_ms is None:
        return ask
    left_ms = max(1.0, slo.latency_ms - (service.clock() - exchange.arrived_at) * 1e3)
    return replace(ask, slo=replace(ask.slo, latency_ms=left_ms))


async def _before_the_next(
    service: Service, exchange: Exchange, executed: Executed, attempts: int, *, elsewhere: bool
) -> None:
    """Pause as retries do. Raises UpstreamFailed where there is to be no next attempt, ClientGone."""
    failed = executed.run.failed[0]
    answered = f"it answered {failed.refusal[0]}" if failed.refusal is not None else "it failed"
    said, safe = (str(failed.error), failed.error.safe) if failed.error is not None else (answered, answered)
    delay_s = service.reliability.retries.delay_s(
        "plan",
        failed.failure or Failure("status", said, safe),
        failed.backend,
        attempts=attempts,
        elsewhere=elsewhere,
        until=_decide_by(service, exchange),
    )
    if delay_s is None:
        name = failed.backend.name
        raise UpstreamFailed(f"The backend {name} failed: {said}.", safe=f"The backend {name} failed: {safe}.")
    await unless_gone(exchange.client, asyncio.sleep(delay_s))


def _decide_by(service: Service, exchange: Exchange) -> float | None:
    return decide_by(exchange.call.controls.slo, exchange.arrived_at, service.finish_time.reserve_s)


def _decide(
    service: Service, ask: Ask, models: Sequence[Served], note: str | None, exchange: Exchange, *, first: bool = True
) -> Decision:
    """`first`: nothing was spent yet, so that a strict request may still be refused."""
    asked_at = service.clock()
    decision = service.choose(ask, models, service.rng)
    if isinstance(decision, NoCandidate):
        why = ", ".join(f"{count} {reason}" for reason, count in decision.dropped.items())
        if ask.exclude or not first:
            raise UpstreamFailed(f"Every backend that could serve the request failed ({why}).")
        raise nobody_serves(models, f"No backend can serve the request now ({why or 'no candidate'}).")
    note_plan(exchange.trace, decision, note, asked_at - exchange.arrived_at, service.clock() - asked_at)
    if first and ask.slo.strict and not decision.feasible:
        best = decision.plan.predicted
        dropped = ", ".join(f"{count} dropped by {limit}" for limit, count in decision.dropped.items())
        raise SloInfeasible(
            f"No plan meets the SLO now: {dropped}. The nearest is predicted to take {best.latency_ms:.0f} ms at the "
            f"{models[0].percentile:.0%} percentile with an accuracy of at least {best.accuracy_lower:.2f}.",
            retry_after_s=1,
        )
    return decision


def nobody_serves(models: Sequence[Served], message: str) -> Unavailable:
    """With the time until the first of the backends that are out may be tried again, a second at least."""
    waits = [backend.health.retry_after_s for served in models for backend in served.backends]
    return Unavailable(message, retry_after_s=max(1, ceil(min(waits, default=0.0))))


async def _execute(
    service: Service,
    exchange: Exchange,
    decision: Decision,
    asked: Question,
    streamed: StreamedReply | None,
    *,
    again: bool = False,
) -> Executed:
    call, plan = exchange.call, decision.plan
    strategy = service.registry.build(plan.strategy, plan.params)
    shape = strategy.shape()
    # Others go on from what they wrote, or may answer with something else.
    live = streamed is not None and shape.votes and shape.branches == shape.waves == 1
    progress = streamed is not None and not live and call.chat and call.controls.progress
    events = Events(content=live) if live or progress else None
    told = VoteSoFar(events, plan.branches, exchange.trace.id, plan.backend.model) if events and progress else None
    decide_by = _decide_by(service, exchange)
    dues = Dues(exchange.arrived_at, patience_s(asked.ask.slo), plan.branches)
    scoring = _scoring(service, call, plan.served)
    known = asked.ask.prompt_tokens if GUESSED not in (asked.note or "") else None
    requests = Requests.of(
        call,
        plan,
        exchange.trace,
        live=live,
        fastest=Served.fastest,
        priority=lambda index: service.priority(dues.of(index)),
        prompt_tokens=known,
    )
    run = Run(
        plan.backend,
        requests,
        _grouper(service, call, asked, plan.served, scoring, decide_by),
        decide_by=decide_by,
        dues=dues,
        clock=service.clock,
        scoring=scoring,
        question=call.question,
        max_tokens=call.max_tokens,
        room=room(plan.backend, known),
        top_logprobs=call.top_logprobs,
        answers_wanted=call.answers_wanted,
        on_event=events.put if events is not None and live else None,
        on_answer=told.add if told is not None else None,
        interval=requests.interval,
        replacing=Replacements(requests, service.reliability.retries, decide_by),
    )
    run.attempt = "retry" if again else None
    if streamed is not None:
        await streamed.start(scale_told.headers(exchange, decision))
    try:
        with exchange.client.watch(run.client_gone, run.call_off):
            if streamed is not None:
                outcome = await streamed.while_running(strategy.run(run), run, events)
            else:
                outcome = await strategy.run(run)
    finally:
        run.cancel_all()
        # Also of a client that left: what ran was paid for.
        counted = round(asked.ask.prompt_tokens) if GUESSED not in (asked.note or "") else None
        note_run(exchange.trace, run, exchange.arrived_at, service.catalog.by_name, counted)
    decided_at = service.clock()
    best = winners(run, outcome, call.answers_wanted)
    _reason_alike(best, run)
    return Executed(decision, run, outcome, best, decided_at)


def _scoring(service: Service, call: Call, served: Served) -> Scoring | None:
    """None where there is nobody to ask: most models have no reward model."""
    if not served.scorers and served.embedding is None and served.config.compare_text is None:
        return None
    retries, reads = service.reliability.retries, served.reads_thinking
    return Scoring(served.scorers, served.embedding, call, service.clock, served.step_token, retries, reads)


def _grouper(
    service: Service, call: Call, asked: Question, served: Served, scoring: Scoring | None, decide_by: float | None
) -> Grouper | None:
    if asked.answers is None:
        return None
    if asked.answers != "text":
        return Grouper(asked.answers, Within(service.equivalence, decide_by), schema=call.answer_schema)
    compared = text_equivalence(served, scoring, call.question, service.clock)
    return Grouper("text", Within(compared, decide_by) if compared is not None else None)


def _reason_alike(winners: Sequence[BranchStream], run: Run) -> None:
    """One that went on after the thinking has told none itself; its client gets it apart all the same."""
    for winner in winners:
        if "think>" in winner.continues and not winner.reasons_apart:
            winner.reasons_apart = any(b.reasons_apart for b in run.branches if b.backend is winner.backend)


async def _answer(service: Service, exchange: Exchange, executed: Executed, streamed: StreamedReply | None) -> None:
    call, trace, run = exchange.call, exchange.trace, executed.run
    learn_latency(executed.decision.plan, run, executed.decided_at, service.config.slo.percentile)
    latency_ms = (service.clock() - exchange.arrived_at) * 1e3
    status = scale_told.slo_status(call.controls.slo, executed.decision, run, latency_ms, trace.cost_usd)
    trace.slo_status = status
    trace.selection = {
        "agreement": executed.outcome.agreement,
        "votes": executed.outcome.votes,
        "winners": [run.first_row + branch.index for branch in executed.winners],
        "cut_by_deadline": run.cut_by_deadline,
        "decided_ms": round((executed.decided_at - exchange.arrived_at) * 1e3, 3),
    }
    if note := scale_told.notes(executed):
        trace.selection["note"] = note
    usage = scale_told.usage(executed, trace, status)
    if service.keeps_content:
        trace.prompt, trace.answer = call.decoded().get("messages"), executed.winners[0].text
    if streamed is not None:
        first_at = run.branches[-1].first_token_at if streamed.sent_content else service.clock()
        if first_at is not None:
            trace.ttft_ms = round((first_at - exchange.arrived_at) * 1e3, 3)
        await streamed.finish(executed.winners, usage, trace.id, run.backend.model)
    else:
        headers = scale_told.headers(exchange, executed.decision)
        headers += [JSON, (b"x-slo-status", status.encode())]
        if trace.cost_usd is not None:
            headers.append((b"x-cost-usd", f"{trace.cost_usd:.9f}".encode()))
        body = reply.whole(executed.winners, call.chat, usage, trace.id, run.backend.model, int(time.time()))
        await exchange.client.send_whole(200, headers, body)
    service.finish_time.observe(service.clock() - executed.decided_at)
    trace.status = 200
