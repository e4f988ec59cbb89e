"""`GET /v1/costs`: what requests cost together, and where the fleet's wall-clock time went since this process began."""

from __future__ import annotations

import asyncio
from typing import Any

from proxy.cost_query import day_of, groups_of
from proxy.errors import InvalidRequest
from proxy.service import Service


async def costs_view(
    service: Service, group_by: str, since: str | None, until: str | None, key: str | None = None
) -> dict[str, Any]:
    """`group_by`: names with commas between; `since`, `until`: days (UTC), both included; `key`: of whose requests,
    without the fleet's time, which is the operator's to know; None: of all. Raises InvalidRequest."""
    groups, first, last = groups_of(group_by), day_of("since", since), day_of("until", until)
    if first is not None and last is not None and last < first:
        raise InvalidRequest(f"until: {last} is before since, {first}", param="until")
    rows = await asyncio.to_thread(service.traces.costs, groups, first, last, key)
    told: dict[str, Any] = {
        "object": "costs",
        "group_by": list(groups),
        "since": first.isoformat() if first is not None else None,
        "until": last.isoformat() if last is not None else None,
        "data": rows,
    }
    if key is None:
        told["fleet"] = {backend.name: backend.spending.told() for backend in service.catalog.by_name.values()}
    return told
