"""Who may ask, and what: the client's API key, and the rights that come with it."""

from __future__ import annotations

from proxy.client_keys import ANYBODY, Caller, Keys, expired
from proxy.errors import Forbidden, Unauthorized
from proxy.upstream.connection import Headers

MOST_KEY_BYTES = 512


def authorize(keys: Keys | None, headers: Headers) -> Caller:
    """`keys` None: the proxy is open. Raises Unauthorized; Forbidden for a key that was switched off."""
    if keys is None:
        return ANYBODY
    given = next((value for name, value in headers if name == b"authorization"), b"")
    token = given[7:].strip() if given[:7].lower() == b"bearer " else b""
    caller = keys.find(token) if len(token) <= MOST_KEY_BYTES else None
    if caller is None:
        raise Unauthorized("Missing or unknown API key; send `Authorization: Bearer KEY`.", code="invalid_api_key")
    if caller.disabled:
        raise Forbidden(f"The API key {caller.name!r} is disabled.", code="api_key_disabled")
    if expired(caller):
        raise Unauthorized(f"The API key {caller.name!r} has expired.", code="api_key_expired")
    return caller


def check_model(caller: Caller, model: str) -> None:
    """Raises Forbidden."""
    allowed = caller.limits.models
    if allowed is not None and model not in allowed:
        raise Forbidden(
            f"The API key {caller.name!r} may use the models {', '.join(sorted(allowed))}; not {model[:200]!r}.",
            param="model",
            code="model_not_allowed",
        )


def check_strategy(caller: Caller, strategy: str) -> None:
    """Of a pinned one. Raises Forbidden."""
    allowed = caller.limits.strategies
    if allowed is not None and strategy != "none" and strategy not in allowed:
        raise Forbidden(
            f"The API key {caller.name!r} may use the strategies {', '.join(sorted(allowed | {'none'}))}; "
            f"not {strategy[:100]!r}.",
            param="x-tts-strategy",
            code="strategy_not_allowed",
        )


def check_samples(caller: Caller, samples: int, param: str) -> None:
    """Raises Forbidden where the client itself asks for more samples than its key allows."""
    most = caller.limits.max_n
    if most is not None and samples > most:
        raise Forbidden(
            f"{param}: {samples} samples were asked for; the API key {caller.name!r} allows {most} a request (max_n).",
            param=param,
            code="too_many_samples",
        )


def check_admin(caller: Caller) -> None:
    """Raises Forbidden."""
    if not caller.admin:
        raise Forbidden(f"The API key {caller.name!r} is not an admin's (`admin: true`).", code="admin_only")
