"""Models that vLLM serves with its pooling runner, as the proxy uses them: rewards, rerankers, embeddings.

Every call is metered as a branch is: nothing that a strategy asks can be forgotten in what the request cost. An answer
that is not what was asked for is no score: a guess would pass for a judgement.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import msgspec

from proxy.backend import Backend
from proxy.capabilities import PROBE_USER
from proxy.capabilities import TIMEOUT_S as PROBE_TIMEOUT_S
from proxy.reliability.retrying import Retries, fetch_again
from proxy.upstream.errors import UpstreamError
from strategies.base import NoScore

TIMEOUT_S = 60.0
T = TypeVar("T")
UNABLE = frozenset({400, 404, 405, 415, 422, 501})  # it understood, and does not do this
_NEW_LINES = ("\n", "Ċ")  # as text, and as byte-level BPE writes it


class CannotScore(NoScore):
    """It answered, and what it answered is no score: asking again would tell the same."""


@dataclass(slots=True)
class PooledCall:
    """One call as it went; times in the clock's seconds. `wave`: the fan-out that it came after; 0: not told yet."""

    backend: Backend
    started_at: float
    ended_at: float
    prompt_tokens: int
    gpu_seconds: float
    outcome: Literal["completed", "failed", "cancelled"]
    wave: int = 0
    completion_tokens: int = 0
    role: Literal["score", "judge"] = "score"


@contextmanager
def metered(
    backend: Backend, clock: Callable[[], float], calls: list[PooledCall], inputs: int = 1
) -> Iterator[PooledCall]:
    """Adds a call to `calls`, with the time and the share of the GPU that it took, however it ends. `inputs`: the
    engine runs each by itself."""
    mark = backend.gpu_time.enter(inputs)
    backend.overrun.began()
    call = PooledCall(backend, clock(), 0.0, 0, 0.0, "failed")
    try:
        yield call
        call.outcome = "completed"
    except asyncio.CancelledError:
        call.outcome = "cancelled"
        raise
    finally:
        call.ended_at, call.gpu_seconds = clock(), backend.gpu_time.leave(mark, inputs)
        backend.overrun.booked(call.completion_tokens, exact=call.outcome == "completed")
        calls.append(call)


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0


class _Tokens(msgspec.Struct):
    tokens: list[int]
    token_strs: list[str] | None = None


class _Item(msgspec.Struct):
    probs: list[float] | None = None
    data: Any = None
    score: float | None = None
    embedding: list[float] | None = None


class _Answer(msgspec.Struct):
    data: list[_Item]
    usage: _Usage | None = None


