"""One client call as the proxy understands it: what it peeks at in the body, the rest stays bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from proxy.config import SloDefaults
from proxy.controls import Controls, read, split_model
from proxy.errors import InvalidRequest
from proxy.upstream.connection import Headers
from strategies.answers import split_thinking

MOST_BEFORE = 4000  # characters: room for the question and the answers in a judge's context
_AFTER = """{before}

The last message, which is to be answered:

{asked}"""


class Peek(msgspec.Struct):
    """The few members that routing needs; all else is left undecoded."""

    model: str
    stream: bool | None = None
    n: int | None = None
    best_of: int | None = None
    temperature: float | None = None
    top_p: Any = None
    top_k: Any = None
    min_p: Any = None
    seed: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stream_options: dict[str, Any] | None = None
    tools: list[Any] | None = None
    slo: Any = None
    tts: Any = None
    optillm_approach: str | None = None
    service_tier: Any = None
    response_format: dict[str, Any] | None = None
    logprobs: bool | int | None = None
    top_logprobs: int | None = None
    cache_salt: Any = None
    kv_transfer_params: Any = None


_peek = msgspec.json.Decoder(Peek)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_whole = msgspec.json.Decoder(dict[str, Any])
T = TypeVar("T")


@dataclass(slots=True)
class Call:
    """`model`: the name without suffix; `headers`: as received, names in lower case; `body`: as received.

    `salt`: of the engine's prefix cache, which keeps tenants apart; None: the client's own, or none.
    """

    path: str
    headers: Headers
    body: bytes
    peek: Peek
    model: str
    controls: Controls
    salt: str | None = None

    @property
    def chat(self) -> bool:
        return self.path == "/v1/chat/completions"

    @property
    def stream(self) -> bool:
        return bool(self.peek.stream)

    @property
    def include_usage(self) -> bool:
        return bool((self.peek.stream_options or {}).get("include_usage"))

    @property
    def answers_wanted(self) -> int:
        return self.peek.n or 1

    @property
    def greedy(self) -> bool:
        return self.peek.temperature == 0

    @property
    def tells_sampling(self) -> bool:
        """The client says how tokens are to be drawn."""
        peek = self.peek
        return any(value is not None for value in (peek.temperature, peek.top_p, peek.top_k, peek.min_p))

    @property
    def max_tokens(self) -> int | None:
        """The tightest of the request's own limit and the control's."""
        limits = (self.peek.max_completion_tokens or self.peek.max_tokens, self.controls.max_tokens)
        given = [limit for limit in limits if limit is not None]
        return min(given) if given else None

    @property
    def top_logprobs(self) -> int | None:
        """As many candidates per token as the client wants to see; None: no log probabilities at all."""
        logprobs = self.peek.logprobs
        if not self.chat:
            return None if logprobs is None or isinstance(logprobs, bool) else logprobs
        return (self.peek.top_logprobs or 0) if logprobs else None

    @property
    def answer_schema(self) -> dict[str, Any] | None:
        """The JSON schema that `response_format` demands."""
        schema = (self.peek.response_format or {}).get("json_schema")
        found = schema.get("schema") if isinstance(schema, dict) else None
        return found if isinstance(found, dict) else None

    def messages(self) -> list[dict[str, Any]]:
        """The chat, or the prompt as its only message; costs a full parse."""
        body = self.decoded()
        if self.chat:
            found = body.get("messages")
            if not isinstance(found, list) or not all(isinstance(message, dict) for message in found):
                raise InvalidRequest("messages: expected a list of messages", param="messages")
            return found
        prompt = body.get("prompt")
        if isinstance(prompt, list) and len(prompt) == 1:
            prompt = prompt[0]
        return [{"role": "user", "content": prompt if isinstance(prompt, str) else ""}]

    def question(self) -> str:
        """What is asked, for a model that sees nothing else of the request: the last user message's text, or the
        prompt, after what was said before it, of which the end is kept."""
        messages = self.messages()
        last = max((at for at, message in enumerate(messages) if message.get("role") == "user"), default=None)
        if last is None:
            return ""
        asked = _text_of(messages[last].get("content"))
        said = [(message.get("role"), _visible(message)) for message in messages[:last]]
        before = "\n\n".join(f"{role}: {text}" for role, text in said if text)
        if not before:
            return asked
        if len(before) > MOST_BEFORE:
            before = f"… {before[-MOST_BEFORE:]}"
        return _AFTER.format(before=before, asked=asked)

    def decoded(self) -> dict[str, Any]:
        """The whole body; costs a full parse."""
        body: dict[str, Any] = _decoded(_whole, self.body)
        return body

    def members(self) -> dict[str, msgspec.Raw]:
        """The body's members, each still the client's own bytes, without the proxy's controls."""
        members = _decoded(_members, self.body)
        members.pop("slo", None)
        members.pop("tts", None)
        members.pop("optillm_approach", None)
        return members


def _visible(message: dict[str, Any]) -> str:
    """Its text without an assistant's thinking."""
    return split_thinking(_text_of(message.get("content")))[1].strip()


def _text_of(content: Any) -> str:
    """Of a message's content: the text, or its text parts."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        return "\n".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def parse(path: str, headers: Headers, body: bytes, defaults: SloDefaults) -> Call:
    """Raises InvalidRequest (bad JSON, wrong types) or InvalidControl."""
    peek = _decoded(_peek, body)
    name, suffix = split_model(peek.model)
    controls = read(headers, peek.slo, peek.tts, suffix, defaults)
    if peek.n is not None and not 1 <= peek.n <= 128:
        raise InvalidRequest(f"n: expected 1 to 128, got {peek.n}", param="n")
    if peek.kv_transfer_params is not None:  # names hosts that engines would talk to
        raise InvalidRequest("kv_transfer_params: is between engines, not for clients", param="kv_transfer_params")
    return Call(path, headers, body, peek, name, controls)


def _decoded(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Raises InvalidRequest. Members that are not decoded are checked too: JSON is UTF-8 throughout."""
    try:
        if not body.isascii():
            body.decode()
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _explain(error) from error
    except RecursionError as error:
        raise InvalidRequest("The request body is nested too deeply.", code="invalid_json") from error


def _explain(error: Exception) -> InvalidRequest:
    text = str(error)
    if isinstance(error, msgspec.ValidationError):
        param = text.rpartition("`$.")[2].rstrip("`") if "`$." in text else None
        if "missing required field `model`" in text:
            return InvalidRequest("The request names no model.", param="model", code="model_missing")
        return InvalidRequest(f"The request body is not valid: {text}", param=param)
    return InvalidRequest(f"The request body is not valid JSON: {text}", code="invalid_json")
