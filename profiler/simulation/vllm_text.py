"""vLLM's bytes: chunks of event streams, whole completions, and the metrics page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from profiler.simulation.engine import Engine
from profiler.steptime import KV_BLOCK_TOKENS

DONE = b"data: [DONE]\n\n"
_encode = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class Piece:
    """What a chunk adds to a choice. `finish_reason` None: more comes."""

    index: int
    text: str
    logprobs: Any = None
    finish_reason: str | None = None
    stop_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int

    def json(self) -> bytes:
        total = self.prompt_tokens + self.completion_tokens
        return b'{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d,"prompt_tokens_details":null}' % (
            self.prompt_tokens,
            total,
            self.completion_tokens,
        )


class StreamWriter:
    """The chunks of one event stream."""

    def __init__(self, identity: str, created: int, model: str, *, chat: bool) -> None:
        kind = "chat.completion.chunk" if chat else "text_completion"
        head = {"id": identity, "object": kind, "created": created, "model": model}
        self._head = b"data: " + _encode(head)[:-1] + b',"choices":['
        self._chat = chat

    def role(self, index: int, usage: Usage | None) -> bytes:
        """A chat's first chunk; a text completion has none."""
        if not self._chat:
            return b""
        delta = b'{"index":%d,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}' % index
        return self._chunk(delta, usage)

    def piece(self, piece: Piece, usage: Usage | None) -> bytes:
        logprobs = b"null" if piece.logprobs is None else _encode(piece.logprobs)
        said = b'"delta":{"content":%b}' if self._chat else b'"text":%b'
        end = b'"finish_reason":null'
        if piece.finish_reason is not None:
            end = b'"finish_reason":"%b","stop_reason":%b' % (piece.finish_reason.encode(), _encode(piece.stop_reason))
        body = b'{"index":%d,%b,"logprobs":%b,%b}' % (piece.index, said % _encode(piece.text), logprobs, end)
        return self._chunk(body, usage)

    def usage(self, usage: Usage) -> bytes:
        return self._chunk(b"", usage)

    def _chunk(self, choice: bytes, usage: Usage | None) -> bytes:
        told = b"" if usage is None else b',"usage":' + usage.json()
        return self._head + choice + b"]" + told + b"}\n\n"


def whole(identity: str, created: int, model: str, pieces: Sequence[Piece], usage: Usage, *, chat: bool) -> bytes:
    """A completion that is not streamed."""
    choices = []
    for piece in pieces:
        said: dict[str, Any] = {"text": piece.text}
        if chat:
            message: dict[str, Any] = {"role": "assistant", "content": piece.text, "refusal": None, "tool_calls": []}
            said = {"message": {**message, "reasoning_content": None}}
        end = {"logprobs": piece.logprobs, "finish_reason": piece.finish_reason, "stop_reason": piece.stop_reason}
        choices.append({"index": piece.index, **said, **end})
    return _encode(
        {
            "id": identity,
            "object": "chat.completion" if chat else "text_completion",
            "created": created,
            "model": model,
            "choices": choices,
            "usage": msgspec.Raw(usage.json()),
            "prompt_logprobs": None,
        }
    )


def metrics_page(engine: Engine, model: str, lies: Mapping[str, float]) -> bytes:
    """The names that vLLM 0.26 exports and that say something here. `lies`: values that replace the true ones."""
    generated, drafts, accepted = engine.totals()
    counters, spec = engine.counters, engine.spec
    told: dict[str, tuple[str, float]] = {
        "num_requests_running": ("gauge", engine.running),
        "num_requests_waiting": ("gauge", engine.queued),
        "kv_cache_usage_perc": ("gauge", engine.kv_usage),
        "num_preemptions": ("counter", counters.preemptions),
        "prompt_tokens": ("counter", counters.prompt_tokens),
        "generation_tokens": ("counter", generated),
        "prefix_cache_queries": ("counter", counters.prompt_tokens),
        "prefix_cache_hits": ("counter", counters.cached_tokens),
        "request_success": ("counter", counters.finished),
    }
    if spec.draft_tokens:
        told["spec_decode_num_drafts"] = ("counter", drafts)
        told["spec_decode_num_draft_tokens"] = ("counter", drafts * spec.draft_tokens)
        told["spec_decode_num_accepted_tokens"] = ("counter", accepted)
    labels = f'engine="0",model_name="{model}"'
    lines = []
    for name, (kind, value) in told.items():
        full = f"{name}_total" if kind == "counter" else name
        said = lies.get(full, lies.get(name, value))
        lines.append(f"# TYPE vllm:{name} {kind}\nvllm:{full}{{{labels}}} {float(said)}")
    blocks = spec.kv_tokens // KV_BLOCK_TOKENS
    caching = spec.prefix_caching
    info = f'block_size="{KV_BLOCK_TOKENS}",enable_prefix_caching="{caching}",engine="0",num_gpu_blocks="{blocks}"'
    lines.append(f"# TYPE vllm:cache_config_info gauge\nvllm:cache_config_info{{{info}}} 1.0\n")
    return "\n".join(lines).encode()
