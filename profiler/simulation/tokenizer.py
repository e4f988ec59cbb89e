"""The simulated tokenizer: blanks and up to eight other characters are a token."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence

from profiler.simulation.kv_memory import Prompt
from profiler.steptime import KV_BLOCK_TOKENS

TOKEN_CHARS = 8
_TOKEN = re.compile(r"\s*\S{1,8}|\s+")
_IDS = 1 << 20
_FIRST_ID = 1 << 10  # ids below are given by clients only, as in a profiler's prompts


def tokens_of(text: str) -> list[str]:
    """The pieces, which joined give the text again."""
    return _TOKEN.findall(text)


class Vocabulary:
    """Ids of pieces, the same in every run; what was encoded once can be decoded."""

    def __init__(self) -> None:
        self._pieces: dict[int, str] = {}

    def encode(self, pieces: Iterable[str]) -> list[int]:
        return [self._id(piece) for piece in pieces]

    def decode(self, ids: Iterable[int]) -> str:
        """An id that was never seen reads as its number."""
        return "".join(self._pieces.get(token, f" {token}") for token in ids)

    def _id(self, piece: str) -> int:
        token = _FIRST_ID + zlib.crc32(piece.encode("utf-8", "surrogatepass")) % _IDS
        while self._pieces.setdefault(token, piece) != piece:
            token += 1
        return token


def prompt_of(tokens: Sequence[int] | Sequence[str]) -> Prompt:
    """A prompt of these tokens, whichever way they tell them apart."""
    blocks, parent = [], 0
    for end in range(KV_BLOCK_TOKENS, len(tokens) + 1, KV_BLOCK_TOKENS):
        parent = hash((parent, *tokens[end - KV_BLOCK_TOKENS : end]))
        blocks.append(parent)
    return Prompt(len(tokens), tuple(blocks))
