"""A request's prompt length before routing: counted here, else by a backend's /tokenize, else guessed and marked so."""

from __future__ import annotations

import asyncio

import msgspec

from proxy.backend import Backend
from proxy.call import Call
from proxy.catalog import Served
from proxy.upstream.errors import UpstreamError
from proxy.upstream.fetch import fetch

BYTES_PER_TOKEN = 4.0
IN_THREAD_ABOVE_BYTES = 32 * 1024
REMOTE_TIMEOUT_S = 1.0


async def prompt_length(call: Call, served: Served, ask_for_s: float = REMOTE_TIMEOUT_S) -> tuple[float, bool]:
    """(tokens, exact), within `ask_for_s` where a backend is asked."""
    tokens = await _count_here(call, served)
    if tokens is not None:
        return float(tokens), True
    for backend in served.backends:
        if backend.health.serving and backend.tokenizes:
            remote = await _ask_backend(call, backend, ask_for_s)
            if remote is not None:
                return float(remote), True
            break
    return len(call.body) / BYTES_PER_TOKEN, False


async def _count_here(call: Call, served: Served) -> int | None:
    """A long body is counted in a thread, so that it holds up nobody else."""
    if served.counter is None:
        return None
    count = served.counter.count_chat if call.chat else served.counter.count_completion
    if len(call.body) > IN_THREAD_ABOVE_BYTES:
        return await asyncio.to_thread(lambda: count(call.decoded()))
    return count(call.decoded())


class _Count(msgspec.Struct):
    count: int


async def _ask_backend(call: Call, backend: Backend, within_s: float) -> int | None:
    head = backend.head("/tokenize")
    members = call.members()
    wanted = ("messages", "prompt", "tools", "chat_template_kwargs", "add_generation_prompt", "add_special_tokens")
    body = {key: members[key] for key in wanted if key in members}
    body["model"] = msgspec.Raw(msgspec.json.encode(backend.model))
    try:
        status, answer = await fetch(backend.pool, head.with_body(msgspec.json.encode(body)), within_s)
        if status in (404, 405, 501):  # no vLLM, or a path that is closed: do not ask with every request
            backend.tokenizes = False
        return msgspec.json.decode(answer, type=_Count).count if status == 200 else None
    except (TimeoutError, UpstreamError, msgspec.DecodeError):
        return None
