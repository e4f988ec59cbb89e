"""One branch: a streamed generation on a backend, from the first byte sent to the last received, metered.

A `BranchStream` is the sink of an exchange: it splits the event stream, keeps the events (the winner's are replayed
to the client), reads off text, tokens and finish reason, and tells its owner once when it is over. No branch can
forget its tokens, time or GPU share: that is done here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from proxy.backend import Backend
from proxy.confidence import Confidence
from proxy.metered_branch import BranchState, MeteredBranch
from proxy.reliability.retrying import RETRIED_STATUS, Failure, failure_of, failure_of_status, tell
from proxy.sse import DONE, EventSplitter, EventTooLarge
from proxy.unseen_tokens import since_last_chunk
from proxy.upstream.connection import Exchange, Headers
from proxy.upstream.errors import BadResponse, UpstreamError
from strategies.answers import CLOSE, OPEN

MAX_ERROR_BODY = 256 * 1024
MAX_BRANCH_BYTES = 256 * 1024 * 1024  # of its stream, which is kept until the request ends


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: _PromptDetails | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: msgspec.Raw = msgspec.Raw()


_decode = msgspec.json.Decoder(_Chunk).decode


class StreamFault(UpstreamError):
    """The stream ended early, told an error, or was not what a completion stream is."""


class BranchStream(MeteredBranch):
    """State of one branch; times are in the clock's seconds. `events`: the payloads, in order, without [DONE]."""

    finish_reason: str | None = None
    prompt_tokens = 0
    cached_tokens: int | None = None
    unseen_tokens = 0  # estimated: generated after the last chunk of a branch that did not end by itself
    error: UpstreamError | None = None
    refusal: tuple[int, bytes] | None = None
    refused_for_s: float | None = None  # its Retry-After
    attempt: Literal["retry", "replacement"] | None = None
    blamed: set[str] | None = None  # the backends that branches of the same run have failed on
    score: float | None = None
    answer: str | None = None
    exchange: Exchange | None = None
    reasons_apart = False  # the engine tells reasoning from content
    interval = 1  # tokens from chunk to chunk
    wave = 0  # which of the request's fan-outs it belongs to
    confidence: Confidence | None = None
    _told_tokens = 0
    _thinking_tokens = 0  # when the last thinking that has ended did
    _every_tokens = 0
    _on_progress: Callable[[BranchStream], None] | None = None
    _status = 0
    _received = 0
    _body = b""
    _done_seen = False
    _reasoning: list[str] | None = None
    _done = False

    def __init__(
        self,
        index: int,
        backend: Backend,
        clock: Callable[[], float],
        on_over: Callable[[BranchStream], None],
        on_event: Callable[[bytes], None] | None = None,
        due_s: float | None = None,
    ) -> None:
        super().__init__(index, backend, clock(), due_s)
        self.events: list[bytes] = []
        self._clock = clock
        self._on_over: Callable[[BranchStream], None] | None = on_over
        self._on_event = on_event
        self._splitter = EventSplitter()
        self._content: list[str] = []
        self._health_mark = backend.health.begin()

    @property
    def text(self) -> str:
        """As the model wrote it, after what it was given to go on from: reasoning that the engine told apart stands in
        its tags again, so that one rule strips all thinking."""
        content = "".join(self._content)
        if not self._reasoning:
            return self.continues + content
        thinking = f"{self._opening}{''.join(self._reasoning)}"
        return self.continues + (f"{thinking}</think>{content}" if content else thinking)

    @property
    def _opening(self) -> str:
        """The engine swallows the tag, unless the text that is continued has it already."""
        return "" if self.continues.rpartition("<think>")[1] and "</think>" not in self.continues else "<think>"

    @property
    def reasoning_tokens(self) -> int:
        """Of all its tokens, those of thinking, as far as the engine or the tags tell it; exact to a chunk."""
        text = self.text
        unfinished = text.rfind(OPEN) > text.rfind(CLOSE)
        return self.completion_tokens + self.unseen_tokens if unfinished else self._thinking_tokens

    @property
    def continues(self) -> str:
        return self.generation.continues

    @property
    def spoke(self) -> bool:
        return bool(self.events)

    @property
    def failure(self) -> Failure | None:
        """Why it may be made again; None where it did not fail, or every backend would refuse it."""
        if self.error is not None:
            return failure_of(self.error)
        if self.refusal is None or (self.refusal[0] < 500 and self.refusal[0] not in RETRIED_STATUS):
            return None
        answered = f"it answered {self.refusal[0]}"
        return Failure("status", answered, answered, str(self.refusal[0]), self.refusal[0], self.refused_for_s)

    @property
    def watched(self) -> bool:
        """Somebody looks at it while it runs, not only at its end."""
        return self._on_progress is not None or self._on_event is not None

    def tell_progress(self, every_tokens: int, on_progress: Callable[[BranchStream], None]) -> None:
        """Call back whenever about so many further tokens have come."""
        self._every_tokens, self._on_progress = every_tokens, on_progress

    def cancel(self) -> None:
        """Close the connection; the branch keeps and pays for what it had."""
        if not self._done:
            if self.exchange is not None:
                self.exchange.cancel()
            self._over("cancelled")

    # -- Sink --

    def on_head(self, status: int, headers: Headers) -> None:
        self._status = status
        if status in RETRIED_STATUS:
            self.refused_for_s = failure_of_status(status, headers).retry_after_s

    def on_body(self, data: bytes) -> None:
        if self._done:
            return
        if self._status != 200:
            self._body = (self._body + data)[:MAX_ERROR_BODY]
            return
        self._received += len(data)
        if self._received > MAX_BRANCH_BYTES:
            self._fail(BadResponse(f"the stream is over {MAX_BRANCH_BYTES} bytes"))
            return
        try:
            for payload in self._splitter.feed(data):
                if self._done:  # an error event was among them
                    return
                if payload == DONE:
                    self._done_seen = True
                else:
                    self._take(payload)
        except EventTooLarge as error:
            self._fail(BadResponse(str(error)))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._fail(StreamFault("the backend sent an event that is no completion chunk", quoted=str(error)))

    def on_end(self) -> None:
        if self._done:
            return
        if self._status != 200:
            self.refusal = (self._status, self.backend.without_key(self._body))
            self._over("failed")
        elif self._done_seen or self.finish_reason is not None:
            self._over("truncated" if self.finish_reason == "length" else "completed")
        else:
            self._fail(StreamFault("the backend ended the stream without a finish_reason"))

    def on_error(self, error: UpstreamError) -> None:
        if self._done:
            return
        if self.finish_reason is not None:  # the answer is whole; only its ending was lost
            self._over("truncated" if self.finish_reason == "length" else "completed")
        else:
            self._fail(error)

    # -- inside --

    def _take(self, payload: bytes) -> None:
        chunk = _decode(payload)
        if chunk.error:
            if self.exchange is not None:
                self.exchange.cancel()
            quoted = repr(self.backend.without_key(bytes(chunk.error))[:300])
            self._fail(StreamFault("the backend reported an error mid-stream", quoted=quoted))
            return
        usage, before = chunk.usage, self.completion_tokens
        if usage is not None:
            self.prompt_tokens = usage.prompt_tokens
            self.completion_tokens = usage.completion_tokens or 0
            if usage.prompt_tokens_details is not None:
                self.cached_tokens = usage.prompt_tokens_details.cached_tokens
        if not chunk.choices:
            self.backend.overrun.told += self.completion_tokens - before
            return
        choice = chunk.choices[0]
        if self.confidence is not None:
            payload = self.confidence.take(payload)
        said = self._read(choice)
        if usage is None:  # a backend without continuous usage: one chunk is at least one token
            self.completion_tokens += 1 if said else 0
        self.backend.overrun.told += self.completion_tokens - before
        if said and self._thought(choice):
            self._thinking_tokens = self.completion_tokens
        if self.completion_tokens or said:
            self._last_token_at = self._clock()
            if self.first_token_at is None:
                self._begins(self._last_token_at)
                if self.backend.health.state == "half-open":
                    self.backend.health.alive(self._health_mark)
        if choice.finish_reason is not None:
            self.finish_reason = choice.finish_reason
        self.events.append(payload)
        if self._on_event is not None:
            self._on_event(payload)
        if self._on_progress is not None and self.completion_tokens - self._told_tokens >= self._every_tokens:
            self._told_tokens = self.completion_tokens
            self._on_progress(self)

    def _read(self, choice: _Choice) -> bool:
        """Keep the chunk's text (one chunk may end the reasoning and begin the content); whether there was any."""
        reasoning, content = None, choice.text
        if choice.delta is not None:
            reasoning = choice.delta.reasoning or choice.delta.reasoning_content
            content = choice.delta.content
        if reasoning:
            if self._reasoning is None:
                self._reasoning, self.reasons_apart = [], True
            self._reasoning.append(reasoning)
        if content:
            self._content.append(content)
        return bool(reasoning or content)

    def _thought(self, choice: _Choice) -> bool:
        """The chunk that was just read is of thinking, or has the end of its closing tag."""
        if choice.delta is not None and (choice.delta.reasoning or choice.delta.reasoning_content):
            return True
        last = self._content[-1] if self._content else ""
        if ">" not in last:
            return False
        tail = "".join(self._content[-len(CLOSE) :])
        at = tail.rfind(CLOSE)
        return at >= 0 and at + len(CLOSE) > len(tail) - len(last)

    def _count_unseen(self, first_at: float, ended_at: float) -> None:
        """At the end: its own pace where it has one, else the backend's."""
        decoded, decoding_s = self.completion_tokens - self._first_tokens, self._last_token_at - first_at
        if self.state not in ("cancelled", "failed"):
            self.backend.pace.observe(first_at - self.started_at, decoded + 1, decoding_s)
        elif self.finish_reason is None:
            silent_s, per_token_s = ended_at - self._last_token_at, self.pace_s or self.backend.pace.per_token_s
            self.unseen_tokens = since_last_chunk(silent_s, per_token_s, self.interval)
            self.backend.overrun.told += self.unseen_tokens
            self.unseen_tokens += self.backend.overrun.cut()

    def _fail(self, error: UpstreamError) -> None:
        if not self._done:
            self.error = error
            if self.exchange is not None:
                self.exchange.cancel()
            self._over("failed")

    def _over(self, state: BranchState) -> None:
        self._done = True
        now = self._clock()
        self._leave(state, now)
        self._tell_health(now)
        if self.first_token_at is not None:
            self._count_unseen(self.first_token_at, now)
        on_over, self._on_over = self._on_over, None  # they know us: leave no cycle behind
        self._on_event = self._on_progress = None
        if on_over is not None:
            on_over(self)

    def _tell_health(self, now: float) -> None:
        health, mark = self.backend.health, self._health_mark
        if self.refusal is not None:
            health.status(mark, now, self.refusal[0], in_a_row=self._first_to_fail())
        elif self.error is not None:
            tell(self.backend, mark, now, self.error, in_a_row=self._first_to_fail())
        elif self.state != "cancelled":
            health.answered(mark, now)
        elif health.state == "half-open":
            health.released(mark)

    def _first_to_fail(self) -> bool:
        """One request with many branches is one failure in a row, not as many as would take the backend out."""
        if self.blamed is None:
            return True
        first = self.backend.name not in self.blamed
        self.blamed.add(self.backend.name)
        return first
