"""How sure a branch is of each token, from the log probabilities in its chunks; the client gets those it asked for.

The confidence of a token is minus the mean of its top log probabilities (DeepConf, arXiv 2508.15260): high where one
candidate has nearly all the mass, so that the others are far below.
"""

from __future__ import annotations

from typing import Any

import msgspec

UNKNOWN = -9999.0  # what vLLM says where it has none
LEAST = -50.0  # a candidate that is never drawn; without a bound one of them would outweigh all others


class Confidence:
    """Reads the chunks of one branch. `asked`: the client's own `top_logprobs`; None: it wants no log probabilities."""

    __slots__ = ("_asked", "per_token")

    def __init__(self, asked: int | None) -> None:
        self._asked = asked
        self.per_token: list[float] = []

    def take(self, payload: bytes) -> bytes:
        """Note the chunk's tokens; the chunk as the client may see it."""
        if b'"logprobs"' not in payload:
            return payload
        chunk: dict[str, Any] = msgspec.json.decode(payload)
        told_any = False
        for choice in chunk.get("choices", ()):
            told = choice.get("logprobs")
            if told is None:
                continue
            told_any = True
            self.per_token += of_chat(told) if told.get("content") is not None else _of_completion(told)
            choice["logprobs"] = None if self._asked is None else _cut(told, self._asked)
        return msgspec.json.encode(chunk) if told_any else payload


def of_chat(told: dict[str, Any]) -> list[float]:
    """Of each token that a chat's `logprobs` tell."""
    return [_confidence([top["logprob"] for top in token.get("top_logprobs") or ()]) for token in told["content"]]


def _of_completion(told: dict[str, Any]) -> list[float]:
    return [_confidence(list((tops or {}).values())) for tops in told.get("top_logprobs") or ()]


def _confidence(logprobs: list[float]) -> float:
    known = [max(logprob, LEAST) for logprob in logprobs if logprob > UNKNOWN]
    return -sum(known) / len(known) if known else 0.0


def _cut(told: dict[str, Any], asked: int) -> dict[str, Any]:
    """With as many candidates per token as the client asked for."""
    content, tops = told.get("content"), told.get("top_logprobs")
    if content is not None:
        cut = [{**token, "top_logprobs": (token.get("top_logprobs") or [])[:asked]} for token in content]
        return {**told, "content": cut}
    if tops is not None:
        return {**told, "top_logprobs": [_cut_completion(top, asked) for top in tops]}
    return told


def _cut_completion(top: dict[str, float] | None, asked: int) -> dict[str, float] | None:
    """The sampled token comes first, and counts among those asked for only where it is one of the best (vLLM)."""
    if not top:
        return top
    items = list(top.items())
    better = sum(logprob > items[0][1] for _, logprob in items[1:])
    return dict(items[: max(1, asked if better < asked else asked + 1)])
