"""What a strategy is, and all that it may know: the contract on one screen.

A strategy asks its context for branches and scores, and returns which branches answer the request. It never sees HTTP,
a clock, a backend or a price: the context meters every branch, ends the arrivals at the deadline, and cancels what is
left when the strategy leaves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import ClassVar, Generic, Literal, Protocol, Self, TypeVar

from pydantic import BaseModel, ConfigDict

MAX_BRANCHES = 256
TOP_LOGPROBS = 20  # as many as vLLM gives unless told otherwise


class Need(StrEnum):
    """What a strategy cannot run without. A need that nobody meets is the client's error, or, under `auto`, no
    candidate."""

    ANSWERS = "answers"  # a task that says how final answers are grouped
    SAMPLING = "sampling"  # a temperature above 0: identical branches have nothing to vote on
    FREE_SAMPLING = "free-sampling"  # a request that leaves temperature, top_p … to others: the strategy may choose 0
    CHAT = "chat"  # messages, not a bare prompt: a further turn is put after them
    LOGPROBS = "logprobs"  # streamed top log probabilities
    CONTINUATION = "continuation"  # generation that goes on from a given text
    REWARD = "reward"  # an outcome reward model
    PROCESS_REWARD = "process-reward"  # a reward per step
    RERANKER = "reranker"  # scores an answer against a question (`/score`)
    JUDGE = "judge"  # another model that judges
    LARGER_MODEL = "larger-model"  # one to escalate to


Scorer = Literal["reward", "process-reward", "reranker"]
Model = Literal["own", "judge", "larger"]
SCORER_NEEDS: dict[Scorer, Need] = {
    "reward": Need.REWARD,
    "process-reward": Need.PROCESS_REWARD,
    "reranker": Need.RERANKER,
}


class NoScore(Exception):
    """The scorer failed, or the deadline came first: decide without."""


@dataclass(frozen=True, slots=True)
class Generation:
    """What one branch generates, where it differs from the client's own request.

    `turns`: (role, text) after the client's messages; `prompt`: a lone user message instead of them, without the
    request's tools, format and stops. `continues`: the answer begins with this text; so does the branch's text, and
    what the client may be sent. `max_tokens`: at most so many new ones. `confidence`: tell it per token. `final`: may
    answer the client, should it come to that. `temperature`: instead of the request's; `stop`: besides the request's
    own, and the text ends with the one that was met.
    """

    turns: tuple[tuple[str, str], ...] = ()
    prompt: str | None = None
    continues: str = ""
    max_tokens: int | None = None
    temperature: float | None = None
    stop: tuple[str, ...] = ()
    confidence: bool = False
    final: bool = True
    model: Model = "own"

    @property
    def as_asked(self) -> bool:
        """The client's own request, but for how tokens are drawn."""
        return self is WHOLE or replace(self, temperature=None) == WHOLE


WHOLE = Generation()  # the client's request, as it is
GREEDY = Generation(temperature=0.0)  # the same at temperature 0


@dataclass(frozen=True, slots=True)
class Branch:
    """A finished generation. `tokens` counts its new completion tokens, reasoning included.

    `confidence`: per token −mean of its top log probabilities (DeepConf, arXiv 2508.15260), where asked for. `place`:
    among the generations that were started together.
    """

    index: int
    text: str
    tokens: int
    finish_reason: str | None
    confidence: Sequence[float] = ()
    place: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """A branch that still runs, as far as it has come."""

    index: int
    text: str
    tokens: int
    confidence: Sequence[float] = ()
    place: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """A final answer's class among the request's branches (numbered in order of first sight), and as written."""

    group: int
    text: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """`ranking`: branch indices, best first, at most one per distinct answer, then the rest of the finished ones.

    `agreement`: the winner's share of the votes, 0 to 1; None where nothing voted. `note`: what it had to do without.
    An empty ranking means that no branch finished: the caller then answers with the longest unfinished one.
    """

    ranking: tuple[int, ...]
    agreement: float | None = None
    answer: str | None = None
    votes: int = 0
    note: str | None = None


E_co = TypeVar("E_co", covariant=True)


class Arrivals(Protocol[E_co]):
    """Iterates in order of time; ends when no branch is left or the deadline has come. A failed branch never comes."""

    def __aiter__(self) -> Self: ...

    async def __anext__(self) -> E_co: ...

    def drop(self, index: int) -> None:
        """Cancel a branch: it arrives no more."""
        ...


Wave = AbstractAsyncContextManager[Arrivals[Branch]]
WatchedWave = AbstractAsyncContextManager[Arrivals[Branch | Progress]]


class Context(Protocol):
    """What the proxy (or a test) gives a running strategy."""

    @property
    def question(self) -> str:
        """What the client asks, as text: its last user message, or its prompt."""
        ...

    @property
    def max_tokens(self) -> int | None:
        """The request's own limit of a completion."""
        ...

    @property
    def room(self) -> int | None:
        """Tokens that the backend's context has left after the prompt; None: not known. A generation's `max_tokens`
        may be more, and is cut: this is for what must leave room for a part that follows."""
        ...

    @property
    def out_of_time(self) -> bool:
        """The deadline has come: nothing that is started now will arrive. Ask where there is more to do: an answer that
        was told so counts as cut by its deadline."""
        ...

    def sample(self, what: int | Sequence[Generation]) -> Wave:
        """Start branches together (a number: so many of the client's request); iterate over those that finish. Leaving
        the context cancels the branches still running."""
        ...

    def watch(self, what: int | Sequence[Generation], every_tokens: int) -> WatchedWave:
        """The same, with a `Progress` of each branch whenever it has come about so many tokens further."""
        ...

    async def answer(self, branch: Branch) -> Answer | None:
        """The class of the branch's final answer; None abstains: it never votes."""
        ...

    async def score(self, texts: Sequence[str], by: Scorer, *, so_far: bool = False) -> list[list[float]]:
        """Of each answer, as the branch wrote it, its scores, 0 to 1 for rewards: one, or one per step for a process
        reward. Whether the scorer is shown the thinking of a whole answer is its configuration's matter; an answer
        `so_far` is shown as far as it has come. Raises NoScore."""
        ...

    async def similarity(self, texts: Sequence[str]) -> list[list[float]] | None:
        """Cosine similarities of texts, (n, n), by the embedding model; None where there is none or it failed."""
        ...


class StopRule(Protocol):
    """When the answer can no longer usefully change. Shared by the running strategy and the prediction of it."""

    def decided(self, votes: Sequence[int], arrived: int, total: int) -> bool:
        """`votes`: counts per answer class; `arrived` of `total` branches have finished (abstentions included)."""
        ...


@dataclass(frozen=True, slots=True)
class Shape:
    """How a strategy spends, for prediction: `branches` start and run until `stop` says so.

    `window`: they start so many at a time, the next ones when these are over. `waves`: how often, at most, branches
    follow on others that had to end first. `votes`: it answers by the plain vote over arrivals, so that stored samples
    tell its accuracy and cost; of others only runs can (`paretoproxy measure`). `greedy`: the first branch is at
    temperature 0, whatever the request says.
    """

    branches: int
    stop: StopRule
    window: int | None = None
    waves: int = 1
    votes: bool = True
    greedy: bool = False


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

    def required(self) -> frozenset[Need]:
        """What these parameters need: `needs`, and what depends on them."""
        return self.needs

    @abstractmethod
    def shape(self) -> Shape:
        """Branches and stop rule of these parameters."""

    @abstractmethod
    async def run(self, context: Context) -> Outcome:
        """Sample, decide, return. Raises nothing of its own."""
