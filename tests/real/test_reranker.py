"""The reranker that is made of the outcome verifier says what that one says: its head and its template are right.

RERANKER=1 .venv/bin/pytest -m real tests/real -k reranker
"""

from __future__ import annotations

import httpx
import pytest
from conftest import WITH_A_RERANKER

from proxy.config import Config

pytestmark = pytest.mark.skipif(not WITH_A_RERANKER, reason="RERANKER=1 starts a sixth engine for it")

QUESTION = "Start with 37. Then multiply by 4, subtract 48. What is the result?"
THOUGHT = (
    "<think>\nCompute:\n37 * 4 = {product}\n{product} - 48 = {result}\n</think>\nThe answer is \\boxed{{{result}}}."
)
RIGHT, WRONG = THOUGHT.format(product=148, result=100), THOUGHT.format(product=158, result=110)


def test_it_scores_as_the_verifier_it_was_made_of(config: Config) -> None:
    urls = {one.kind: (one.url, one.model or one.name) for one in config.pooled()}

    def by_verifier(answer: str) -> float:
        url, model = urls["outcome"]
        chat = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"
        told = httpx.post(f"{url}/classify", json={"model": model, "input": chat}, timeout=30).json()
        return float(told["data"][0]["probs"][-1])

    def by_reranker(answer: str) -> float:
        url, model = urls["reranker"]
        told = httpx.post(f"{url}/score", json={"model": model, "text_1": QUESTION, "text_2": answer}, timeout=30)
        return float(told.json()["data"][0]["score"])

    for answer in (RIGHT, WRONG):
        assert by_reranker(answer) == pytest.approx(by_verifier(answer), abs=0.02)
    assert by_reranker(RIGHT) > 0.5 > by_reranker(WRONG)
