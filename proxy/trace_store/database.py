"""What a database must do for the trace store, and how it fails.

StoreError            with a message for the operator
├── Unavailable       not now: the same rows may be accepted later
├── Refused           never: something about these rows
└── UnknownTrace      asked for by a reader
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from proxy.trace import Trace
from proxy.trace_store.costs import CostSum


class StoreError(Exception):
    """The trace store cannot be used; the message names it and says why. It holds no password."""


class Unavailable(StoreError):
    """`brief`: the kind of trouble, without the store's address: for everyone's eyes."""

    def __init__(self, message: str, brief: str) -> None:
        super().__init__(message)
        self.brief = brief


class Refused(StoreError):
    """The rows of this transaction, or one of them, will never be accepted."""


class UnknownTrace(StoreError):
    """No trace has this id."""


class Row(NamedTuple):
    """A finished trace and its JSON. `model`: what its costs are booked under."""

    trace: Trace
    record: str
    model: str


class Transaction(ABC):
    """All of it is kept, or none. Every method raises Unavailable, Refused."""

    @abstractmethod
    def insert(self, rows: Sequence[Row]) -> None: ...

    @abstractmethod
    def add(self, sums: Iterable[CostSum]) -> None: ...


class Database(ABC):
    """Its writing methods belong to one thread; `read` may be called from any. Every method raises Unavailable, Refused
    or, where only the operator can help, StoreError."""

    name: str  # for messages
    traces: str  # names of its tables
    costs: str

    @abstractmethod
    def prepare(self) -> None:
        """Make what is missing."""

    @abstractmethod
    def transaction(self) -> AbstractContextManager[Transaction]:
        """Committed on leaving, undone on an error. Nothing is locked before the first row."""

    @abstractmethod
    def forget(self, before: float, limit: int) -> int:
        """Delete at most `limit` traces that were received before then (Unix seconds), or the oldest where the store
        is larger than it may be; how many were."""

    @abstractmethod
    def read(self, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Places are `?`. No rows where nothing was ever written."""

    @abstractmethod
    def close(self) -> None:
        """Never fails."""
