"""What a backend's context leaves for a completion. A strategy's own budgets must fit it: engines refuse more.

Only what strategies ask for is fitted; the client's own limit goes to the engine as it came.
"""

from __future__ import annotations

import msgspec

from proxy.backend import Backend
from proxy.tokens import TokenCounter

COUNTED_BYTES = 32 * 1024  # what is counted at once, on the loop


def room(backend: Backend, prompt_tokens: float | None) -> int | None:
    """Tokens after the prompt, at least 1; None where its length or the context's is not known."""
    if backend.max_model_len is None or prompt_tokens is None:
        return None
    return max(1, backend.max_model_len - int(prompt_tokens))


def fitting(
    budget: int, body: bytes, *, backend: Backend, counter: TokenCounter | None, chat: bool, known: float | None
) -> int:
    """At most `budget` tokens for what `body` asks. `known`: tokens of its prompt, as far as they are known otherwise;
    without any count only a budget above the whole context is cut."""
    most = backend.max_model_len
    if most is None or budget + len(body) <= most:  # a token is at least a byte
        return budget
    counted = None
    if counter is not None and len(body) <= COUNTED_BYTES:
        asked = msgspec.json.decode(body)
        counted = counter.count_chat(asked) if chat else counter.count_completion(asked)
    prompt = counted if counted is not None else known if known is not None else 1
    return min(budget, max(1, most - int(prompt)))
