"""One plan being executed, whatever its branches run on: what its strategy may ask of it, and what it has come to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from proxy.backend import Backend
from proxy.metered_branch import FINISHED, MeteredBranch

B = TypeVar("B", bound=MeteredBranch)


class PlanRun(Generic[B]):
    """The part of a `strategies.Context` that starts nothing. `decide_by`: time of the clock `now` at which arrivals
    end; None: no deadline. `answers_wanted`: a strategy that has decided is not over before as many branches have
    finished. `called_off`: the proxy ends."""

    called_off = False
    cut_by_deadline = False
    _time_is_up = False

    def __init__(
        self,
        backend: Backend,
        now: Callable[[], float],
        *,
        decide_by: float | None,
        question: Callable[[], str],
        max_tokens: int | None,
        room: int | None,
        answers_wanted: int,
    ) -> None:
        self.backend = backend
        self.branches: list[B] = []
        self._now, self._decide_by = now, decide_by
        self._question, self._max_tokens, self._room = question, max_tokens, room
        self._answers_wanted = answers_wanted

    @property
    def question(self) -> str:
        return self._question()

    @property
    def max_tokens(self) -> int | None:
        return self._max_tokens

    @property
    def room(self) -> int | None:
        return self._room

    @property
    def out_of_time(self) -> bool:
        """A strategy that is told so stops with less than it would have done: the deadline has cut it."""
        if self._decide_by is None:
            return self.called_off
        # A loop may call a little before the time, by as much as its clock is coarse.
        if self._time_is_up or self._now() >= self._decide_by:
            self.cut_by_deadline = True
            return True
        return False

    @property
    def finished(self) -> list[B]:
        return [branch for branch in self.branches if branch.state in FINISHED]

    @property
    def failed(self) -> list[B]:
        return [branch for branch in self.branches if branch.state == "failed"]

    @property
    def wants_more(self) -> bool:
        """Fewer whole answers are there than the client wants."""
        if self._answers_wanted == 1:
            return False
        return sum(branch.generation.final for branch in self.finished) < self._answers_wanted
