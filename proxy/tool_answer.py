"""What a branch that calls tools answers: the calls themselves, names and arguments."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from proxy import reply


def tool_answer(events: Sequence[bytes]) -> str | None:
    """The calls in order, as a JSON list of names and arguments (parsed where they are JSON); None without calls."""
    if not any(b'"tool_calls"' in event for event in events):
        return None
    message = reply.message(events)
    calls = [call.get("function") or {} for call in message.get("tool_calls") or ()]
    told = [{"name": call.get("name", ""), "arguments": _parsed(call.get("arguments", ""))} for call in calls]
    return msgspec.json.encode(told).decode() if told else None


def _parsed(arguments: str) -> object:
    try:
        return msgspec.json.decode(arguments or "{}")
    except msgspec.DecodeError:
        return arguments
