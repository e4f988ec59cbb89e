"""`deep-confidence`, DeepConf online (arXiv 2508.15260): traces that become unsure are dropped while they run, and the
others vote by how sure they were.

A token's confidence is minus the mean of its top log probabilities, a group's the mean over a sliding window, a trace's
its lowest group. The first `warmup` traces to finish set the threshold, such that the best `keep` percent of them pass;
from then on a trace with a full window below it is dropped, and traces below it have no vote. It stops once the leader
has `consensus` of the weight.

The paper runs the warm-up traces first and the others after them (`start: waves`): the fewest tokens, twice the time.
`together` starts all at once, and the threshold comes into force when the first `warmup` have finished: the time of one
wave. Its warm-up traces are the shortest ones, which are the surer ones as a rule, so the threshold is a little
higher.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from pydantic import Field

from strategies.base import (
    MAX_BRANCHES,
    Answer,
    Arrivals,
    Branch,
    Context,
    Generation,
    Need,
    Outcome,
    Progress,
    Shape,
    Strategy,
)
from strategies.base import Params as BaseParams
from strategies.classes import count
from strategies.fallback import settle
from strategies.group_confidence import GroupConfidence, percentile
from strategies.stopping import All
from strategies.voting import Vote

LEAST_STEP = 8
LEAST_VOTES = 2  # one trace is no consensus
TRACE = Generation(confidence=True)
UNKNOWN = "the engine told no log probabilities: a plain vote"


class Params(BaseParams):
    """`keep`: percent of the warm-up traces that pass (the paper's η: 90 is careful, 10 saves most). `warmup`: at most
    half of `n`. `window`: tokens per group. `weight`: of a vote, the trace's lowest group or its mean."""

    n: int = Field(16, ge=1, le=MAX_BRANCHES)
    warmup: int = Field(16, ge=1, le=MAX_BRANCHES)
    keep: float = Field(90.0, gt=0, lt=100)
    window: int = Field(2048, ge=1, le=1 << 20)
    consensus: float = Field(0.95, gt=0.5, le=1.0)
    weight: Literal["lowest", "mean"] = "lowest"
    start: Literal["together", "waves"] = "together"


class DeepConfidence(Strategy[Params]):
    """Confidence-weighted vote over the traces that stayed sure."""

    name = "deep-confidence"
    params_type = Params
    needs: ClassVar[frozenset[Need]] = frozenset({Need.LOGPROBS, Need.ANSWERS, Need.SAMPLING})

    @classmethod
    def grid(cls) -> list[BaseParams]:
        return [Params(n=n, keep=keep) for n in (8, 16, 32) for keep in (10, 90)]

    def shape(self) -> Shape:
        waves = 2 if self.params.start == "waves" and self.params.n > 1 else 1
        return Shape(branches=self.params.n, stop=All(), waves=waves, votes=False)

    async def run(self, context: Context) -> Outcome:
        params, traces = self.params, _Traces(self.params)
        first = params.n if params.start == "together" else traces.warmup
        await self._wave(context, traces, first)
        if first < params.n and not context.out_of_time:
            traces.set_threshold()  # some may have failed
            if not traces.agree():
                await self._wave(context, traces, params.n - first)
        return await traces.outcome(context)

    async def _wave(self, context: Context, traces: _Traces, branches: int) -> None:
        every = max(LEAST_STEP, self.params.window // 4)
        async with context.watch([TRACE] * branches, every) as arrivals:
            async for event in arrivals:
                if isinstance(event, Progress):
                    traces.progress(event, arrivals)
                    continue
                traces.arrive(event, await context.answer(event))
                if traces.may_set_threshold:
                    traces.set_threshold()
                    traces.drop_unsure(arrivals)
                if traces.agree():
                    break


@dataclass(slots=True)
class _Trace:
    branch: Branch
    answer: Answer | None
    confidence: GroupConfidence


@dataclass(slots=True)
class _Traces:
    """All that is known of the traces. `threshold`: None until the warm-up is over."""

    params: Params
    threshold: float | None = None
    finished: list[_Trace] = field(default_factory=list)
    running: dict[int, GroupConfidence] = field(default_factory=dict)

    @property
    def warmup(self) -> int:
        return min(self.params.warmup, max(1, self.params.n // 2))

    @property
    def may_set_threshold(self) -> bool:
        return self.threshold is None and len(self.finished) >= self.warmup

    @property
    def _told(self) -> bool:
        return all(trace.confidence.known for trace in self.finished)

    def progress(self, progress: Progress, arrivals: Arrivals[Branch | Progress]) -> None:
        self._read(progress)
        self.drop_unsure(arrivals)

    def arrive(self, branch: Branch, answer: Answer | None) -> None:
        self.finished.append(_Trace(branch, answer, self._read(branch)))
        self.running.pop(branch.index)

    def _read(self, event: Branch | Progress) -> GroupConfidence:
        confidence = self.running.setdefault(event.index, GroupConfidence(self.params.window))
        confidence.read(event.confidence)
        return confidence

    def set_threshold(self) -> None:
        """By the traces that have answered; none where none did, or where the engine tells no confidence."""
        lowest = [trace.confidence.lowest for trace in self.finished if trace.answer is not None]
        if lowest and self._told:
            self.threshold = percentile(lowest, 100 - self.params.keep)

    def drop_unsure(self, arrivals: Arrivals[Branch | Progress]) -> None:
        if self.threshold is None:
            return
        for index in [index for index, one in self.running.items() if one.fell_below(self.threshold)]:
            arrivals.drop(index)
            del self.running[index]

    def agree(self) -> bool:
        """Whether the leader has enough of the weight; never while the warm-up lasts."""
        if len(self.finished) < self.warmup and self.threshold is None:
            return False
        vote, _ = self._count()
        return sum(vote.counts) >= LEAST_VOTES and vote.leaders_share >= self.params.consensus

    def _count(self) -> tuple[Vote, list[_Trace]]:
        """The vote, and the traces that had none."""
        kept = [trace for trace in self.finished if self._sure(trace)]
        unsure = [trace for trace in self.finished if not self._sure(trace)]
        return count((trace.branch, trace.answer, self._weight(trace)) for trace in kept), unsure

    def _sure(self, trace: _Trace) -> bool:
        return self.threshold is None or not self._told or trace.confidence.lowest >= self.threshold

    def _weight(self, trace: _Trace) -> float | None:
        if not self._told:
            return None
        return trace.confidence.lowest if self.params.weight == "lowest" else trace.confidence.mean

    async def outcome(self, context: Context) -> Outcome:
        vote, unsure = self._count()
        if self._told and vote.counts:  # the weights tell them apart
            outcome = vote.outcome()
        else:
            outcome = await settle(context, vote, self.params.n, None if self._told else UNKNOWN)
        return replace(outcome, ranking=(*outcome.ranking, *(trace.branch.index for trace in unsure)))
