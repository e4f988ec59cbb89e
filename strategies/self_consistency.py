"""`self-consistency` (arXiv 2203.11171): sample n answers, answer with the most frequent one.

All branches start at once, so that the backend's prefix cache serves them and the wall time is that of one wave; the
vote is tested at every arrival and the rest is cancelled as soon as the stop rule holds. In windows the later branches
of a vote that is settled early are never started: fewer tokens for more time.
"""

from __future__ import annotations

from math import ceil
from typing import ClassVar, Literal

from pydantic import Field

from strategies.base import GREEDY, MAX_BRANCHES, WHOLE, Context, Need, Outcome, Shape, StopRule, Strategy
from strategies.base import Params as BaseParams
from strategies.fallback import decide
from strategies.stopping import All, BetaLead, WindowAgrees
from strategies.voting import Vote

ESC_WINDOW = 5


class Params(BaseParams):
    """`stop`: `beta` stops at a lead of this `confidence` (Adaptive-Consistency, arXiv 2305.11860); `all` waits for
    every branch; `esc` (Early-stopping Self-Consistency, arXiv 2401.10480) stops once all of a window agree. `window`:
    so many start at a time; without it all do, and 5 with `esc`. `greedy`: the first sample is at temperature 0, which
    is right more often than the others and counts as one of them."""

    n: int = Field(8, ge=1, le=MAX_BRANCHES)
    stop: Literal["beta", "all", "esc"] = "beta"
    confidence: float = Field(0.95, gt=0.5, lt=1.0)
    window: int | None = Field(None, ge=2, le=MAX_BRANCHES)
    greedy: bool = False


class SelfConsistency(Strategy[Params]):
    """Majority vote over n samples."""

    name = "self-consistency"
    params_type = Params
    needs: ClassVar[frozenset[Need]] = frozenset({Need.ANSWERS, Need.SAMPLING})

    @classmethod
    def grid(cls) -> list[BaseParams]:
        at_once: list[BaseParams] = [Params(n=n) for n in (2, 3, 4, 5, 6, 8, 10, 12, 16)]
        with_greedy = [Params(n=n, greedy=True) for n in (3, 4, 5, 6, 8)]  # of more samples it is one among many
        in_windows = [
            Params(n=8, window=3, confidence=0.8, greedy=True),
            *(Params(n=n, window=2, confidence=0.8) for n in (6, 8, 12)),
            Params(n=12, window=3, confidence=0.8, greedy=True),
            Params(n=12, window=3, confidence=0.9),
            Params(n=16, window=2, confidence=0.85),
            Params(n=24, window=3, confidence=0.9),
            Params(n=16, stop="esc", window=4),
        ]
        return [*at_once, *with_greedy, *in_windows]

    def required(self) -> frozenset[Need]:
        return self.needs | {Need.FREE_SAMPLING} if self.params.greedy else self.needs

    def shape(self) -> Shape:
        n, window = self.params.n, self._window
        if n <= window:
            return Shape(branches=n, stop=self._rule(), greedy=self.params.greedy)
        waves = ceil(n / window)
        return Shape(branches=n, stop=self._rule(), window=window, waves=waves, greedy=self.params.greedy)

    async def run(self, context: Context) -> Outcome:
        rule, total, vote = self._rule(), self.params.n, Vote()
        started, settled = 0, False
        while started < total and not settled and not (started and context.out_of_time):
            size = min(self._window, total - started)
            first = [GREEDY] if self.params.greedy and not started else []
            groups = set[int | None]()
            async with context.sample([*first, *[WHOLE] * (size - len(first))]) as arrivals:
                async for branch in arrivals:
                    answer = await context.answer(branch)
                    groups.add(answer.group if answer is not None else None)
                    vote.add(branch, answer)
                    if settled := rule.decided(vote.counts, vote.arrived, total):
                        break
            started += size
            if isinstance(rule, WindowAgrees):
                settled = size == self._window and len(groups) == 1 and None not in groups
        return await decide(context, vote, total)

    @property
    def _window(self) -> int:
        if self.params.window is not None:
            return self.params.window
        return ESC_WINDOW if self.params.stop == "esc" else self.params.n

    def _rule(self) -> StopRule:
        if self.params.stop == "esc" and self.params.n > self._window:
            return WindowAgrees()
        return BetaLead(self.params.confidence) if self.params.stop == "beta" else All()
