"""What is read off a chunk's log probabilities, and what is left of them for the client."""

import json
from typing import Any

import pytest

from proxy.confidence import LEAST, UNKNOWN, Confidence


def _completion(tops: list[dict[str, float] | None]) -> bytes:
    logprobs = {"tokens": ["a"], "token_logprobs": [-1.0], "top_logprobs": tops, "text_offset": [0]}
    return json.dumps({"choices": [{"index": 0, "text": "a", "logprobs": logprobs}]}).encode()


def _left(payload: bytes) -> Any:
    return json.loads(payload)["choices"][0]["logprobs"]


def test_a_chunk_without_any_stays_byte_for_byte() -> None:
    payload = b'{"choices": [ {"index": 0, "delta": {"content": "logprobs"}, "logprobs": null} ]}'

    assert Confidence(None).take(payload) is payload


def test_it_is_minus_the_mean_of_what_is_known() -> None:
    reads = Confidence(None)

    reads.take(_completion([{"a": -1.0, "b": -3.0}, {"a": -2.0, "b": UNKNOWN}, {"a": 0.0, "b": -100.0}, None, {}]))

    assert reads.per_token == [2.0, 2.0, pytest.approx(-LEAST / 2), 0.0, 0.0]


def test_a_sampled_token_that_is_none_of_the_best_comes_on_top_of_them() -> None:
    """As vLLM tells it: the sampled token first, then the best; with `logprobs: 1` that is one or two."""
    unlikely, best = {"s": -5.0, "a": -0.1, "b": -2.0}, {"s": -0.1, "a": -2.0, "b": -5.0}

    assert _left(Confidence(1).take(_completion([unlikely])))["top_logprobs"] == [{"s": -5.0, "a": -0.1}]
    assert _left(Confidence(1).take(_completion([best])))["top_logprobs"] == [{"s": -0.1}]
    assert _left(Confidence(0).take(_completion([unlikely])))["top_logprobs"] == [{"s": -5.0}]


def test_all_else_of_the_chunk_is_kept() -> None:
    left = _left(Confidence(5).take(_completion([{"a": -1.0}])))

    assert left == {"tokens": ["a"], "token_logprobs": [-1.0], "top_logprobs": [{"a": -1.0}], "text_offset": [0]}
