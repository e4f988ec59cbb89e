"""What a backend can do, found out by asking it: once it serves, and again when it comes back.

Each question costs the engine a token or none. A backend that refuses the parameter cannot; one that could not be asked
is unknown, and a request that insists may try.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec

from proxy.upstream.errors import UpstreamError
from proxy.upstream.fetch import fetch
from strategies.base import TOP_LOGPROBS, Need

if TYPE_CHECKING:
    from proxy.backend import Backend

PROBE_USER = "paretoproxy-probe"  # OpenAI's `user` member: an operator sees in the engine's log who asks
TIMEOUT_S = 20.0
# Ends as a step does: some templates trim that, and the model would go on otherwise.
PROBE_TEXT = "<think>\nOne moment\n"
PROBE_QUESTION: list[dict[str, Any]] = [{"role": "user", "content": "1"}]
# Members that engines refuse, or not, by how they were started.
_MEMBERS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "chat": {},
        "logprobs": {"logprobs": True, "top_logprobs": TOP_LOGPROBS},
        "min_p": {"min_p": 0.01},
        "logit_bias": {"logit_bias": {"1": 0.0}},
        "priority": {"priority": 1},
        "thinking_token_budget": {"thinking_token_budget": 16},
    }
)
ENGINE_NEEDS = {Need.CHAT: "chat", Need.LOGPROBS: "logprobs", Need.CONTINUATION: "continuation"}


@dataclass(frozen=True, slots=True)
class Capabilities:
    """`able`: by name, whether the engine can; a name that is not there is not known. `max_model_len`: tokens of its
    context; None where it does not say. `problem`: why it cannot what it is there for."""

    able: Mapping[str, bool] = field(default_factory=dict)
    max_model_len: int | None = None
    problem: str | None = None

    def meets(self, need: Need, *, unless_known: bool) -> bool:
        """Whether the engine can what the need asks of engines; `unless_known`: what to say where it was not asked."""
        name = ENGINE_NEEDS.get(need)
        return True if name is None else self.able.get(name, unless_known)


async def find_out(backend: Backend) -> Capabilities:
    """Asks the backend. Raises UpstreamError, TimeoutError where it does not answer."""
    names = list(_MEMBERS)
    answers = [await _accepts(backend, _MEMBERS[name]) for name in names]
    able = dict(zip(names, answers, strict=True))
    able["continuation"] = await _continues(backend)
    return Capabilities(able, await _max_model_len(backend))


async def _accepts(backend: Backend, members: Mapping[str, Any]) -> bool:
    body = {"model": backend.model, "messages": PROBE_QUESTION, "max_tokens": 1, "temperature": 0, "user": PROBE_USER}
    request = backend.head("/v1/chat/completions").with_body(msgspec.json.encode({**body, **members}))
    status, answer = await fetch(backend.pool, request, TIMEOUT_S)
    if status in (401, 403, 408, 429) or status >= 500:
        raise UpstreamError(f"a capability probe was answered {status}: {answer[:200]!r}")
    return status == 200


class _Card(msgspec.Struct):
    id: str
    max_model_len: int | None = None


class _Cards(msgspec.Struct):
    data: list[_Card]


async def _max_model_len(backend: Backend) -> int | None:
    status, answer = await fetch(backend.pool, backend.get("/v1/models"), TIMEOUT_S)
    try:
        cards = msgspec.json.decode(answer, type=_Cards).data if status == 200 else []
    except msgspec.DecodeError:
        return None
    return next((card.max_model_len for card in cards if card.id == backend.model), None)


class _Tokens(msgspec.Struct):
    tokens: list[int]


async def _continues(backend: Backend) -> bool:
    """The prompt of a continued answer must be the prompt of the question with the text after it: a chat template that
    rewrites earlier thinking would have the model go on from something else."""
    asked = await _tokens(backend, {"messages": PROBE_QUESTION, "add_generation_prompt": True})
    going_on = [*PROBE_QUESTION, {"role": "assistant", "content": PROBE_TEXT}]
    continued = await _tokens(
        backend, {"messages": going_on, "add_generation_prompt": False, "continue_final_message": True}
    )
    text = await _tokens(backend, {"prompt": PROBE_TEXT, "add_special_tokens": False})
    if not (asked and continued and text):
        return False
    # The last token of the prompt and the first of the text may have become one.
    return continued[: len(asked) - 1] == asked[:-1] and continued[-len(text) + 1 :] == text[1:]


async def _tokens(backend: Backend, body: dict[str, Any]) -> list[int]:
    request = backend.head("/tokenize").with_body(msgspec.json.encode({"model": backend.model, **body}))
    status, answer = await fetch(backend.pool, request, TIMEOUT_S)
    try:
        return msgspec.json.decode(answer, type=_Tokens).tokens if status == 200 else []
    except msgspec.DecodeError:
        return []


async def keep_up(backend: Backend, ask: Callable[[Backend], Awaitable[Capabilities]] = find_out) -> bool:
    """Ask if that was not done since the backend came (back), or if it could not what it is there for; whether it is
    known now."""
    if (backend.capabilities is None or backend.problem is not None) and backend.health.serving:
        try:
            backend.capabilities = await ask(backend)
        except (UpstreamError, TimeoutError):
            return False
    return backend.capabilities is not None
