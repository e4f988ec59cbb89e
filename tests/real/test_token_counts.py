"""Prompt lengths counted in the proxy agree exactly with vLLM's `prompt_tokens`."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from conftest import ROOT, backend_named

from proxy.config import Config
from proxy.tokens import TokenCounter

TEXTS = [
    "What is (12 + 30) * 3?",
    "Ana has 17 apples. Ana gets 3 more, then gives away 4.\n\nHow many apples does Ana have?",
    "ünïcödé ☃ 漢字 \t tabs  and   spaces",
    "<|im_end|> and <think> in the text",
    "9" * 200,
]


def _chats() -> list[dict[str, Any]]:
    chats: list[dict[str, Any]] = [{"messages": [{"role": "user", "content": text}]} for text in TEXTS]
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": [{"type": "text", "text": "and"}, {"type": "text", "text": "2 + 2?"}]},
    ]
    return [*chats, {"messages": turns}]


@pytest.mark.parametrize(("backend", "weights"), [("s-tp1", "s"), ("m-tp1", "m")])
async def test_counts_agree_with_vllm(config: Config, backend: str, weights: str) -> None:
    counter = TokenCounter.from_folder(ROOT / f"profiler/tinymath/weights/{weights}")
    target = backend_named(config, backend)
    async with httpx.AsyncClient(base_url=target.config.url, timeout=30) as client:
        for chat in _chats():
            body = {"model": target.model, "max_tokens": 1, **chat}
            usage = (await client.post("/v1/chat/completions", json=body)).json()["usage"]
            assert counter.count_chat(body) == usage["prompt_tokens"], chat
        for text in TEXTS:
            body = {"model": target.model, "max_tokens": 1, "prompt": text}
            usage = (await client.post("/v1/completions", json=body)).json()["usage"]
            assert counter.count_completion(body) == usage["prompt_tokens"], text
    await target.pool.aclose()
