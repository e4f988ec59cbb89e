"""One branch in a simulated engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from profiler.simulation.drafts import Accepted
from profiler.simulation.kv_memory import Prompt

if TYPE_CHECKING:
    from profiler.simulation.engine import Engine

State = Literal["arriving", "waiting", "prefilling", "decoding", "ending", "ended", "cancelled"]
Listener = Callable[[int, bool], None]


class Generation:
    """Of `output` tokens in all. The listener is called with the tokens so far and whether they are all: with the first
    one, then whenever `every` more are there (0: never), and at the end."""

    __slots__ = (
        "_accepted",
        "_engine",
        "base",
        "every",
        "listener",
        "output",
        "place",
        "preempted",
        "prefilled",
        "prompt",
        "state",
        "steps_done",
        "to_prefill",
        "told",
    )

    def __init__(
        self, engine: Engine, prompt: Prompt, output: int, every: int, listener: Listener, accepted: Accepted | None
    ) -> None:
        self._engine = engine
        self._accepted = accepted
        self.prompt, self.output, self.every, self.listener = prompt, output, every, listener
        self.state: State = "arriving"
        self.told = 0
        self.steps_done = -1  # that gave tokens, when it last ran, from 0 for the prefill
        self.base = 0  # while decoding: the engine's step that was its prefill
        self.prefilled, self.to_prefill = 0, 0
        self.place = (0, 0)  # in the queue, the next one's is the greatest: by priority, then by arrival
        self.preempted = 0

    def tokens_after(self, steps: int) -> int:
        """After the prefill and so many further steps; none for -1."""
        if steps < 0:
            return 0
        return min(self.output, steps + 1 if self._accepted is None else self._accepted.tokens_after(steps))

    def step_of(self, tokens: int) -> int:
        """The step that makes it at least so many tokens."""
        return tokens - 1 if self._accepted is None else self._accepted.step_of(tokens)

    def next_telling(self) -> int:
        """Tokens at which the listener is told next."""
        return min(self.told + self.every, self.output) if self.every else self.output

    @property
    def tokens(self) -> int:
        """Generated so far, whatever the listener was told."""
        return self._engine.tokens_of(self)

    def end(self) -> None:
        """By the engine, once the client may know."""
        if self.state == "ending":
            self.state = "ended"
            self.listener(self.output, True)

    def cancel(self) -> None:
        """Abort it; the listener hears nothing more. Its place is free once the step that runs has ended."""
        self._engine.abort(self)
