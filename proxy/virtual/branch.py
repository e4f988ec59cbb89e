"""One branch on a simulated engine, metered as `proxy.branch.BranchStream` is: tokens, time, its share of the GPU and
its place in the line. Its text is read when somebody wants it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from profiler.simulation.asked import Asked
from profiler.simulation.completion import Choice
from profiler.simulation.engine import QueueFull
from profiler.simulation.logprobs import chat_logprobs
from profiler.simulation.simulated_backend import SimulatedBackend
from proxy.backend import Backend
from proxy.confidence import of_chat
from proxy.metered_branch import BranchState, MeteredBranch


class VirtualBranch(MeteredBranch):
    """Times are the virtual clock's. `error`: why it failed, with the status that an engine answers; `place`: among the
    generations of its wave; `choices`: one, but of an attempt."""

    error: tuple[int, str] | None = None
    place = 0
    _every = 0
    _told_tokens = 0
    _on_progress: Callable[[VirtualBranch], None] | None = None

    def __init__(
        self,
        index: int,
        backend: Backend,
        engine: SimulatedBackend,
        asked: Asked,
        choices: Sequence[Choice],
        on_over: Callable[[VirtualBranch], None],
        due_s: float | None,
    ) -> None:
        super().__init__(index, backend, engine.clock.now(), due_s, len(choices))
        self.prompt_tokens = asked.questions[0].told
        self._engine, self._top_logprobs, self._choice, self._on_over = engine, asked.top_logprobs, choices[0], on_over
        self._choices = choices

    def tell_progress(self, every_tokens: int, on_progress: Callable[[VirtualBranch], None]) -> None:
        self._every, self._on_progress = every_tokens, on_progress

    def start(self, interval: int, priority: int) -> None:
        """`interval`: tokens from one look at it to the next; 0: only its first and its last are looked at."""
        choice = self._choice
        try:
            submit = self._engine.engine.submit
            choice.generation = submit(choice.prompt, choice.tokens, interval, self._told, priority)
        except QueueFull:
            self.error = 503, "the engine's queue is full"
            self._over("failed")

    def cancel(self) -> None:
        """It keeps and pays for what it had."""
        if self.state != "running":
            return
        running = self._choice.generation
        if running is not None:
            if running.tokens > self.completion_tokens:
                self.completion_tokens, self._last_token_at = running.tokens, self._engine.clock.now()
            running.cancel()
        self._over("cancelled")

    @property
    def finish_reason(self) -> str | None:
        return self._choice.finish_reason if self.state in ("completed", "truncated") else None

    @property
    def text(self) -> str:
        """As far as it has come, after what it was given to go on from."""
        return self.generation.continues + self._choice.between(0, self.completion_tokens)

    @property
    def confidence(self) -> list[float]:
        """Per token, where it was asked for."""
        if not self.generation.confidence or self._top_logprobs is None:
            return []
        pieces = self._choice.text.pieces(0, self.completion_tokens)
        return of_chat({"content": chat_logprobs(pieces, 0, self._choice.seed, self._top_logprobs)})

    # -- as the engine tells --

    def _told(self, tokens: int, last: bool) -> None:
        now = self._engine.clock.now()
        self.completion_tokens, self._last_token_at = tokens, now
        if self.first_token_at is None:
            self._begins(now)
        if last:
            self._over("truncated" if self._choice.finish_reason == "length" else "completed")
        elif self._on_progress is not None and tokens - self._told_tokens >= self._every:
            self._told_tokens = tokens
            self._on_progress(self)

    def _over(self, state: BranchState) -> None:
        self._leave(state, self._engine.clock.now(), len(self._choices))
        self._on_progress = None
        for choice in self._choices:
            choice.generation = None
        self._on_over(self)


class VirtualAttempt(VirtualBranch):
    """A relayed request, whose choices (`n`) the engine runs as so many branches: over once all of them are."""

    def start(self, interval: int, priority: int) -> None:
        self._left, self._tokens = len(self._choices), [0] * len(self._choices)
        try:
            for number, choice in enumerate(self._choices):
                told = partial(self._choice_told, number)
                choice.generation = self._engine.engine.submit(choice.prompt, choice.tokens, interval, told, priority)
        except QueueFull:
            self.error = 503, "the engine's queue is full"
            self._cancel_generations()
            self._over("failed")

    def cancel(self) -> None:
        if self.state == "running":
            running = [choice.generation.tokens if choice.generation is not None else 0 for choice in self._choices]
            self.completion_tokens = sum(map(max, running, self._tokens))
            self._cancel_generations()
            self._over("cancelled")

    @property
    def text(self) -> str:
        """The first choice's."""
        return self._choice.between(0, self._tokens[0])

    def _cancel_generations(self) -> None:
        for choice in self._choices:
            if choice.generation is not None:
                choice.generation.cancel()

    def _choice_told(self, number: int, tokens: int, last: bool) -> None:
        self._tokens[number] = tokens
        self._left -= last
        self._told(sum(self._tokens), not self._left)
