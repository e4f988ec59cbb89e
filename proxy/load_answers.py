"""Answers as a load-testing client reads them: sinks that fill in a `Result` as the bytes come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from profiler.loadtest.result import Result
from proxy.sse import DONE, EventSplitter, EventTooLarge
from proxy.upstream.connection import Headers
from proxy.upstream.errors import UpstreamError

_SHOWN = 200


class Answer:
    """What both kinds share. `done` is resolved once the result has its outcome; `began`: the clock at the sending."""

    def __init__(self, result: Result, clock: Callable[[], float]) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.began = 0.0
        self._result = result
        self._clock = clock
        self._parts: list[bytes] = []

    def on_head(self, status: int, headers: Headers) -> None:
        result = self._result
        result.status = status
        for name, value in headers:
            if name.startswith((b"x-tts-", b"x-slo-")):
                _read_header(result, name, value.decode("latin-1"))

    def on_body(self, data: bytes) -> None:
        self._parts.append(data)

    def on_end(self) -> None:
        result = self._result
        result.latency_ms = (self._clock() - self.began) * 1e3
        if result.status == 200:
            self._finish()
        else:
            _read_error(result, b"".join(self._parts))
        self._over()

    def on_error(self, error: UpstreamError) -> None:
        self._result.outcome, self._result.error = "error", f"{type(error).__name__}: {error}"[:_SHOWN]
        self._over()

    def _finish(self) -> None:
        """Status 200 and all bytes are here."""
        raise NotImplementedError

    def _over(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


class WholeAnswer(Answer):
    """One JSON body."""

    def _finish(self) -> None:
        try:
            body = msgspec.json.decode(b"".join(self._parts), type=_Completion)
        except msgspec.DecodeError as error:
            self._result.error = f"200, but no chat completion: {error}"[:_SHOWN]
            return
        choice = body.choices[0] if body.choices else _Choice()
        self._result.outcome = "answered"
        self._result.text = (choice.message.content or "") if choice.message else ""
        self._result.finish_reason = choice.finish_reason
        _read_usage(self._result, body.usage)


class StreamedAnswer(Answer):
    """Server-sent events. The first token is the first text, of the answer or of its reasoning; an opening chunk with a
    role only, and comments, are none."""

    def __init__(self, result: Result, clock: Callable[[], float]) -> None:
        super().__init__(result, clock)
        self._splitter = EventSplitter()
        self._text: list[str] = []
        self._whole = False
        self._failed: str | None = None

    def on_body(self, data: bytes) -> None:
        if self._result.status != 200:
            self._parts.append(data)
            return
        try:
            for payload in self._splitter.feed(data):
                self._read(payload)
        except (msgspec.DecodeError, EventTooLarge) as error:
            self._failed = f"a broken event: {error}"

    def _read(self, payload: bytes) -> None:
        if payload == DONE:
            self._whole = True
            return
        chunk = msgspec.json.decode(payload, type=_Completion)
        if chunk.error is not None:
            self._failed = f"{chunk.error.code or chunk.error.type or 'error'} in the stream"
        if chunk.usage is not None:
            _read_usage(self._result, chunk.usage)
        for choice in chunk.choices[:1]:
            delta = choice.delta or _Message()
            if self._result.ttft_ms is None and (delta.content or delta.reasoning or delta.reasoning_content):
                self._result.ttft_ms = (self._clock() - self.began) * 1e3
            if delta.content:
                self._text.append(delta.content)
            self._result.finish_reason = choice.finish_reason or self._result.finish_reason

    def _finish(self) -> None:
        if self._failed or not self._whole:
            self._result.error = (self._failed or "the stream ended without [DONE]")[:_SHOWN]
            return
        self._result.outcome, self._result.text = "answered", "".join(self._text)


class _Message(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message | None = None
    delta: _Message | None = None
    finish_reason: str | None = None


class _Tts(msgspec.Struct):
    strategy: str | None = None
    n: int | None = None
    backend: str | None = None
    cost_usd: float | None = None
    gpu_seconds: float | None = None
    slo_status: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    tts: _Tts | None = None


class _Error(msgspec.Struct):
    message: str | None = None
    type: str | None = None
    code: str | int | None = None


class _Completion(msgspec.Struct):
    """A whole completion, or a chunk of one, or an error: what is read of them."""

    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: _Error | None = None


def _read_header(result: Result, name: bytes, value: str) -> None:
    match name:
        case b"x-tts-strategy":
            result.strategy = value
        case b"x-tts-n":
            result.n = int(value) if value.isdecimal() else None
        case b"x-tts-backend":
            result.backend = value
        case b"x-slo-status":
            result.slo_status = value
        case b"x-slo-predicted-latency-ms":
            result.predicted_ms = _number(value)


def _number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _read_usage(result: Result, usage: _Usage | None) -> None:
    """What the body tells is later, and so truer, than the headers: a failed plan may have been replaced."""
    if usage is None:
        return
    result.prompt_tokens, result.completion_tokens = usage.prompt_tokens, usage.completion_tokens
    if (tts := usage.tts) is not None:
        result.cost_usd, result.gpu_seconds = tts.cost_usd, tts.gpu_seconds
        result.strategy, result.n = tts.strategy or result.strategy, tts.n or result.n
        result.backend, result.slo_status = tts.backend or result.backend, tts.slo_status or result.slo_status


def _read_error(result: Result, body: bytes) -> None:
    try:
        error: Any = msgspec.json.decode(body, type=_Completion).error
    except msgspec.DecodeError:
        error = None
    code = (error and (error.code or error.type)) or "error"
    result.outcome = "refused" if result.status == 503 and code == "slo_infeasible" else "error"
    result.error = f"{result.status} {code}"
