"""Whether two free texts say the same: by embeddings, or by the judge."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import msgspec

from proxy.catalog import Served
from proxy.pooled import metered
from proxy.reliability.retrying import fetch_again
from proxy.scoring import Scoring
from strategies.answers import Equivalence, Undecided
from strategies.answers.text import MOST_CHARS

SAME_AT = 0.9  # cosine similarity
JUDGE_TIMEOUT_S = 30.0
_YES = re.compile(r"\byes\b", re.IGNORECASE)
_ASKED = (
    "Question:\n{question}\n\nAnswer A:\n{a}\n\nAnswer B:\n{b}\n\n"
    "Do both answers say the same in substance? Reply with one word, yes or no."
)


def text_equivalence(
    served: Served, scoring: Scoring | None, question: Callable[[], str], clock: Callable[[], float]
) -> Equivalence | None:
    """What the model's configuration asks for (`compare_text`); None: texts are compared as they are written."""
    match served.config.compare_text:
        case "embeddings" if scoring is not None:
            return _ByEmbeddings(scoring)
        case "judge" if served.judge is not None and scoring is not None:
            return _ByJudge(served.judge, question, clock, scoring)
        case _:
            return None


class Within:
    """A comparison that ends at a request's deadline: what was not compared by then is different."""

    def __init__(self, of: Equivalence, decide_by: float | None) -> None:
        self._of, self._decide_by = of, decide_by

    async def same(self, a: str, b: str) -> bool:
        """Raises TimeoutError, and what `of` raises."""
        if self._decide_by is not None and asyncio.get_running_loop().time() >= self._decide_by:
            raise TimeoutError
        async with asyncio.timeout_at(self._decide_by):
            return await self._of.same(a, b)


class _ByEmbeddings:
    def __init__(self, scoring: Scoring) -> None:
        self._scoring = scoring

    async def same(self, a: str, b: str) -> bool:
        return (await self._scoring.similarity([a[:MOST_CHARS], b[:MOST_CHARS]]))[0][1] >= SAME_AT


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Said(msgspec.Struct):
    choices: list[_Choice]
    usage: _Usage | None = None


class _ByJudge:
    def __init__(
        self, judge: Served, question: Callable[[], str], clock: Callable[[], float], scoring: Scoring
    ) -> None:
        self._judge, self._question, self._clock, self._scoring = judge, question, clock, scoring

    async def same(self, a: str, b: str) -> bool:
        """Raises Undecided."""
        backend = self._judge.fastest()
        if backend is None:
            raise Undecided("no backend of the judge serves")
        asked = _ASKED.format(question=self._question(), a=a[:MOST_CHARS], b=b[:MOST_CHARS])
        body = {
            "model": backend.model,
            "messages": [{"role": "user", "content": asked}],
            "temperature": 0,
            "max_tokens": 512,
        }
        if self._scoring.salt is not None:
            body["cache_salt"] = self._scoring.salt
        request = backend.head("/v1/chat/completions").with_body(msgspec.json.encode(body))
        with metered(backend, self._clock, self._scoring.judged) as call:
            call.role = "judge"
            status, answer = await fetch_again(backend, request, JUDGE_TIMEOUT_S, self._scoring.retries)
            if status != 200:
                raise Undecided(f"the judge answered {status}")
            said = msgspec.json.decode(answer, type=_Said)
            if said.usage is not None:
                call.prompt_tokens, call.completion_tokens = said.usage.prompt_tokens, said.usage.completion_tokens
            text = said.choices[0].message.content or ""
        return _YES.search(text.rpartition("</think>")[2]) is not None
