"""OpenAI messages and tools in the form in which vLLM hands them to a chat template.

Follows vLLM 0.32 (`renderers/chat_utils.py`, `renderers/hf.py`, `ChatCompletionToolsParam`).
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

ContentFormat = Literal["string", "openai"]
"""What a template takes as a message's content: a string, or OpenAI's list of parts."""

Message = dict[str, Any]

_TEXT_FIELD = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
    "thinking": "thinking",
}


class UncountableChat(Exception):
    """The prompt's length cannot be known here: media, or a body that the backend refuses."""


def conversation(messages: Any, content_format: ContentFormat) -> list[Message]:
    """The `messages` of a request as a template gets them; the request is not changed.

    Raises `UncountableChat` for media parts and for what is not a list of messages.
    """
    if not isinstance(messages, list) or not messages:
        raise UncountableChat("messages is not a list of messages")
    return [_message(message, content_format) for message in messages]


def tool_schemas(tools: Any) -> list[dict[str, Any]] | None:
    """The `tools` of a request as vLLM's validated model dumps them: fixed keys, absent ones null.

    Raises `UncountableChat` for a list that vLLM refuses.
    """
    if tools is None:
        return None
    if not isinstance(tools, list) or not tools:
        raise UncountableChat("tools is not a list of tools")
    return [_tool(tool) for tool in tools]


def developer_as_system(messages: list[Message]) -> list[Message]:
    """For templates without a developer role: developer becomes system, all system messages one, first."""
    if not any(message["role"] == "developer" for message in messages):
        return messages
    renamed = [_as_system(message) for message in messages]
    system = [message for message in renamed if message["role"] == "system"]
    if len(system) == 1 and renamed[0] is system[0]:
        return renamed
    texts = [text for message in system if (text := _joined(message["content"]))]
    others = [message for message in renamed if message["role"] != "system"]
    return [{"role": "system", "content": "\n\n".join(texts)}, *others]


def _message(message: Any, content_format: ContentFormat) -> Message:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise UncountableChat("a message without a role")
    role = message["role"]
    parts = list(_parts(message.get("content")))
    result: Message = {"role": role, "content": parts}
    if content_format == "string" or (role == "tool" and all(part["type"] == "text" for part in parts)):
        result["content"] = _joined(parts)
    if role == "assistant":
        result |= _assistant_fields(message)
    if role == "tool" and "tool_call_id" in message:
        result["tool_call_id"] = message["tool_call_id"]
    if role == "developer":
        result["tools"] = message.get("tools")
    return result | {key: message[key] for key in ("name", "task") if isinstance(message.get(key), str)}


def _assistant_fields(message: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    if calls := message.get("tool_calls"):
        yield "tool_calls", [_tool_call(call) for call in calls]
    reasoning = message.get("reasoning")
    if reasoning is None:
        reasoning = message.get("reasoning_content")
    if reasoning is not None:
        yield "reasoning", reasoning
        yield "reasoning_content", reasoning


def _parts(content: Any) -> Iterator[dict[str, str]]:
    """Text parts (`{"type": "text", "text": …}`) and tool references (`{"type": …, "name": …}`)."""
    if content is None:
        return
    if not isinstance(content, str | list):
        raise UncountableChat("content is neither text nor a list of parts")
    for part in [content] if isinstance(content, str) else content:
        if isinstance(part, str):
            yield {"type": "text", "text": part}
            continue
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "tool_reference" and isinstance(part.get("name"), str):
            yield {"type": "tool_reference", "name": part["name"]}
            continue
        text = part.get(_TEXT_FIELD[kind]) if kind in _TEXT_FIELD else None
        if isinstance(text, str):
            yield {"type": "text", "text": text}
        elif text is not None or kind not in ("text", "refusal"):
            raise UncountableChat(f"a content part of type {kind!r}")


def _joined(content: str | list[dict[str, str]]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] if part["type"] == "text" else part["name"] for part in content)


def _tool_call(call: Any) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or call.get("type", "function") != "function":
        raise UncountableChat("a tool call that is not a function call")
    # In the order of OpenAI's types, through which vLLM passes them; other keys are lost there.
    named = {"arguments": _arguments(function.get("arguments")), "name": function.get("name")}
    return {"id": call.get("id"), "function": named, "type": "function"}


def _arguments(arguments: Any) -> dict[str, Any]:
    """Templates want an object; vLLM makes anything else an empty one."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError:
            return {}
    return arguments if isinstance(arguments, dict) else {}


def _tool(tool: Any) -> dict[str, Any]:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or tool.get("type", "function") != "function":
        raise UncountableChat("a tool that is not a function")
    dumped = {key: function.get(key) for key in ("name", "description", "parameters")}
    deferred = tool.get("defer_loading")
    optional = {"strict": function.get("strict"), "defer_loading": function.get("defer_loading", deferred)}
    dumped |= {key: value for key, value in optional.items() if value is not None}
    result: dict[str, Any] = {"type": "function", "function": dumped}
    return result if deferred is None else {**result, "defer_loading": deferred}


def _as_system(message: Message) -> Message:
    if message["role"] != "developer":
        return message
    return {key: value for key, value in message.items() if key != "tools"} | {"role": "system"}
