"""The answer of a scaled request, built from the winners' events: one JSON body, or SSE chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from proxy.branch import BranchStream
from strategies.answers import split_thinking

_CHUNK_ONLY = frozenset({"usage", "choices", "object", "prompt_token_ids", "prompt_text"})


class Usage(msgspec.Struct):
    """All tokens of all branches. `prompt_tokens` counts the prompt once per branch, as the engine did;
    `reasoning_tokens`: of `completion_tokens`, those of thinking."""

    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    tts: dict[str, Any]

    def json(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
            "tts": self.tts,
        }


def finish_reason(branch: BranchStream) -> str:
    """As upstream gave it; a branch that was cut (by the deadline) ends for length."""
    return branch.finish_reason or "length"


def whole(winners: Sequence[BranchStream], chat: bool, usage: Usage, trace_id: str, model: str, created: int) -> bytes:
    """A chat.completion or text_completion body with one choice per winner, in order."""
    head: dict[str, Any] = {}
    choices = []
    for position, branch in enumerate(winners):
        chunks = [msgspec.json.decode(event) for event in events_of(branch, chat)]
        if chunks and not head:
            head = {key: value for key, value in chunks[0].items() if key not in _CHUNK_ONLY}
        merged = _merge([chunk["choices"][0] for chunk in chunks if chunk.get("choices")], chat)
        choices.append({**merged, "index": position, "finish_reason": finish_reason(branch)})
    body = {
        "id": f"{'chatcmpl' if chat else 'cmpl'}-{trace_id}",
        "created": created,
        "model": model,
        **head,
        "object": "chat.completion" if chat else "text_completion",
        "choices": choices,
        "usage": usage.json(),
    }
    return msgspec.json.encode(body)


def events_of(branch: BranchStream, chat: bool) -> list[bytes]:
    """A branch's events; before those of one that went on from a text, that text, in the shape of the first. A chat of
    the strategy's own that answers a text completion is told as one."""
    events = branch.events
    if not chat and branch.generation.prompt is not None:
        events = [_as_completion(event) for event in events]
    if not branch.continues or not events:
        return events
    first: dict[str, Any] = msgspec.json.decode(events[0])
    first.pop("usage", None)
    said: dict[str, Any] = {"text": branch.continues}
    if chat:
        thinking, content = split_thinking(branch.continues) if branch.reasons_apart else ("", branch.continues)
        if branch.reasons_apart and "</think>" not in branch.continues:
            thinking, content = branch.continues.removeprefix("<think>"), ""
        older = any(b'"reasoning_content":' in event for event in events)
        name = "reasoning_content" if older else "reasoning"  # as the engine says
        told = {name: thinking.removeprefix("<think>"), "content": content}
        said = {"delta": {"role": "assistant", **{key: text for key, text in told.items() if text}}}
    first["choices"] = [{"index": 0, **said, "logprobs": None, "finish_reason": None}]
    return [msgspec.json.encode(first), *events]


def _as_completion(event: bytes) -> bytes:
    """A chat's chunk as one of a text completion; log probabilities have another shape there."""
    members: dict[str, Any] = msgspec.json.decode(event)
    members["object"], members["id"] = "text_completion", f"cmpl-{members['id'].removeprefix('chatcmpl-')}"
    members["choices"] = [
        {
            "index": choice["index"],
            "text": (choice.get("delta") or {}).get("content") or "",
            "logprobs": None,
            "finish_reason": choice.get("finish_reason"),
        }
        for choice in members["choices"]
    ]
    return msgspec.json.encode(members)


def message(events: Sequence[bytes]) -> dict[str, Any]:
    """A chat's streamed deltas as one message."""
    chunks = [msgspec.json.decode(event) for event in events]
    merged = _merge([chunk["choices"][0] for chunk in chunks if chunk.get("choices")], True)
    found: dict[str, Any] = merged["message"]
    return found


