"""How every step-wise search runs, whatever it keeps after a wave, and how it chooses among what it found."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, TypeVar

from strategies.base import Answer, Branch, Context, Need, NoScore, Outcome, Shape, Strategy
from strategies.fallback import settle
from strategies.search import Path, SearchParams, advance, scored
from strategies.stopping import All
from strategies.voting import Vote

TYPICAL_STEPS = 16
"""What prediction takes for the number of waves: that of a typical answer's steps. Measuring tells it better."""

Grow = Callable[[Sequence[Path], Sequence[Path]], list[Path]]
"""From the paths after a wave, all scored, and every path finished so far: those to go on with, repeated as often as
they shall be continued. Finished ones may be among them; without an unfinished one the search is over."""

P = TypeVar("P", bound=SearchParams)


class StepSearch(Strategy[P]):
    """Waves of steps, each scored, until no path is left to go on with or the deadline has come."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.PROCESS_REWARD, Need.CONTINUATION, Need.SAMPLING})

    def shape(self) -> Shape:
        waves = min(TYPICAL_STEPS, self.params.max_steps)
        return Shape(branches=self.params.n, stop=All(), waves=waves, votes=False)

    def roots(self) -> list[Path]:
        """What the first wave continues."""
        return [Path()] * self.params.n

    @abstractmethod
    def growth(self) -> Grow:
        """A new one for every run: it may have a state."""

    async def run(self, context: Context) -> Outcome:
        grow, found = self.growth(), _Found(self.roots())
        while found.unfinished and not context.out_of_time:
            found.add(await advance(context, found.paths, self.params))
            try:
                found.judge(await scored(context, found.paths, self.params))
            except NoScore as error:
                if not context.out_of_time:
                    return await self._without_scores(context, found, error)
                break
            if found.unfinished and not context.out_of_time:
                found.paths = grow(found.paths, found.finished)
        if found.finished:
            return replace(await _chosen(context, found.finished, self.params), note=_stuck(found.finished))
        return found.best_so_far() if context.out_of_time else Outcome(())

    async def _without_scores(self, context: Context, found: _Found, error: NoScore) -> Outcome:
        """Every path that still lives is written to its end, and each answer has one vote."""
        if found.unfinished:
            found.add(await advance(context, found.paths, self.params, to_the_end=True))
        note = f"the process reward failed ({error}): the paths went on without it, each with one vote"
        if found.finished:
            return await _voted(context, found.finished, note=note, weighted=False)
        return found.best_so_far() if context.out_of_time else Outcome((), note=note)


@dataclass(slots=True)
class _Found:
    """`paths`: those of the last wave, or to go on with; `before`: what they continued; `finished`: all so far."""

    paths: list[Path]
    before: list[Path] = field(default_factory=list)
    _finished: dict[int, Path] = field(default_factory=dict)  # by the index of the last branch

    @property
    def unfinished(self) -> bool:
        return any(not path.finished for path in self.paths)

    @property
    def finished(self) -> list[Path]:
        return list(self._finished.values())

    def add(self, paths: list[Path]) -> None:
        self.before = self.paths
        self.judge(paths)

    def judge(self, paths: list[Path]) -> None:
        self.paths = paths
        self._finished.update({_last(path).index: path for path in paths if path.finished})

    def best_so_far(self) -> Outcome:
        """At a deadline without a finished path: the best-scored text whose last step is whole, the longer first."""
        paths = [path for path in (*self.paths, *self.before) if path.branch is not None]
        order = sorted(paths, key=lambda path: (-path.reward, -path.tokens, _last(path).index))
        ranking = tuple(dict.fromkeys(_last(path).index for path in order))
        note = "the deadline came before any path had finished: the best one so far answers" if ranking else None
        return Outcome(ranking, note=note)


def _stuck(paths: Sequence[Path]) -> str | None:
    """A search that could make no steps is none, and says so."""
    stuck = sum(path.stuck for path in paths)
    if not stuck:
        return None
    return (
        f"{stuck} of {len(paths)} finished paths came to empty steps only and were written to their end "
        "without search: does the chat template trim the text that it goes on from?"
    )


def _last(path: Path) -> Branch:
    assert path.branch is not None, "a path before its first step has no branch"
    return path.branch


async def _chosen(context: Context, paths: Sequence[Path], params: SearchParams) -> Outcome:
    if params.pick == "weighted-vote":
        outcome = await _voted(context, paths, note=None, weighted=True)
        if outcome.votes:
            return outcome
    return await _best(context, paths)


async def _voted(context: Context, paths: Sequence[Path], *, note: str | None, weighted: bool) -> Outcome:
    """Best first, so that without any vote the best one answers. A class is answered by its shortest path."""
    vote = Vote()
    for path in _by_reward(paths):
        branch = _last(path)
        answer = await context.answer(branch)
        weight = max(path.reward, 0.0) if weighted else None
        vote.add(replace(branch, tokens=path.tokens), answer, weight)
    return vote.outcome(note) if weighted else await settle(context, vote, len(paths), note)


async def _best(context: Context, paths: Sequence[Path]) -> Outcome:
    """The best reward; of each further answer its best path, then the rest."""
    firsts: list[int] = []
    rest: list[int] = []
    seen: set[int] = set()
    best: Answer | None = None
    for path in _by_reward(paths):
        answer = await context.answer(_last(path))
        best = answer if not firsts else best
        new = answer is None or answer.group not in seen
        (firsts if new else rest).append(_last(path).index)
        if answer is not None:
            seen.add(answer.group)
    return Outcome((*firsts, *rest), answer=best.text if best is not None else None)


def _by_reward(paths: Sequence[Path]) -> list[Path]:
    """Those that were cut off come last, whatever the reward of their steps; ties to the shorter."""
    return sorted(paths, key=lambda p: (_last(p).finish_reason == "length", -p.reward, p.tokens, _last(p).index))
