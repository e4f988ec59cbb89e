"""Which request the code that runs belongs to, for log records: set by the handler, inherited by its tasks."""

from __future__ import annotations

from contextvars import ContextVar

current_trace: ContextVar[str | None] = ContextVar("current_trace", default=None)