def _merge(deltas: list[dict[str, Any]], chat: bool) -> dict[str, Any]:
    """Streamed choices into one: text is joined, tool calls by index, logprobs concatenated, else the last value
    holds."""
    choice: dict[str, Any] = {"logprobs": None}
    message: dict[str, Any] = {"role": "assistant", "content": None}
    text: list[str] = []
    for delta in deltas:
        for key, value in delta.items():
            if key == "delta":
                _merge_message(message, value or {})
            elif key == "text":
                text.append(value or "")
            elif key == "logprobs":
                choice["logprobs"] = _merge_logprobs(choice["logprobs"], value)
            elif key == "token_ids" and value is not None:  # vLLM's return_token_ids: each chunk's own
                choice[key] = (choice.get(key) or []) + value
            elif value is not None or key not in choice:
                choice[key] = value
    if chat:
        if "tool_calls" in message:
            message["tool_calls"] = list(message["tool_calls"].values())
        choice["message"] = message
    else:
        choice["text"] = "".join(text)
    return choice


def _merge_message(message: dict[str, Any], delta: dict[str, Any]) -> None:
    for key, value in delta.items():
        if key == "tool_calls" and value:
            calls = message.setdefault("tool_calls", {})
            for part in value:
                _merge_tool_call(calls.setdefault(part.get("index", 0), {}), part)
        elif key == "role":
            message["role"] = value or message["role"]
        elif isinstance(value, str):
            message[key] = (message.get(key) or "") + value
        elif value is not None:
            message[key] = value


def _merge_tool_call(call: dict[str, Any], part: dict[str, Any]) -> None:
    for key, value in part.items():
        if key == "index":
            continue
        if key == "function" and value:
            function = call.setdefault("function", {"name": "", "arguments": ""})
            function["name"] += value.get("name") or ""
            function["arguments"] += value.get("arguments") or ""
        elif value is not None:
            call[key] = value


def _merge_logprobs(so_far: dict[str, Any] | None, part: dict[str, Any] | None) -> dict[str, Any] | None:
    if part is None or so_far is None:
        return part if so_far is None else so_far
    merged = dict(so_far)
    for key, value in part.items():
        known = merged.get(key)
        if isinstance(known, list) and isinstance(value, list):
            merged[key] = known + value
        elif value is not None or key not in merged:
            merged[key] = value
    return merged


def chunk(event: bytes, index: int) -> bytes:
    """One of a winner's events for the client: without the engine's running usage, under the choice's index."""
    members = msgspec.json.decode(event)
    members.pop("usage", None)
    for choice in members.get("choices", ()):
        choice["index"] = index
    return msgspec.json.encode(members)


def id_of(chunk: bytes) -> str:
    return str(msgspec.json.decode(chunk)["id"])


def with_id(chunk: bytes, chunk_id: str) -> bytes:
    """All chunks of one stream have one id."""
    return msgspec.json.encode({**msgspec.json.decode(chunk), "id": chunk_id})


def reasoning_chunk(text: str, trace_id: str, model: str, created: int) -> bytes:
    """The proxy's own words, as a chat's reasoning delta under the name that vLLM gives it."""
    members = _bare(True, trace_id, model, created)
    members["choices"] = [{"index": 0, "delta": {"reasoning": text}, "logprobs": None, "finish_reason": None}]
    return msgspec.json.encode(members)


def final_chunk(event: bytes | None, index: int, chat: bool, trace_id: str, model: str, created: int) -> bytes:
    """Ends a branch that was cut: an empty delta with finish_reason "length", shaped like the branch's own chunks."""
    members: dict[str, Any] = msgspec.json.decode(event) if event else _bare(chat, trace_id, model, created)
    members.pop("usage", None)
    ending: dict[str, Any] = {"index": index, "logprobs": None, "finish_reason": "length"}
    members["choices"] = [{**ending, "delta": {}} if chat else {**ending, "text": ""}]
    return msgspec.json.encode(members)


def usage_chunk(event: bytes | None, usage: Usage, chat: bool, trace_id: str, model: str, created: int) -> bytes:
    """The last chunk: no choices, the usage."""
    members: dict[str, Any] = msgspec.json.decode(event) if event else _bare(chat, trace_id, model, created)
    members["choices"] = []
    members["usage"] = usage.json()
    return msgspec.json.encode(members)


def _bare(chat: bool, trace_id: str, model: str, created: int) -> dict[str, Any]:
    kind = "chat.completion.chunk" if chat else "text_completion"
    return {
        "id": f"{'chatcmpl' if chat else 'cmpl'}-{trace_id}",
        "object": kind,
        "created": created,
        "model": model,
    }
