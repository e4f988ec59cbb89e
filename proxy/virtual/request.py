"""One request's life in virtual time: `proxy.scale` and `proxy.passing` without what travels between them and engines.

Of what may fail there only an engine's full queue can here, and its request is planned again at once: no breaker opens
and nobody pauses before a retry. Its answer is a row of a load test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from profiler.loadtest.result import Result, met
from profiler.loadtest.schedule import Planned
from profiler.simulation.asked import Refused
from profiler.simulation.clock import Alarm
from proxy import ledgers
from proxy.context_room import room
from proxy.deadline import decide_by, patience_s
from proxy.errors import (
    DeadlineExceeded,
    ProxyError,
    SloInfeasible,
    Unavailable,
    UpstreamFailed,
)
from proxy.learning import learn_latency, learn_quality
from proxy.ledgers import Part
from proxy.line import Dues
from proxy.passing import fastest, usable
from proxy.plans import Ask, Decision, NoCandidate, Plan
from proxy.scale_told import slo_status
from proxy.virtual.branch import VirtualAttempt, VirtualBranch
from proxy.virtual.fleet import VirtualFleet
from proxy.virtual.sampling import Sampling
from proxy.virtual.steps import Pause, Steps
from proxy.virtual.wording import Kind, Letters, Wording, Wordings
from proxy.winners import winners
from strategies.answers import Grouper
from strategies.base import Outcome


class VirtualRequest:
    """`on_end` gets the result, at the time at which its client has it, gives up, or leaves."""

    def __init__(
        self,
        fleet: VirtualFleet,
        wordings: Wordings,
        planned: Planned,
        timeout_s: float,
        on_end: Callable[[VirtualRequest, Result], None],
    ) -> None:
        self._fleet, self._wordings, self._planned, self._on_end = fleet, wordings, planned, on_end
        self._arrived_at = fleet.clock.now()
        self._result = Result.of(planned)
        self._result.sent_s = planned.at_s
        self._branches: list[VirtualBranch] = []  # of all plans
        self._sampling: Sampling | None = None
        self._passed_through = False
        self._steps = Steps(self._live(), fleet.clock, self._over)
        self._patience_s = timeout_s
        self._leaves = planned.leave_after_s is not None and planned.leave_after_s < timeout_s
        if self._leaves and planned.leave_after_s is not None:
            self._patience_s = planned.leave_after_s
        self._timer: Alarm | None = None

    def begin(self) -> None:
        self._timer = self._fleet.clock.at(self._arrived_at + self._patience_s, self._lose_patience)
        self._steps.begin()

    def break_off(self) -> None:
        """Without a result."""
        if self._timer is not None:
            self._timer.cancel()
        self._steps.stop()
        self._cancel_branches()

    def _lose_patience(self) -> None:
        self.break_off()
        if self._leaves:
            self._result.outcome = "cancelled"
        else:
            self._result.error = f"no whole answer within {self._patience_s:g} s"
        self._over(None)

    def _cancel_branches(self) -> None:
        for branch in self._branches:
            branch.cancel()
        if self._sampling is not None:
            self._sampling.cancel_all()

    def _over(self, _: None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        result = self._result
        if result.outcome != "answered" or result.cost_usd is None:
            self._account()
        result.met = met(result, self._planned.slo_class.slo)
        self._on_end(self, result)

    # -- the request --

    async def _live(self) -> None:
        result = self._result
        try:
            kind, wording = self._wordings.of(self._planned)
            if kind.scaled:
                await self._scale(kind, wording)
            else:
                await self._pass_through(kind, wording)
            result.outcome, result.status = "answered", 200
        except ProxyError as error:
            refused = isinstance(error, SloInfeasible)
            result.outcome, result.status = ("refused" if refused else "error"), error.http_status
            result.error, result.predicted_ms = f"{error.http_status} {error.code or error.type}", None
        except Refused as error:
            result.status, result.error, result.predicted_ms = error.status, f"{error.status} {error.status}", None
        result.latency_ms = (self._fleet.clock.now() - self._arrived_at) * 1e3

    async def _scale(self, kind: Kind, wording: Wording) -> None:
        """Raises ProxyError."""
        fleet, slo = self._fleet, kind.asked.ask.slo
        due_s = self._arrived_at + patience_s(slo) / 2
        whole = ask = replace(kind.asked.ask, prompt_tokens=wording.tokens, due_s=due_s)
        while True:
            decision = self._decide(ask, kind, first=ask is whole)
            run, outcome = await self._execute(decision, kind, wording)
            best = winners(run, outcome, kind.call.answers_wanted)
            if best:
                break
            self._raise_unless_replaced(run)
            exclude = ask.exclude | {decision.plan.backend.name}
            ask = replace(self._in_the_time_left(whole), exclude=exclude)
        decided_at = fleet.clock.now()
        learn_latency(decision.plan, run, decided_at, fleet.config.slo.percentile)
        self._account()
        result = self._result
        latency_ms = (decided_at - self._arrived_at) * 1e3
        result.slo_status = slo_status(slo, decision, run, latency_ms, result.cost_usd)
        self._say(best[0], live=self._is_live(decision.plan))
        fleet.finish_time.observe(0.0)
        learn_quality(decision.plan, run, outcome, kind.asked)

    def _decide(self, ask: Ask, kind: Kind, *, first: bool) -> Decision:
        """Raises SloInfeasible, Unavailable, UpstreamFailed."""
        decision = self._fleet.choose(ask, kind.models, self._fleet.rng)
        if isinstance(decision, NoCandidate):
            if not first:
                raise UpstreamFailed("Every backend that could serve the request failed.")
            raise Unavailable("No backend can serve the request now.")
        if first and ask.slo.strict and not decision.feasible:
            self._plan(decision.plan)
            raise SloInfeasible("No plan meets the SLO now.", retry_after_s=1)
        return decision

    async def _execute(self, decision: Decision, kind: Kind, wording: Wording) -> tuple[Sampling, Outcome]:
        fleet, plan, call, ask = self._fleet, decision.plan, kind.call, kind.asked.ask
        self._plan(plan)
        strategy, answers = fleet.strategy(plan), kind.asked.answers
        run = self._sampling = Sampling(
            fleet,
            plan.backend,
            Letters(fleet, wording, plan, live=self._is_live(plan)),
            None if answers is None else Grouper(answers, schema=call.answer_schema),
            decide_by=decide_by(ask.slo, self._arrived_at, fleet.finish_time.reserve_s),
            dues=Dues(self._arrived_at, patience_s(ask.slo), plan.branches),
            question=wording.call.question,
            max_tokens=call.max_tokens,
            room=room(plan.backend, wording.tokens),
            answers_wanted=call.answers_wanted,
            seed=self._planned.body.get("seed"),
            priority=self._planned.body.get("priority"),
        )
        try:
            outcome = await strategy.run(run)
        finally:
            run.cancel_all()
            self._branches += run.branches
            self._sampling = None
        return run, outcome

    def _raise_unless_replaced(self, run: Sampling) -> None:
        """Raises what ends a request whose plan gave nothing."""
        if run.fault is not None:
            raise run.fault
        if run.cut_by_deadline:
            raise DeadlineExceeded("The deadline came before any branch had produced a token.")

    def _in_the_time_left(self, ask: Ask) -> Ask:
        """A plan that is made late has less time, as in `proxy.scale`."""
        if ask.slo.latency_ms is None:
            return ask
        elapsed_ms = (self._fleet.clock.now() - self._arrived_at) * 1e3
        return replace(ask, slo=replace(ask.slo, latency_ms=max(1.0, ask.slo.latency_ms - elapsed_ms)))

    async def _pass_through(self, kind: Kind, wording: Wording) -> None:
        """Raises ProxyError, Refused."""
        fleet, self._passed_through = self._fleet, True
        left = usable(kind.call, kind.models)
        while left:
            served, backend = fastest(left, fleet.rng)
            left.remove((served, backend))
            engine = fleet.engines[backend.name]
            self._result.strategy, self._result.n, self._result.backend = "none", 1, backend.name
            self._result.slo_status = None if self._planned.stream else "none"  # as the proxy's headers tell
            pause = Pause()

            def ended(_: VirtualBranch, pause: Pause = pause) -> None:
                pause.wake()

            asked = wording.passed_through(served, engine)
            choices = engine.draw(asked, self._planned.body.get("seed"))
            attempt = VirtualAttempt(0, backend, engine, asked, choices, ended, None)
            self._branches.append(attempt)
            attempt.start(0, self._planned.body.get("priority") or 0)
            while attempt.state == "running":
                await pause
            if attempt.error is None:
                self._say(attempt, live=True)
                return
        raise UpstreamFailed("No backend could answer.")

    # -- the row --

    def _is_live(self, plan: Plan) -> bool:
        """Its tokens reach the client as they come."""
        shape = self._fleet.strategy(plan).shape()
        return self._planned.stream and shape.votes and shape.branches == shape.waves == 1

    def _plan(self, plan: Plan) -> None:
        result = self._result
        result.strategy, result.n, result.backend = plan.strategy, plan.branches, plan.backend.name
        result.predicted_ms = round(plan.predicted.latency_ms)

    def _say(self, branch: VirtualBranch, *, live: bool) -> None:
        result = self._result
        result.text, result.finish_reason = branch.text, branch.finish_reason or "length"  # a fragment is cut
        if self._planned.stream:
            at = branch.first_token_at if live else None
            result.ttft_ms = ((self._fleet.clock.now() if at is None else at) - self._arrived_at) * 1e3

    def _account(self) -> None:
        """Tokens and costs, of losing branches too."""
        result, branches = self._result, self._branches
        if not branches:
            return
        result.prompt_tokens = sum(branch.prompt_tokens for branch in branches)
        result.completion_tokens = sum(branch.completion_tokens for branch in branches)
        result.gpu_seconds = sum(branch.gpu_seconds for branch in branches)
        costs, parts = list[float | None](), list[Part]()
        for name in dict.fromkeys(branch.backend.name for branch in branches):
            part = self._part([branch for branch in branches if branch.backend.name == name])
            parts.append(part)
            costs.append(ledgers.cost_usd(part.rate, part.attributed_gpu_s, part.prompt_tokens, None, part.tokens))
        told = ledgers.of_request(parts)
        # Of what is passed through a trace alone tells the cost, and that of the GPU's time.
        result.cost_usd = told.attributed.usd if self._passed_through else ledgers.total(costs)
        result.exclusive_usd = told.exclusive.usd

    def _part(self, branches: list[VirtualBranch]) -> Part:
        now = self._fleet.clock.now()
        ends = [now if branch.ended_at is None else branch.ended_at for branch in branches]
        return Part(
            branches[0].backend.pricing.at(self._fleet.received_at),
            attributed_gpu_s=sum(branch.gpu_seconds for branch in branches),
            wall_s=max(ends) - min(branch.started_at for branch in branches),
            tokens=sum(branch.completion_tokens for branch in branches),
            prompt_tokens=sum(branch.prompt_tokens for branch in branches),
        )
