"""What a relayed answer cost in tokens: read off its tail, or, where it tells none, estimated."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from proxy.overrun import Overrun
from proxy.relay import RelaySink
from proxy.unseen_tokens import Pace


class PassedTokens(NamedTuple):
    """Of one relayed answer. `estimated`: of the completion's, those that were not counted."""

    prompt: int = 0
    cached: int | None = None
    completion: int = 0
    estimated: int = 0
    exact: bool = True

    def with_overrun(self, overrun: Overrun, cuts: int) -> PassedTokens:
        """Booked, and with what the engine generated after so many of its answers were cut."""
        more = overrun.booked(self.completion, cuts=cuts if self.completion else 0, exact=self.exact)
        return self._replace(
            completion=self.completion + more, estimated=self.estimated + more, exact=self.exact and not more
        )


NONE = PassedTokens()


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    """In the words of chat completions or of responses."""

    prompt_tokens: int = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: _PromptDetails | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    input_tokens_details: _PromptDetails | None = None


class _Response(msgspec.Struct):
    usage: _Usage | None = None


class _HasUsage(msgspec.Struct):
    usage: _Usage | None = None
    response: _Response | None = None  # the last event of a streamed response


_read = msgspec.json.Decoder(_HasUsage).decode
_read_usage = msgspec.json.Decoder(_Usage).decode


def of_answer(sink: RelaySink) -> PassedTokens | None:
    """What a whole answer says of itself; None where it says nothing."""
    usage = _usage(sink.tail, streamed=sink.events > 0)
    if usage is None:
        return None
    details = usage.prompt_tokens_details or usage.input_tokens_details
    cached = details.cached_tokens if details is not None else None
    completion = usage.completion_tokens or usage.output_tokens
    return PassedTokens(usage.prompt_tokens or usage.input_tokens, cached, completion)


def of_events(sink: RelaySink, *, chat: bool) -> PassedTokens:
    """A stream that told no usage: about a token an event, but for the role's and the last line."""
    others = (1 if chat else 0) + (1 if b"data: [DONE]" in sink.tail else 0)
    tokens = max(0, sink.events - others)
    return PassedTokens(completion=tokens, estimated=tokens, exact=False)


def of_silence(pace: Pace, seconds: float, choices: int, max_tokens: int | None) -> PassedTokens:
    """An answer in one piece that never came, for the client left or the connection broke: what the backend lately
    generates in such a time, for each choice."""
    tokens = pace.tokens_within(seconds) or 0
    tokens = choices * (tokens if max_tokens is None else min(tokens, max_tokens))
    return PassedTokens(completion=tokens, estimated=tokens, exact=False)


def _usage(tail: bytes, *, streamed: bool) -> _Usage | None:
    """From a whole JSON body, or from the last event that has one; None where the answer told none."""
    documents = [tail]
    if streamed:
        documents = [line[6:] for line in tail.split(b"\n") if line.startswith(b"data: {") and b'"usage":{' in line]
    for document in reversed(documents):
        try:
            found = _read(document)
        except msgspec.DecodeError:
            break
        usage = found.usage or (found.response.usage if found.response is not None else None)
        if usage is not None:
            return usage
    return _last_usage(tail)


def _last_usage(tail: bytes) -> _Usage | None:
    """Of a document whose beginning is gone: a long answer keeps its end only."""
    at = tail.rfind(b'"usage":')
    if at < 0:
        return None
    start = at + len(b'"usage":')
    end, depth = start, 0
    for end in range(start, len(tail)):
        depth += (tail[end] == 0x7B) - (tail[end] == 0x7D)
        if not depth and tail[end] not in b" \n\r\t":
            break
    try:
        return _read_usage(tail[start : end + 1])
    except msgspec.DecodeError:
        return None