class PooledModel:
    """One such model, for one request; `calls` is what it was asked; `salt`: of its prefix cache; `probes`: it is the
    proxy itself that asks, and no request's. All methods raise NoScore."""

    def __init__(
        self,
        backend: Backend,
        clock: Callable[[], float],
        retries: Retries | None = None,
        salt: str | None = None,
        *,
        probes: bool = False,
    ) -> None:
        self.backend = backend
        self.calls: list[PooledCall] = []
        self._clock = clock
        self._retries = retries
        self._timeout_s, self._probes = PROBE_TIMEOUT_S if probes else TIMEOUT_S, probes
        own = {"cache_salt": salt, "user": PROBE_USER if probes else None}
        self._own = {name: value for name, value in own.items() if value is not None}

    async def tokens(self, messages: Sequence[dict[str, Any]], *, whole: bool) -> _Tokens:
        """Of a chat whose last message is the answer: `whole` with the template's end of turn, else as far as it is."""
        body = {
            "messages": messages,
            "add_generation_prompt": False,
            "continue_final_message": not whole,
            "return_token_strs": True,
        }
        return await self._tokenized(body)

    async def prompt_length(self, messages: Sequence[dict[str, Any]]) -> int:
        body = {"messages": messages, "add_generation_prompt": True}
        return len((await self._tokenized(body)).tokens)

    async def _tokenized(self, body: dict[str, Any]) -> _Tokens:
        try:
            return msgspec.json.decode(await self._post("/tokenize", body), type=_Tokens)
        except msgspec.DecodeError as error:
            raise self._no_score("/tokenize", str(error)) from error

    async def classify(self, inputs: Sequence[Sequence[int]]) -> list[float]:
        """The probability of the last class, of each."""
        return await self._metered("/classify", {"input": inputs}, len(inputs), _last_of_probs)

    async def per_token(self, inputs: Sequence[Sequence[int]]) -> list[list[float]]:
        """The same at each token."""
        body = {"input": inputs, "task": "token_classify"}
        return await self._metered("/pooling", body, len(inputs), _last_of_rows)

    async def rerank(self, question: str, answers: Sequence[str]) -> list[float]:
        return await self._metered("/score", {"text_1": question, "text_2": answers}, len(answers), _score)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return await self._metered("/v1/embeddings", {"input": texts}, len(texts), _embedding)

    async def _metered(self, path: str, body: dict[str, Any], rows: int, read: Callable[[_Item], T]) -> list[T]:
        with self._meter(rows) as call:
            try:
                answer = msgspec.json.decode(await self._post(path, {**body, **self._own}), type=_Answer)
                found = [read(item) for item in answer.data]
            except msgspec.DecodeError as error:
                raise self._no_score(path, str(error)) from error
            except (ValueError, TypeError, LookupError) as error:  # their texts quote what they did not like
                raise self._no_score(path, f"a row is none ({type(error).__name__})") from error
            call.prompt_tokens = answer.usage.prompt_tokens if answer.usage is not None else 0
            if len(found) != rows:
                raise self._no_score(path, f"{len(found)} rows for {rows}")
            return found

    @contextmanager
    def _meter(self, rows: int) -> Iterator[PooledCall]:
        if self._probes:  # no trace would have it
            yield PooledCall(self.backend, self._clock(), 0.0, 0, 0.0, "completed")
        else:
            with metered(self.backend, self._clock, self.calls, rows) as call:
                yield call

    def _no_score(self, path: str, problem: str) -> CannotScore:
        return CannotScore(f"{self.backend.name}: {path} gave no scores: {problem}")

    async def _post(self, path: str, body: dict[str, Any]) -> bytes:
        request = self.backend.head(path).with_body(msgspec.json.encode({"model": self.backend.model, **body}))
        try:
            status, answer = await fetch_again(self.backend, request, self._timeout_s, self._retries)
        except UpstreamError as error:
            raise NoScore(f"{self.backend.name}: {path}: {error.safe}") from error
        except TimeoutError as error:
            raise NoScore(f"{self.backend.name}: {path}: no answer within {self._timeout_s:g} s") from error
        if status != 200:  # not what it said: that may be the prompt
            kind = CannotScore if status in UNABLE else NoScore
            raise kind(f"{self.backend.name}: {path} answered {status}")
        return answer


def _last_of_probs(item: _Item) -> float:
    if not item.probs:
        raise ValueError("a row has no probabilities")
    return item.probs[-1]


def _last_of_rows(item: _Item) -> list[float]:
    return [float(row[-1] if isinstance(row, list) else row) for row in item.data]


def _score(item: _Item) -> float:
    if item.score is None:
        raise ValueError("a row has no score")
    return item.score


def _embedding(item: _Item) -> list[float]:
    if not item.embedding:
        raise ValueError("a row has no embedding")
    return item.embedding


def step_ends(token_strs: Sequence[str], first: int, mark: str | None) -> list[int]:
    """Where the steps of an answer end: the last of the new-line tokens in a row (or each `mark`), and the end itself.

    `first`: the answer's first token. Empty for an empty answer.
    """
    last = len(token_strs) - 1
    if last < first:
        return []

    def delimits(at: int) -> bool:
        return token_strs[at] == mark if mark is not None else any(line in token_strs[at] for line in _NEW_LINES)

    ends = [at for at in range(first, last) if delimits(at) and not delimits(at + 1)]
    return [*ends, last]
