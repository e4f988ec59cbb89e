"""Looking at running branches together: one look at all that have come further costs one wait, not one each."""

from __future__ import annotations

from collections.abc import Sequence

from strategies.base import Progress


class Rounds:
    """Gathers the progress of `places` branches. A round is due once every running branch has come further, or one for
    the second time: a branch that failed or stalls holds nobody up.

    A branch of which the last `patience` rounds heard nothing is lost: it no longer counts.
    """

    def __init__(self, places: int, patience: int) -> None:
        self._patience = patience
        self._running = set(range(places))
        self._gathered: dict[int, Progress] = {}
        self._heard = dict.fromkeys(range(places), 0)
        self._rounds = 0

    def over(self, place: int) -> None:
        """The branch has finished or was dropped."""
        self._running.discard(place)
        self._gathered.pop(place, None)

    def gather(self, progress: Progress) -> Sequence[Progress]:
        """The round that is due with this progress, by place; empty while it is not."""
        again = progress.place in self._gathered
        self._gathered[progress.place] = progress
        if not again and not self.running <= self._gathered.keys():
            return ()
        self._rounds += 1
        gathered = [self._gathered[place] for place in sorted(self._gathered)]
        self._gathered = {}
        for one in gathered:
            self._heard[one.place] = self._rounds
        return gathered

    @property
    def running(self) -> set[int]:
        """Places of those that run and are not lost."""
        return {place for place in self._running if self._rounds - self._heard[place] <= self._patience}
