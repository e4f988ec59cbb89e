"""Tokens that an engine generates for a branch after its connection was closed, until it notices. Nobody is told of
them; how many they are on average is learnt from the engine's own counter: what it counts beyond what was told, over
the branches that were cut meanwhile.
"""

from __future__ import annotations

import threading
from collections import deque

MOST = 64  # tokens a cut branch, and untold ones of a running one: more are somebody else's
FORGET = 0.995  # with every cut branch: the last two hundred count
FADE = 0.999  # with every look without one
DOUBT = 10  # cut branches without any, that are assumed to have been seen before
PATIENCE = 1200  # looks, some ten minutes: a call that was not booked by then never will be (its trace was dropped)
UNREAD = 4096  # calls that wait for a look: an engine without metrics has none


class Overrun:
    """Of one backend. `per_cut`: tokens of a branch that was cut while it generated. `told`: tokens of all branches, as
    they arrive. Calls that tell their tokens when they have ended are told to `began` and `booked`, the latter from any
    thread; while one of them runs, nothing is learnt."""

    def __init__(self) -> None:
        self.per_cut = 0.0
        self.told = 0
        self._cuts = 0
        self._carry = 0.0
        self._lock = threading.Lock()
        self._looks = 0
        self._unbooked: deque[int] = deque(maxlen=UNREAD)  # the looks after which they began
        self._booked: deque[tuple[int, int, bool]] = deque(maxlen=UNREAD)
        self._excess = self._weight = 0.0
        self._before: tuple[float, int, int] | None = None  # (excess, cuts, running) at the last look that counts
        self._cuts_before = 0  # in the window before: some of theirs fall into this one

    def began(self) -> None:
        self._unbooked.append(self._looks)

    def booked(self, tokens: int, *, cuts: int = 0, exact: bool = True) -> int:
        """As `cut`, of a call that told its `tokens` only now. `cuts`: of its branches; `exact` false: an estimate,
        from which nothing can be learnt."""
        self._booked.append((tokens, cuts, exact))
        return sum(self._after_a_cut() for _ in range(cuts))

    def cut(self) -> int:
        """A branch was, while it generated. How many tokens it has generated since, in whole ones whose mean is
        `per_cut`."""
        self._cuts += 1
        return self._after_a_cut()

    def look(self, generated: float, running: int, *, others: bool) -> None:
        """The engine's counter, just read. `running`: branches of ours; `others`: it ran something that is not ours."""
        self._looks += 1
        exact = self._read_booked()
        while self._unbooked and self._unbooked[0] < self._looks - PATIENCE:
            self._unbooked.popleft()
        if others or not exact:
            self._before = None
        if others or self._unbooked:
            return
        before, self._before = self._before, (generated - self.told, self._cuts, running)
        if before is not None:
            self._learn(self._before[0] - before[0], self._cuts - before[1], running + before[2])

    def _read_booked(self) -> bool:
        """Whether all that was booked since the last look was counted, none of it estimated."""
        all_exact = True
        while self._booked:
            tokens, cuts, exact = self._booked.popleft()
            if self._unbooked:
                self._unbooked.pop()  # the newest: one that is never booked grows old, whatever comes and goes
            self.told += tokens
            self._cuts += cuts
            all_exact &= exact
        return all_exact

    def _learn(self, excess: float, cuts: int, running: int) -> None:
        """What running branches have not told yet comes and goes in `excess`, and cancels over several looks."""
        recent, self._cuts_before = cuts + self._cuts_before, cuts
        if abs(excess) > MOST * (recent + running):  # another client's, or the engine was started anew
            return
        kept = FORGET**cuts if cuts else FADE
        self._weight = kept * self._weight + cuts
        most = MOST * (self._weight + DOUBT)
        self._excess = min(max(kept * self._excess + excess, -most), most)
        self.per_cut = max(0.0, self._excess / (self._weight + DOUBT))

    def _after_a_cut(self) -> int:
        with self._lock:
            self._carry += self.per_cut
            whole = int(self._carry)
            self._carry -= whole
        return whole
