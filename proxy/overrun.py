"""Tokens that an engine generates for a branch after its connection was closed, until it notices. Nobody is told of
them; how many they are on average is learnt from the engine's own counter, whenever neither side has anything running.
"""

from __future__ import annotations

from collections import deque

MOST = 64  # tokens a cut branch: more are somebody else's, between two looks
PATIENCE = 60  # quiet looks: a branch that was not booked by then never will be (its trace was dropped)
FORGET = 0.98  # with every cut branch: the last fifty count


class Overrun:
    """Of one backend. Every branch is told when it begins and when it has ended. `per_cut`: tokens of a branch that was
    cut while it generated; 0 until something is known. `ended` may be called from any thread."""

    def __init__(self) -> None:
        self.per_cut = 0.0
        self.begun = 0
        self._ended = 0
        self._told: deque[tuple[int, bool]] = deque()
        self._carry = 0.0
        self._alone = False  # since the last quiet moment nobody else was seen
        self._generated = 0.0
        self._tokens = self._cuts = self._waited = 0
        self._excess = self._weight = 0.0

    def began(self) -> None:
        self.begun += 1

    def ended(self, tokens: int, *, cut: bool) -> int:
        """`tokens`: that it told, or is believed to have generated until then; `cut`: while it generated. How many it
        has generated since, in whole tokens whose mean is `per_cut`."""
        self._told.append((tokens, cut))
        if not cut:
            return 0
        self._carry += self.per_cut
        whole = int(self._carry)
        self._carry -= whole
        return whole

    def look(self, generated: float, *, quiet: bool, others: bool) -> None:
        """The engine's counter, just read. `quiet`: nothing of ours began or ran meanwhile, and the engine had nothing
        to do; `others`: it ran something that is not ours."""
        self._alone = self._alone and not others
        while self._told:
            tokens, cut = self._told.popleft()
            self._ended += 1
            self._tokens += tokens
            self._cuts += cut
        if not quiet:
            return
        if self._ended != self.begun:
            self._waited += 1
            if self._waited <= PATIENCE:
                return
            self._ended, self._alone = self.begun, False
        self._waited = 0
        if self._alone and self._cuts and generated >= self._generated:  # else it was started anew
            self._learn(generated - self._generated - self._tokens)
        self._alone, self._generated = True, generated
        self._tokens = self._cuts = 0

    def _learn(self, excess: float) -> None:
        if abs(excess) > MOST * self._cuts:
            return
        kept = FORGET**self._cuts
        self._excess = kept * self._excess + excess
        self._weight = kept * self._weight + self._cuts
        self.per_cut = max(0.0, self._excess / self._weight)
