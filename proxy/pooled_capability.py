"""Whether a model of the pooling runner gives the scores that it is configured for, found out by asking it for one."""

from __future__ import annotations

from collections.abc import Callable

from proxy.backend import Backend
from proxy.capabilities import PROBE_QUESTION, Capabilities
from proxy.config import PooledKind
from proxy.pooled import CannotScore, PooledModel
from proxy.upstream.errors import UpstreamError
from strategies.base import NoScore

_ANSWER = "1"
_CHAT = [*PROBE_QUESTION, {"role": "assistant", "content": _ANSWER}]


async def find_out(backend: Backend, kind: PooledKind, clock: Callable[[], float]) -> Capabilities:
    """Asks as a strategy does. Raises UpstreamError where it does not answer, or for now cannot tell."""
    model = PooledModel(backend, clock, probes=True)
    try:
        await _scored(model, kind)
    except CannotScore as problem:
        return Capabilities({kind: False}, problem=str(problem))
    except NoScore as error:
        raise UpstreamError(str(error)) from error
    return Capabilities({kind: True})


async def _scored(model: PooledModel, kind: PooledKind) -> None:
    match kind:
        case "outcome":
            await model.classify([(await model.tokens(_CHAT, whole=True)).tokens])
        case "process":
            tokens = await model.tokens(_CHAT, whole=False)
            (row,) = await model.per_token([tokens.tokens])
            if len(row) != len(tokens.tokens) or len(tokens.token_strs or ()) != len(tokens.tokens):
                raise CannotScore(f"{model.backend.name}: a score and a string for each token are needed")
        case "reranker":
            await model.rerank("1", [_ANSWER])
        case "embedding":
            await model.embed([_ANSWER])
