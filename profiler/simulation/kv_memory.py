"""The KV cache of an engine: blocks of prompts that are shared and kept, and tokens that are a branch's own."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from profiler.steptime import KV_BLOCK_TOKENS


@dataclass(frozen=True, slots=True)
class Prompt:
    """`blocks`: of every whole block, a hash of the prompt up to its end: equal hashes are equal prefixes."""

    tokens: int
    blocks: tuple[int, ...] = ()

    @property
    def tail(self) -> int:
        """Tokens after the last whole block."""
        return self.tokens - len(self.blocks) * KV_BLOCK_TOKENS

    @property
    def key(self) -> tuple[int, int]:
        """Equal for prompts that share all their whole blocks and their length."""
        return (self.blocks[-1] if self.blocks else 0, self.tokens)


class KvMemory:
    """Counts tokens. A prompt's blocks that nobody uses stay, longest unused first out, until their place is needed:
    they count as free. `own`: tokens that are no whole block of a prompt; the engine keeps that number."""

    def __init__(self, tokens: int, *, prefix_caching: bool = True) -> None:
        self.tokens = tokens
        self._caching = prefix_caching
        self._used: dict[int, int] = {}  # block → branches
        self._kept: OrderedDict[int, None] = OrderedDict()

    @property
    def in_blocks(self) -> int:
        """Tokens in blocks that some branch uses."""
        return len(self._used) * KV_BLOCK_TOKENS

    def cached_tokens(self, prompt: Prompt) -> int:
        """Of a prompt's start; at least one token is always left to compute."""
        if not self._caching:
            return 0
        found = 0
        for block in prompt.blocks:
            if block not in self._used and block not in self._kept:
                break
            found += 1
        if found * KV_BLOCK_TOKENS >= prompt.tokens:
            found -= 1
        return max(0, found) * KV_BLOCK_TOKENS

    def new_tokens(self, prompt: Prompt) -> int:
        """What taking the prompt in would use of the free tokens."""
        if not self._caching:
            return prompt.tokens
        return prompt.tail + KV_BLOCK_TOKENS * sum(block not in self._used for block in prompt.blocks)

    def own_of(self, prompt: Prompt) -> int:
        """Tokens of the prompt that belong to its branch alone."""
        return prompt.tail if self._caching else prompt.tokens

    def take(self, prompt: Prompt) -> None:
        if not self._caching:
            return
        used, kept = self._used, self._kept
        for block in prompt.blocks:
            branches = used.get(block)
            if branches is None:
                kept.pop(block, None)
                used[block] = 1
            else:
                used[block] = branches + 1

    def give_back(self, prompt: Prompt) -> None:
        if not self._caching:
            return
        used, kept = self._used, self._kept
        for block in reversed(prompt.blocks):  # a prefix outlives what follows it
            branches = used[block] - 1
            if branches:
                used[block] = branches
            else:
                del used[block]
                kept[block] = None

    def make_room(self, own: float) -> None:
        """Forget kept blocks, the longest unused first, until all fits."""
        room = (self.tokens - own) // KV_BLOCK_TOKENS - len(self._used)
        while len(self._kept) > max(0, room):
            self._kept.popitem(last=False)

    def clear(self) -> None:
        self._used.clear()
        self._kept.clear()
