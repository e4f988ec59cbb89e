"""`GET /v1/traces` and `GET /v1/traces/{id}`."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from fastapi import Query, Request

from proxy.client_keys import Caller
from proxy.errors import Forbidden, InvalidRequest, NotFound, ProxyError, Unavailable
from proxy.service import Service
from proxy.trace_store import StoreError, UnknownTrace


async def list_traces(
    request: Request,
    limit: int = Query(50, ge=1, le=1000),
    after: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    model: str | None = None,
    key: str | None = None,
    strategy: str | None = None,
    backend: str | None = None,
    outcome: str | None = None,
    slo_status: str | None = None,
) -> dict[str, Any]:
    """The newest first, of the caller's own key; an admin's sees all. `after` of an answer, given to the next request,
    lists on; null at the end."""
    own = own_key(request)
    if own is not None and key not in (None, own):
        raise Forbidden(f"The API key {own!r} sees its own requests only.", param="key", code="admin_only")
    names = {"model": model, "key": own or key, "strategy": strategy, "backend": backend}
    page = await asyncio.to_thread(
        _service(request).traces.page,
        limit,
        after=after,
        since=_unix(since),
        until=_unix(until),
        equal={**names, "outcome": outcome, "slo_status": slo_status},
    )
    return {"object": "list", "data": page.records, "has_more": page.after is not None, "after": page.after}


async def one_trace(request: Request, trace_id: str) -> dict[str, Any]:
    # Clients name their traces, so two keys may have given the same id: each finds its own.
    equal = {"id": trace_id, "key": own_key(request)}
    found = await asyncio.to_thread(_service(request).traces.page, 1, equal=equal)
    if not found.records:
        raise NotFound(f"No trace {trace_id!r} (traces appear within a second).", code="trace_not_found")
    return found.records[0]


def own_key(request: Request) -> str | None:
    """Whose requests the caller sees, on a route that asks for a key; None: everybody's."""
    caller: Caller = request.state.caller
    return None if caller.admin else caller.name


def as_proxy_error(error: StoreError) -> ProxyError:
    """Without the store's address: that is the operator's business, and in the log."""
    if isinstance(error, UnknownTrace):
        return InvalidRequest(str(error), param="after")
    return Unavailable("The trace store cannot be read now.", code="traces_unavailable", retry_after_s=5)


def _service(request: Request) -> Service:
    service: Service = request.state.service
    return service


def _unix(moment: datetime | None) -> float | None:
    """Without a zone it is UTC."""
    if moment is None:
        return None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
