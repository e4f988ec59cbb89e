"""What may be asked of cost sums: groups and days, as clients and operators write them."""

from __future__ import annotations

from datetime import date, datetime

from proxy.errors import InvalidRequest
from proxy.trace_store.costs import GROUPS, GroupBy


def groups_of(text: str) -> list[GroupBy]:
    """Raises InvalidRequest for a name that is none."""
    groups: list[GroupBy] = []
    for name in filter(None, (part.strip() for part in text.split(","))):
        group = next((known for known in GROUPS if known == name), None)
        if group is None:
            raise InvalidRequest(f"group_by: {name!r} is none of {', '.join(GROUPS)}", param="group_by")
        if group not in groups:
            groups.append(group)
    return groups


def day_of(name: str, text: str | None) -> date | None:
    """Raises InvalidRequest for what is no day."""
    if text is None:
        return None
    try:
        return datetime.strptime(text, "%Y-%m-%d").date()
    except ValueError:
        raise InvalidRequest(f"{name}: expected a day as in 2026-01-31, got {text!r}", param=name) from None
