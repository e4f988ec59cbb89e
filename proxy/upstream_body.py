"""The body that branches send: the client's own bytes, member by member, with only the proxy's few changes."""

from __future__ import annotations

from typing import Any

import msgspec

from proxy.call import Call
from proxy.errors import InvalidRequest
from strategies.base import TOP_LOGPROBS, WHOLE, Generation

_TRUE = msgspec.Raw(b"true")
# Counts in every chunk make a cancelled branch's tokens exact; fewer, larger chunks cost engine and proxy less CPU.
_STREAM_OPTIONS = msgspec.Raw(b'{"include_usage":true,"continuous_usage_stats":true}')
VOTE_STREAM_INTERVAL = 16


def relayed(call: Call, model: str) -> bytes:
    """A pass-through body: untouched, unless the model goes by another name at the backend or controls are in it; with
    the tenant's salt as one more member."""
    peek = call.peek
    if peek.model == model and peek.slo is None and peek.tts is None and peek.optillm_approach is None:
        if call.salt is None:
            return call.body
        if b"cache_salt" not in call.body:
            return b'%b,"cache_salt":"%b"}' % (call.body.rstrip(b" \t\r\n")[:-1], call.salt.encode())
    members = call.members()
    members["model"] = msgspec.Raw(msgspec.json.encode(model))
    _salt(members, call)
    return msgspec.json.encode(members)


def _salt(members: dict[str, msgspec.Raw], call: Call) -> None:
    if call.salt is not None:
        members["cache_salt"] = _raw(call.salt)


def branch(
    call: Call,
    model: str,
    *,
    live: bool,
    generation: Generation = WHOLE,
    interval: int = VOTE_STREAM_INTERVAL,
) -> bytes:
    """One branch of a scaled request: streamed, one choice, counted. `live`: its chunks go to the client as they
    come, else every `interval` tokens. `generation`: what it does else than the request says (`strategies.base`).

    Raises InvalidRequest where the request is none that a generation could differ from.
    """
    members = call.members() if generation.prompt is None else _of_prompt(generation.prompt)
    members["model"] = msgspec.Raw(msgspec.json.encode(model))
    _salt(members, call)
    members["stream"] = _TRUE
    members["stream_options"] = _STREAM_OPTIONS
    members.pop("n", None)
    members.pop("best_of", None)
    if not live and "stream_interval" not in members:
        members["stream_interval"] = msgspec.Raw(str(interval).encode())
    limited = call.controls.max_tokens is not None and call.max_tokens == call.controls.max_tokens
    if limited and generation.prompt is None:
        members.pop("max_tokens", None)
        members["max_completion_tokens" if call.chat else "max_tokens"] = msgspec.Raw(str(call.max_tokens).encode())
    if generation is not WHOLE:
        _change(members, call, generation)
    return msgspec.json.encode(members)


def _of_prompt(prompt: str) -> dict[str, msgspec.Raw]:
    """A chat of its own: nothing of the client's request but what `_change` adds."""
    return {"messages": _raw([{"role": "user", "content": prompt}])}


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def _change(members: dict[str, msgspec.Raw], call: Call, generation: Generation) -> None:
    chat = call.chat or generation.prompt is not None
    if chat and (generation.turns or generation.continues):
        messages = call.messages() if generation.prompt is None else msgspec.json.decode(members["messages"])
        messages += [{"role": role, "content": text} for role, text in generation.turns]
        if generation.continues:
            messages.append({"role": "assistant", "content": generation.continues})
            members["continue_final_message"], members["add_generation_prompt"] = _TRUE, msgspec.Raw(b"false")
        members["messages"] = _raw(messages)
    elif generation.continues:
        members["prompt"] = _raw(prompt_text(call) + generation.continues)
    if generation.max_tokens is not None:
        members.pop("max_tokens", None)
        members.pop("min_tokens", None)  # may be more
        members["max_completion_tokens" if chat else "max_tokens"] = _raw(generation.max_tokens)
    if generation.temperature is not None:
        members["temperature"] = _raw(generation.temperature)
    if generation.stop:
        own = msgspec.json.decode(members["stop"]) if "stop" in members else None
        stops = [own] if isinstance(own, str) else own if isinstance(own, list) else []
        members["stop"], members["include_stop_str_in_output"] = _raw([*stops, *generation.stop]), _TRUE
    if generation.confidence:
        asked = max(TOP_LOGPROBS, call.top_logprobs or 0)
        if chat:
            members["logprobs"], members["top_logprobs"] = _TRUE, _raw(asked)
        else:
            members["logprobs"] = _raw(asked)


def prompt_text(call: Call) -> str:
    """A prompt that may be continued. Raises InvalidRequest for token ids, which text cannot be put after."""
    prompt = call.decoded().get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise InvalidRequest("prompt: a strategy that goes on from a text needs the prompt as text", param="prompt")
    return prompt


def with_seed(body: bytes, seed: int) -> bytes:
    """A body whose `seed` is replaced: n branches under one seed would be one answer n times."""
    return of_branch(body, seed, None)


def of_branch(body: bytes, seed: int | None, priority: int | None) -> bytes:
    """A body with what differs from branch to branch, where it is told; the client's own `priority` stays."""
    members = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    if seed is not None:
        members["seed"] = msgspec.Raw(b"%d" % seed)
    if priority is not None:
        members.setdefault("priority", msgspec.Raw(b"%d" % priority))
    return msgspec.json.encode(members)
