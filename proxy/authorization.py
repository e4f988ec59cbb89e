"""Who may ask: the clients' API keys."""

from __future__ import annotations

import hmac
from collections.abc import Iterable

from proxy.errors import Unauthorized
from proxy.upstream.connection import Headers


def authorize(keys: Iterable[str] | None, headers: Headers) -> None:
    """`keys` None: the proxy is open. Raises Unauthorized."""
    if keys is None:
        return
    given = next((value for name, value in headers if name == b"authorization"), b"")
    token = given[7:] if given[:7].lower() == b"bearer " else b""
    # Every key is compared, in constant time each: the time taken says nothing about which was near.
    if not any([hmac.compare_digest(token, key.encode()) for key in keys]):
        raise Unauthorized("Missing or unknown API key; send `Authorization: Bearer KEY`.", code="invalid_api_key")
