"""Tenants whose prefix caches stay apart: the salt that engines put into the hashes of a request's cached blocks.

Without it one tenant could tell from its time to first token whether another has lately sent a text that begins alike.
"""

from __future__ import annotations

from proxy.call import Call
from proxy.client_keys import Caller, salted
from proxy.errors import InvalidRequest

_UNCACHED = ("/tokenize", "/detokenize")


def cache_salt(caller: Caller, call: Call) -> str | None:
    """What is sent along as `cache_salt`; None: nothing is changed. Raises InvalidRequest.

    A client's own salt divides its tenant's cache further, and can never name another tenant's.
    """
    own, tenant = call.peek.cache_salt, caller.cache_salt
    if tenant is None or call.path in _UNCACHED:
        return None
    if own is None:
        return tenant
    if not isinstance(own, str) or not own:
        raise InvalidRequest("cache_salt: expected a text that is not empty", param="cache_salt")
    return salted(tenant, own)
