"""Log probabilities of a finished branch, for quality tables, read from the events that every branch keeps anyway."""

from __future__ import annotations

import msgspec

from proxy.branch import BranchStream


class _Token(msgspec.Struct):
    logprob: float


class _Logprobs(msgspec.Struct):
    content: list[_Token] | None = None


class _Choice(msgspec.Struct):
    logprobs: _Logprobs | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []


_UNKNOWN = -9999.0  # what vLLM says where it has none
_decode = msgspec.json.Decoder(_Chunk).decode


def token_logprobs(branch: BranchStream) -> list[float]:
    """The log probability of each token of a chat that asked for them, as the model gave it before temperature.

    Serving pays nothing for it. One event may carry many tokens (`stream_interval`).
    """
    told = [choice.logprobs for event in branch.events for choice in _decode(event).choices[:1]]
    tokens = [token.logprob for logprobs in told if logprobs is not None for token in logprobs.content or ()]
    return [logprob for logprob in tokens if logprob > _UNKNOWN]
