"""The body that branches send: the client's own bytes, member by member, with only the proxy's few changes."""

from __future__ import annotations

import msgspec

from proxy.call import Call

_TRUE = msgspec.Raw(b"true")
# Counts in every chunk make a cancelled branch's tokens exact; fewer, larger chunks cost engine and proxy less CPU.
_STREAM_OPTIONS = msgspec.Raw(b'{"include_usage":true,"continuous_usage_stats":true}')
VOTE_STREAM_INTERVAL = 16


def relayed(call: Call, model: str) -> bytes:
    """A pass-through body: untouched, unless the model goes by another name at the backend or controls are in it."""
    if call.peek.model == model and call.peek.slo is None and call.peek.tts is None:
        return call.body
    members = call.members()
    members["model"] = msgspec.Raw(msgspec.json.encode(model))
    return msgspec.json.encode(members)


def branch(call: Call, model: str, *, live: bool) -> bytes:
    """One branch of a scaled request: streamed, one choice, counted. `live`: its chunks go to the client as they
    come."""
    members = call.members()
    members["model"] = msgspec.Raw(msgspec.json.encode(model))
    members["stream"] = _TRUE
    members["stream_options"] = _STREAM_OPTIONS
    members.pop("n", None)
    members.pop("best_of", None)
    if not live and "stream_interval" not in members:
        members["stream_interval"] = msgspec.Raw(str(VOTE_STREAM_INTERVAL).encode())
    if call.controls.max_tokens is not None and call.max_tokens == call.controls.max_tokens:
        members.pop("max_tokens", None)
        members["max_completion_tokens" if call.chat else "max_tokens"] = msgspec.Raw(str(call.max_tokens).encode())
    return msgspec.json.encode(members)


def with_seed(body: bytes, seed: int) -> bytes:
    """A body whose `seed` is replaced: n branches under one seed would be one answer n times."""
    members = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    members["seed"] = msgspec.Raw(str(seed).encode())
    return msgspec.json.encode(members)
