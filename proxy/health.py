"""Whether one backend gets requests: one state, moved by the prober, by what requests meet, and by its peers.

    closed ──(a look at /health fails · failures in a row · error rate · far off its peers)──▶ open
    open ──(/health is well, and the time is over)──▶ half-open ──(one request is answered)──▶ closed
                                                         └──(it fails)──▶ open, for twice as long
Where only /health failed, a /health that is well again is the trial: open ──▶ closed.

Nobody needs a timer: the prober looks every second, and moves what time has moved. `serving` is a plain attribute, as
every request reads it for every backend.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Literal

from proxy.reliability.settings import BreakerConfig
from proxy.reliability.window import Window

log = logging.getLogger("paretoproxy.health")

WINDOW_S = 10.0
TRIAL_S = 5.0  # a trial that is undecided for longer no longer keeps others from trying
State = Literal["closed", "open", "half-open"]
Cause = Literal["probe", "errors", "outlier"]
CAUSES: tuple[Cause, ...] = ("probe", "errors", "outlier")


class Health:
    """`serving`: it gets requests (closed, or half-open and nobody is trying it). It starts so: a backend is used until
    a probe or a request says otherwise. `late`: how many looks in a row had no answer in time. `opened`: how often, by
    cause. `rules` None: what requests meet does not open it.
    """

    __slots__ = (
        "_clock",
        "_closed_at",
        "_open_until",
        "_streak",
        "_trial_until",
        "answers",
        "cause",
        "checked",
        "epoch",
        "failures",
        "late",
        "name",
        "opened",
        "problem",
        "rules",
        "serving",
        "state",
    )

    def __init__(
        self, name: str = "", rules: BreakerConfig | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = name
        self.rules = rules
        self.serving = True
        self.problem: str | None = None
        self.checked = False
        self.late = 0
        self.state: State = "closed"
        self.cause: Cause | None = None
        self.epoch = 0  # of the state: what began in an earlier one says nothing of this one
        self.failures = 0  # in a row
        self.answers = Window(WINDOW_S)  # and those of them that were failures
        self.opened: dict[Cause, int] = dict.fromkeys(CAUSES, 0)
        self._clock = clock
        self._open_until = 0.0
        self._trial_until = 0.0
        self._streak = 0
        self._closed_at = clock()

    # -- requests --

    def begin(self) -> int:
        """Something is sent to it. Give the mark back with what became of it. Half-open, this is the trial."""
        if self.state == "half-open" and self.serving:
            self.serving = False
            self._trial_until = self._clock() + TRIAL_S
        return self.epoch

    def answered(self, mark: int, now: float) -> None:
        """A good answer, or one that the request itself is to blame for."""
        self.answers.add(now)
        if mark == self.epoch:
            self.failures = 0
            if self.state == "half-open":
                self._close()

    def alive(self, mark: int) -> None:
        """Its answer has begun: enough for a trial, not yet an answer to count."""
        if self.state == "half-open" and mark == self.epoch:
            self._close()

    def released(self, mark: int) -> None:
        """Ended by us before anything could be told: somebody else may try."""
        if self.state == "half-open" and mark == self.epoch:
            self.serving = True

    def failed(self, mark: int, now: float, problem: str, *, in_a_row: bool = True) -> None:
        """No answer, or one that tells of a broken backend. `in_a_row`: False for a failure that the request may have
        caused (a 500): such ones count in the error rate alone, so that a few bad requests do not take it out."""
        self.answers.add(now, of_kind=1)
        if mark != self.epoch or self.state == "open":
            return
        if self.state == "half-open":
            self._open("errors", f"its trial failed: {problem}", self._breaker_s())
            return
        if in_a_row:
            self.failures += 1
        rules, answers = self.rules, self.answers
        if rules is None:
            return
        if self.failures >= rules.consecutive_failures:
            self._open("errors", f"{self.failures} failures in a row, the last: {problem}", self._breaker_s())
        elif in_a_row and answers.total >= rules.min_requests and answers.of_kind >= rules.error_rate * answers.total:
            share = f"{answers.of_kind} of the last {answers.total} requests"
            self._open("errors", f"{share} failed, the last: {problem}", self._breaker_s())

    def status(self, mark: int, now: float, status: int, *, in_a_row: bool = True) -> None:
        """What an answer's status tells. 502, 503 and 504 are the backend's (or its own proxy's) word that it cannot; a
        500 may be about the request; everything below is an answer."""
        if status < 500:
            self.answered(mark, now)
        else:
            self.failed(mark, now, f"it answered {status}", in_a_row=in_a_row and status in (502, 503, 504))

    # -- peers --

    def eject(self, reason: str, base_s: float, most_s: float) -> None:
        """It is far off its peers: open for a growing time."""
        self._open("outlier", reason, self._growing(base_s, most_s))

    # -- the prober --

    def probed(self, problem: str | None) -> None:
        """What a look at /health gave; also moves on what time has moved."""
        self.checked = True
        now = self._clock()
        if problem is not None:
            if self.state != "open" or self.cause != "probe":
                self._open("probe", problem, max(0.0, self._open_until - now) if self.state == "open" else 0.0)
            self.problem = problem
            self.serving = False
        elif self.state == "open":
            if now >= self._open_until:
                if self.cause == "probe":
                    self._close()
                else:
                    self._half_open()
        elif self.state == "half-open":
            if now >= self._trial_until:
                self.serving = True
        else:
            self.serving, self.problem = True, None

    @property
    def retry_after_s(self) -> float:
        """How long it surely stays open; 0 where nobody knows, or it is not."""
        return max(0.0, self._open_until - self._clock()) if self.state == "open" else 0.0

    # -- inside --

    def _breaker_s(self) -> float:
        rules = self.rules
        return self._growing(rules.open_s, rules.max_open_s) if rules is not None else 0.0

    def _growing(self, base_s: float, most_s: float) -> float:
        """Twice as long as the last time, unless it was well for as long as it may be out."""
        if self.state == "closed" and self._clock() - self._closed_at > most_s:
            self._streak = 0
        seconds = min(most_s, base_s * 2.0 ** min(self._streak, 20))
        self._streak += 1
        return seconds

    def _open(self, cause: Cause, problem: str, seconds: float) -> None:
        if self.state == "closed":
            log.warning("backend %s does not serve: %s", self.name, problem)
        self._move("open", serving=False)
        self.cause, self.problem = cause, problem
        self.opened[cause] += 1
        self._open_until = self._clock() + seconds

    def _half_open(self) -> None:
        self._move("half-open", serving=True)
        self._trial_until = 0.0

    def _close(self) -> None:
        log.warning("backend %s serves again", self.name)
        self._move("closed", serving=True)
        self.cause = self.problem = None
        self._closed_at = self._clock()
        self.answers.clear()  # of another time

    def _move(self, state: State, *, serving: bool) -> None:
        self.state, self.serving = state, serving
        self.epoch += 1
        self.failures = 0
