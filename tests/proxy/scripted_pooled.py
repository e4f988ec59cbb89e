"""A fake of vLLM's pooling runner over real sockets: rewards of answers and of their steps, ranks, embeddings.

    rewards = await fleet.pooled("outcome")
    rewards.reward = lambda answer: 0.9 if "4" in answer else 0.1
    rewards.plays["/classify"] = answers(500, b"{}")               # instead, byte for byte

Its tokenizer knows words and new lines; a word is a token. It wants a chat as the real one does, as token ids.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from raw_server import Peer, RawServer
from scripted_backend import CLOSING, Play, ScriptedBackend, answers

NEW_LINE = "Ċ"  # as byte-level BPE writes it


class ScriptedPooled(ScriptedBackend):
    """`reward`: of an answer's text; `step_reward`: of a token; `rank`: of a question and an answer; `vector`: of a
    text. `plays`: what to do at a path instead. `incapable`: paths at which a capability probe is refused."""

    def __init__(self, name: str, kind: str) -> None:
        super().__init__(name, name)
        self.kind = kind
        self.step_token: str | None = None
        self.reads_thinking = False
        self.reward: Callable[[str], float] = lambda answer: 0.5
        self.step_reward: Callable[[str], float] = lambda token: 0.5
        self.rank: Callable[[str, str], float] = lambda question, answer: 0.5
        self.vector: Callable[[str], list[float]] = lambda text: [1.0, 0.0]
        self.plays: dict[str, Play] = {}
        self._ids: dict[str, int] = {}
        self._server = RawServer(self._serve)

    @property
    def entry(self) -> dict[str, Any]:
        """Of the configuration."""
        told = {"name": self.name, "url": self.url, "kind": self.kind, "gpu_hour_usd": self.usd_per_hour}
        if self.reads_thinking:
            told["reads_thinking"] = True
        return told if self.step_token is None else {**told, "step_token": self.step_token}

    def at(self, path: str) -> list[dict[str, Any]]:
        """What it was asked at a path."""
        return [request.json for request in self.received if request.path == path]

    def _choose(self, request: Any) -> Play:
        return self.plays[request.path] if request.path in self.plays else self._answer(request)

    def _probed(self, request: Any) -> Play:
        if request.path in self.incapable:
            return answers(self.probe_status, b"{}", headers=CLOSING)
        return self._answer(request)

    def _answer(self, request: Any) -> Play:
        found = {
            "/tokenize": self._tokenize,
            "/classify": self._classify,
            "/pooling": self._pool,
            "/score": self._score,
            "/v1/embeddings": self._embed,
        }.get(request.path)
        if found is None:
            return super()._choose(request)
        return answers(200, json.dumps(found(request.json)).encode(), headers=CLOSING)

    def _tokenize(self, asked: dict[str, Any]) -> dict[str, Any]:
        *before, last = asked["messages"]
        words = [word for message in before for word in (f"<{message['role']}>", *_words(message["content"]), "</>")]
        words += [f"<{last['role']}>", *_words(last["content"])]
        if not asked.get("continue_final_message"):
            words.append("</>")
        if asked["add_generation_prompt"]:
            words.append("<assistant>")
        ids = [self._ids.setdefault(word, len(self._ids)) for word in words]
        return {"count": len(ids), "tokens": ids, "token_strs": words}

    def _words_of(self, ids: list[int]) -> list[str]:
        by_id = {number: word for word, number in self._ids.items()}
        return [by_id.get(number, "?") for number in ids]

    def _classify(self, asked: dict[str, Any]) -> dict[str, Any]:
        rows = []
        for ids in asked["input"]:
            words = self._words_of(ids)
            answer = words[len(words) - words[::-1].index("<assistant>") : -1]  # without the end of turn
            score = self.reward(" ".join(answer))
            rows.append({"probs": [1 - score, score], "num_classes": 2})
        return _answer(rows, sum(map(len, asked["input"])))

    def _pool(self, asked: dict[str, Any]) -> dict[str, Any]:
        rows = [{"data": [[self.step_reward(word)] for word in self._words_of(ids)]} for ids in asked["input"]]
        return _answer(rows, sum(map(len, asked["input"])))

    def _score(self, asked: dict[str, Any]) -> dict[str, Any]:
        rows = [{"score": self.rank(asked["text_1"], answer)} for answer in asked["text_2"]]
        return _answer(rows, 10 * len(rows))

    def _embed(self, asked: dict[str, Any]) -> dict[str, Any]:
        return _answer([{"embedding": self.vector(text)} for text in asked["input"]], 3 * len(asked["input"]))


def _words(text: str) -> list[str]:
    return [NEW_LINE if word == "\n" else word for word in re.findall(r"\n|[^\s]+", text)]


def _answer(rows: list[dict[str, Any]], tokens: int) -> dict[str, Any]:
    data = [{"index": index, **row} for index, row in enumerate(rows)]
    return {"data": data, "usage": {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}}


def when(gate: Any, then: Play) -> Play:
    """The same after a gate (an asyncio.Event) has opened."""

    async def play(peer: Peer, request: Any) -> None:
        await gate.wait()
        await then(peer, request)

    return play
