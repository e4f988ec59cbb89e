"""A trace as JSON and back. Records leave out what has its default value; reading puts it back."""

from __future__ import annotations

from typing import Any

import msgspec

from proxy import branch_ledgers
from proxy.trace import Trace

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Trace).decode


def encoded(trace: Trace) -> str:
    return _encode(trace).decode()


def plain(record: str) -> dict[str, Any]:
    """Every member, defaults included."""
    trace = _decode(record)
    trace.request_id = trace.request_id or trace.id
    whole: dict[str, Any] = _whole(trace)
    for row, costs in zip(whole["branches"], branch_ledgers.of_branches(trace), strict=True):
        row["ledgers"] = _whole(costs)
    return whole


def _whole(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return {name: _whole(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {name: _whole(item) for name, item in value.items()}
    return value
