"""Traces and their cost sums on disk: SQLite by default, PostgreSQL by URL.

`store.py` is the queue and its writer thread; `sqlite.py` and `postgres.py` are the databases behind it
(`database.py`); `costs.py` sums what requests cost; `queries.py` reads.
"""

from proxy.trace_store.costs import GroupBy
from proxy.trace_store.database import StoreError, UnknownTrace
from proxy.trace_store.queries import Page
from proxy.trace_store.store import Finish, TraceStore

__all__ = ["Finish", "GroupBy", "Page", "StoreError", "TraceStore", "UnknownTrace"]
