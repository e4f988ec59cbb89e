"""Models that vLLM serves with its pooling runner, as the proxy uses them: rewards, rerankers, embeddings.

Every call is metered as a branch is: nothing that a strategy asks can be forgotten in what the request cost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from proxy.backend import Backend
from proxy.upstream.errors import UpstreamError
from proxy.upstream.fetch import fetch
from strategies.base import NoScore

TIMEOUT_S = 60.0
_NEW_LINES = ("\n", "Ċ")  # as text, and as byte-level BPE writes it


@dataclass(slots=True)
class PooledCall:
    """One call as it went; times in the clock's seconds."""

    backend: Backend
    started_at: float
    ended_at: float
    prompt_tokens: int
    gpu_seconds: float
    outcome: Literal["completed", "failed", "cancelled"]
    wave: int = 0


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
    """One such model, for one request; `calls` is what it was asked. All methods raise NoScore."""

    def __init__(self, backend: Backend, clock: Any) -> None:
        self.backend = backend
        self.calls: list[PooledCall] = []
        self._clock = clock

    async def tokens(self, messages: Sequence[dict[str, Any]], *, whole: bool) -> _Tokens:
        """Of a chat whose last message is the answer: `whole` with the template's end of turn, else as far as it is."""
        body = {
            "messages": messages,
            "add_generation_prompt": False,
            "continue_final_message": not whole,
            "return_token_strs": True,
        }
        return msgspec.json.decode(await self._post("/tokenize", body), type=_Tokens)

    async def prompt_length(self, messages: Sequence[dict[str, Any]]) -> int:
        body = {"messages": messages, "add_generation_prompt": True}
        return len(msgspec.json.decode(await self._post("/tokenize", body), type=_Tokens).tokens)

    async def classify(self, inputs: Sequence[Sequence[int]]) -> list[float]:
        """The probability of the last class, of each."""
        return [float((item.probs or [0.0])[-1]) for item in (await self._metered("/classify", {"input": inputs})).data]

    async def per_token(self, inputs: Sequence[Sequence[int]]) -> list[list[float]]:
        """The same at each token."""
        answer = await self._metered("/pooling", {"input": inputs, "task": "token_classify"})
        return [[float(row[-1] if isinstance(row, list) else row) for row in item.data] for item in answer.data]

    async def rerank(self, question: str, answers: Sequence[str]) -> list[float]:
        answer = await self._metered("/score", {"text_1": question, "text_2": answers})
        return [item.score or 0.0 for item in answer.data]

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        answer = await self._metered("/v1/embeddings", {"input": texts})
        return [item.embedding or [] for item in answer.data]

    async def _metered(self, path: str, body: dict[str, Any]) -> _Answer:
        gpu_time = self.backend.gpu_time
        call = PooledCall(self.backend, self._clock(), 0.0, 0, 0.0, "failed")
        mark = gpu_time.enter()
        try:
            answer = msgspec.json.decode(await self._post(path, body), type=_Answer)
            call.outcome = "completed"
            call.prompt_tokens = answer.usage.prompt_tokens if answer.usage is not None else 0
            return answer
        except asyncio.CancelledError:
            call.outcome = "cancelled"
            raise
        except msgspec.DecodeError as error:
            raise NoScore(f"{self.backend.name}: {path} gave no scores: {error}") from error
        finally:
            call.ended_at, call.gpu_seconds = self._clock(), gpu_time.leave(mark)
            self.calls.append(call)

    async def _post(self, path: str, body: dict[str, Any]) -> bytes:
        request = self.backend.head(path).with_body(msgspec.json.encode({"model": self.backend.model, **body}))
        try:
            status, answer = await fetch(self.backend.pool, request, TIMEOUT_S)
        except (UpstreamError, TimeoutError) as error:
            raise NoScore(f"{self.backend.name}: {path}: {error}") from error
        if status != 200:
            raise NoScore(f"{self.backend.name}: {path} answered {status}: {answer[:200]!r}")
        return answer


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
