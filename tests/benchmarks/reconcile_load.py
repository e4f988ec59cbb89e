"""A load with everything that makes accounts hard: strategies that cancel, deadlines that cut, clients that leave,
bad requests, answers that tell no usage."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any

import httpx

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
STRATEGIES: Sequence[dict[str, Any]] = (
    {"strategy": "self-consistency", "n": 8},
    {"strategy": "self-consistency", "n": 4, "stop": "all"},
    {"strategy": "first-finish", "n": 6, "m": 2},
    {"strategy": "weighted-vote", "n": 4, "weight": "confidence", "window": 32},
    {"strategy": "probe-consensus", "n": 4, "every_tokens": 48},
    {"strategy": "deep-confidence", "n": 6, "warmup": 2, "window": 32},
    {"strategy": "self-refine", "rounds": 1, "critique_tokens": 32, "answer_chars": 200},
)
KINDS = {"strategy": 6, "deadline": 2, "plain": 2, "streamed": 2, "streamed with usage": 2, "several": 1, "text": 1}
LEAVING = 0.2
REFUSED = 0.03


class Load:
    """`workers` clients that ask one after the other. `asked`: requests by kind; `answers`: by status, 0 where the
    client left or the connection broke."""

    def __init__(self, url: str, models: Sequence[str], questions: Sequence[str], seed: int = 1) -> None:
        self.asked: Counter[str] = Counter()
        self.answers: Counter[int] = Counter()
        self._random = Random(seed)
        self._models, self._questions = models, questions
        limits = httpx.Limits(max_connections=None)
        self._http = httpx.AsyncClient(base_url=url, timeout=60, limits=limits, trust_env=False)

    async def run(self, seconds: float, workers: int) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._work(asyncio.get_running_loop().time() + seconds))

    async def aclose(self) -> None:
        await self._http.aclose()

    async def _work(self, until: float) -> None:
        while asyncio.get_running_loop().time() < until:
            kind, path, body, headers = self._request()
            patience_s = self._random.uniform(0.02, 1.0) if self._random.random() < LEAVING else 60.0
            self.asked[kind if patience_s == 60.0 else f"{kind}, leaving"] += 1
            status = 0
            with contextlib.suppress(TimeoutError, httpx.HTTPError):
                async with asyncio.timeout(patience_s):
                    status = (await self._http.post(path, json=body, headers=headers)).status_code
            self.answers[status] += 1

    def _request(self) -> tuple[str, str, dict[str, Any], dict[str, str]]:
        """(kind, path, body, headers)."""
        random = self._random
        kind = random.choices(list(KINDS), list(KINDS.values()))[0]
        body: dict[str, Any] = {"model": random.choice(self._models), "max_tokens": 250, "temperature": 1}
        question = random.choice(self._questions)
        if random.random() < REFUSED:
            return "bad", CHAT, {**body, "messages": "none"}, {}
        if kind == "text":
            return kind, TEXT, {**body, "prompt": question}, {}
        body["messages"] = [{"role": "user", "content": question}]
        if kind in ("strategy", "deadline"):
            headers = {"x-slo-latency-ms": str(random.randint(300, 1200))} if kind == "deadline" else {}
            return kind, CHAT, {**body, "tts": dict(random.choice(STRATEGIES))}, headers
        if kind == "several":
            return kind, CHAT, {**body, "n": 3}, {}
        if kind.startswith("streamed"):
            body["stream"] = True
        if kind.endswith("usage"):
            body["stream_options"] = {"include_usage": True}
        return kind, CHAT, body, {}
