"""Tokens that an engine generates for a branch after its connection was closed, until it notices. Nobody is told of
them; how many they are on average is learnt from the engine's own counter: what it counts beyond what was told or
estimated, over the branches that were cut meanwhile.
"""

from __future__ import annotations

from collections import deque

MOST = 64  # tokens a cut branch, and untold ones of a running one: more are somebody else's
FORGET = 0.995  # with every cut branch: the last two hundred count
DOUBT = 10  # cut branches without any, that are assumed to have been seen before
UNREAD = 4096  # booked calls that wait for a look: an engine without metrics has none
PATIENCE = 60  # looks at an idle engine: a call that was not booked by then never will be (its trace was dropped)


class Overrun:
    """Of one backend. `per_cut`: tokens of a branch that was cut while it generated. `told`: tokens of all branches, as
    they arrive. Calls that tell their tokens when they have ended are told to `began` and `booked`, which may be called
    from any thread; while one of them runs, nothing is learnt."""

    def __init__(self) -> None:
        self.per_cut = 0.0
        self.told = 0
        self._cuts = 0
        self._carry = 0.0
        self._unbooked = self._waited = 0
        self._booked: deque[tuple[int, bool]] = deque(maxlen=UNREAD)
        self._excess = self._weight = 0.0
        self._before: tuple[float, int, int] | None = None  # (excess, cuts, running) at the last look that counts

    def began(self) -> None:
        self._unbooked += 1

    def booked(self, tokens: int, *, cut: bool) -> int:
        """As `cut`, of a call that told its `tokens` only now."""
        self._booked.append((tokens, cut))
        return self._after_a_cut() if cut else 0

    def cut(self) -> int:
        """A branch was, while it generated. How many tokens it has generated since, in whole ones whose mean is
        `per_cut`."""
        self._cuts += 1
        return self._after_a_cut()

    def look(self, generated: float, running: int, *, others: bool) -> None:
        """The engine's counter, just read. `running`: branches of ours; `others`: it ran something that is not ours."""
        while self._booked:
            tokens, cut = self._booked.popleft()
            self._unbooked = max(0, self._unbooked - 1)
            self.told += tokens
            self._cuts += cut
        if self._is_unbooked(running):
            return
        now = generated - self.told, self._cuts, running
        before, self._before = self._before, None if others else now
        if before is not None and not others:
            self._learn(now[0] - before[0], now[1] - before[1], running + before[2])

    def _is_unbooked(self, running: int) -> bool:
        """Some call's tokens are not known yet."""
        self._waited = self._waited + 1 if self._unbooked and not running else 0
        if self._waited > PATIENCE:
            self._unbooked, self._before = 0, None
        return self._unbooked > 0

    def _learn(self, excess: float, cuts: int, running: int) -> None:
        """What running branches have not told yet comes and goes in `excess`, and cancels over several looks."""
        if abs(excess) > MOST * (cuts + running):  # another client's, or the engine was started anew
            return
        kept = FORGET**cuts
        self._excess = kept * self._excess + excess
        self._weight = kept * self._weight + cuts
        self.per_cut = max(0.0, self._excess / (self._weight + DOUBT))

    def _after_a_cut(self) -> int:
        self._carry += self.per_cut
        whole = int(self._carry)
        self._carry -= whole
        return whole
