"""What a strategy is, and all that it may know: the contract on one screen.

A strategy asks its context for branches and returns which of them answer the request. It never sees HTTP, a clock, a
backend or a price: the context meters every branch, ends the arrivals at the deadline, and cancels what is left when
the strategy leaves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Generic, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

MAX_BRANCHES = 256


class Need(StrEnum):
    """What a strategy cannot run without."""

    ANSWERS = "answers"  # a task that says how final answers are grouped
    SAMPLING = "sampling"  # a temperature above 0: identical branches have nothing to vote on


@dataclass(frozen=True, slots=True)
class Branch:
    """A finished generation. `tokens` counts completion tokens, reasoning included."""

    index: int
    text: str
    tokens: int
    finish_reason: str | None


@dataclass(frozen=True, slots=True)
class Answer:
    """A final answer's class among the request's branches (numbered in order of first sight), and as written."""

    group: int
    text: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """`ranking`: branch indices, best first, at most one per distinct answer, then the rest of the finished ones.

    `agreement`: the winner's share of the votes, 0 to 1; None where nothing voted. An empty ranking means that no
    branch finished: the caller then answers with the longest unfinished one.
    """

    ranking: tuple[int, ...]
    agreement: float | None = None
    answer: str | None = None
    votes: int = 0


class Context(Protocol):
    """What the proxy (or a test) gives a running strategy."""

    def sample(self, count: int) -> AbstractAsyncContextManager[AsyncIterator[Branch]]:
        """Start `count` branches together; iterate over those that finish, in order of arrival.

        The iteration ends when no branch is left or the deadline has come; a failed branch just never arrives.
        Leaving the
        context cancels the branches still running.
        """
        ...

    async def answer(self, branch: Branch) -> Answer | None:
        """The class of the branch's final answer; None abstains: it never votes."""
        ...


class StopRule(Protocol):
    """When the answer can no longer usefully change. Shared by the running strategy and the prediction of it."""

    def decided(self, votes: Sequence[int], arrived: int, total: int) -> bool:
        """`votes`: counts per answer class; `arrived` of `total` branches have finished (abstentions included)."""
        ...


@dataclass(frozen=True, slots=True)
class Shape:
    """How a strategy spends, for prediction: `branches` start together and run until `stop` says so."""

    branches: int
    stop: StopRule


class Params(BaseModel):
    """Bounded parameters; an unknown or out-of-range one is the client's error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


P = TypeVar("P", bound=Params)


class Strategy(ABC, Generic[P]):
    """One file each, registered under the entry point group `paretoproxy.strategies`."""

    name: ClassVar[str]
    params_type: ClassVar[type[Params]]
    needs: ClassVar[frozenset[Need]] = frozenset()

    def __init__(self, params: P) -> None:
        self.params = params

    @classmethod
    @abstractmethod
    def grid(cls) -> list[Params]:
        """The settings that `auto` considers, cheapest first."""

    @classmethod
    def pin(cls, n: int) -> dict[str, int]:
        """The parameters that `x-tts-n: n` stands for."""
        return {"n": n}

    @abstractmethod
    def shape(self) -> Shape:
        """Branches and stop rule of these parameters."""

    @abstractmethod
    async def run(self, context: Context) -> Outcome:
        """Sample, decide, return. Raises nothing of its own."""
