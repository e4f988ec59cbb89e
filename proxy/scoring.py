"""The scores that a running strategy asks for: rewards of answers and of their steps, ranks, similarities."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from proxy.backend import Backend
from proxy.call import Call
from proxy.pooled import PooledCall, PooledModel, step_ends
from proxy.reliability.retrying import Retries
from strategies.base import SCORER_NEEDS, Need, NoScore, Scorer
from strategies.ranking import scorable

KINDS: dict[str, Scorer] = {"outcome": "reward", "process": "process-reward", "reranker": "reranker"}


class Scoring:
    """Of one request. `models`: what scores; `step_mark`: the token that ends a step, a new line unless told;
    `reads_thinking`: those that judge an answer by its thinking too. Others know solutions, not thoughts."""

    def __init__(
        self,
        models: Mapping[Scorer, Backend],
        embedding: Backend | None,
        call: Call,
        clock: Callable[[], float],
        step_mark: str | None = None,
        retries: Retries | None = None,
        reads_thinking: frozenset[Scorer] = frozenset(),
    ) -> None:
        self.judged: list[PooledCall] = []  # what a judge was asked aside of branches
        self._models = {name: PooledModel(backend, clock, retries, call.salt) for name, backend in models.items()}
        self._embedding = PooledModel(embedding, clock, retries, call.salt) if embedding is not None else None
        self.retries = retries
        self._call = call
        self._step_mark = step_mark
        self._reads_thinking = reads_thinking
        self._prompt_tokens: int | None = None

    @property
    def salt(self) -> str | None:
        """Of the prefix caches of what is asked for this request."""
        return self._call.salt

    @property
    def embeds(self) -> bool:
        return self._embedding is not None

    @property
    def needs_met(self) -> frozenset[Need]:
        return frozenset(SCORER_NEEDS[name] for name in self._models)

    @property
    def calls(self) -> list[PooledCall]:
        """All that was asked so far, of any model."""
        models = [*self._models.values(), *([self._embedding] if self._embedding is not None else [])]
        return [*(call for model in models for call in model.calls), *self.judged]

    async def score(self, texts: Sequence[str], by: Scorer, *, so_far: bool = False) -> list[list[float]]:
        """One score of each answer, or one per step. `so_far`: they are no whole answers yet. Raises NoScore."""
        model = self._models.get(by)
        if model is None:
            raise NoScore(f"the model has no {by} model")
        if not texts:
            return []
        if not so_far and by not in self._reads_thinking:
            texts = [scorable(text) for text in texts]
        if by == "reranker":
            return [[score] for score in await model.rerank(self._call.question(), texts)]
        if by == "reward":
            inputs = await self._tokens(model, texts, whole=True)
            return [[score] for score in await model.classify([tokens for tokens, _ in inputs])]
        return await self._steps(model, texts)

    async def _steps(self, model: PooledModel, texts: Sequence[str]) -> list[list[float]]:
        if self._prompt_tokens is None:
            self._prompt_tokens = await model.prompt_length(self._call.messages())
        inputs = await self._tokens(model, texts, whole=False)
        if any(len(strs) != len(tokens) for tokens, strs in inputs):
            raise NoScore(f"{model.backend.name}: /tokenize gave no token strings, so no ends of steps")
        rows = await model.per_token([tokens for tokens, _ in inputs])
        found = []
        for (tokens, strs), scores in zip(inputs, rows, strict=True):
            if len(scores) != len(tokens):
                raise NoScore(f"{model.backend.name}: /pooling gave {len(scores)} scores for {len(tokens)} tokens")
            found.append([scores[at] for at in step_ends(strs, self._prompt_tokens, self._step_mark)])
        return found

    async def _tokens(
        self, model: PooledModel, texts: Sequence[str], *, whole: bool
    ) -> list[tuple[list[int], list[str]]]:
        messages = self._call.messages()

        async def one(text: str) -> tuple[list[int], list[str]]:
            chat = [*messages, {"role": "assistant", "content": text}]
            found = await model.tokens(chat, whole=whole)
            return found.tokens, found.token_strs or []

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(text)) for text in texts]
        except ExceptionGroup as failed:
            raise NoScore(str(failed.exceptions[0])) from failed
        return [task.result() for task in tasks]

    async def similarity(self, texts: Sequence[str]) -> list[list[float]]:
        """Cosines, (n, n). Raises NoScore."""
        if self._embedding is None:
            raise NoScore("the model has no embedding_model")
        if not texts:
            return []
        found = await self._embedding.embed(texts)
        if len({len(vector) for vector in found}) != 1:
            raise NoScore(f"{self._embedding.backend.name} gave no vectors of one length")
        vectors = np.array(found, float)
        unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        cosines: list[list[float]] = (unit @ unit.T).tolist()
        return cosines
