"""Log probabilities that are made up: near 0 for most tokens, now and then a doubtful one."""

from __future__ import annotations

from math import exp, log
from random import Random
from typing import Any

MEAN = -0.35  # of a reasoning model's tokens, about


def chat_logprobs(pieces: list[str], begin: int, seed: int, top: int) -> list[dict[str, Any]]:
    """`content` of a chat's logprobs for the tokens from number `begin` on, the same whatever the chunks."""
    entries = []
    for index, piece in enumerate(pieces, begin):
        chosen, *others = _drawn(seed, index, top)
        alternatives = [(piece, chosen), *((f" alt{rank}", value) for rank, value in enumerate(others, 1))]
        entries.append({**_entry(piece, chosen), "top_logprobs": [_entry(*one) for one in alternatives[:top]]})
    return entries


def completion_logprobs(pieces: list[str], begin: int, offset: int, seed: int, top: int) -> dict[str, Any]:
    """The same in the form of text completions; `offset`: characters of the text before."""
    told = chat_logprobs(pieces, begin, seed, max(1, top))
    offsets = []
    for piece in pieces:
        offsets.append(offset)
        offset += len(piece)
    return {
        "text_offset": offsets,
        "token_logprobs": [entry["logprob"] for entry in told],
        "tokens": pieces,
        "top_logprobs": [{one["token"]: one["logprob"] for one in entry["top_logprobs"]} for entry in told],
    }


def _entry(piece: str, logprob: float) -> dict[str, Any]:
    return {"token": piece, "logprob": logprob, "bytes": list(piece.encode("utf-8", "replace"))}


def _drawn(seed: int, index: int, top: int) -> list[float]:
    """The token's own, then those of others, which share what probability is left."""
    random = Random(f"{seed} {index}")
    chosen = -random.expovariate(-1 / MEAN) if random.random() < 0.6 else -random.random() * 0.01
    left = max(1e-6, 1.0 - exp(chosen))
    values = [round(chosen, 6)]
    for _ in range(max(0, top - 1)):
        share = left * (0.4 + 0.4 * random.random())
        left -= share
        values.append(round(log(max(share, 1e-9)), 6))
    return values
