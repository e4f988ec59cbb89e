"""Step-wise search on a process reward: the paths, one wave of steps, and the scores of what it gave.

A step is what a model writes up to the `delimiter`. Every step is a generation that goes on from its path's text, so
the text of a path's last branch is the whole answer so far: the client gets the winner's last branch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Literal

from pydantic import Field, model_validator

from strategies.answers import split_thinking
from strategies.base import MAX_BRANCHES, Branch, Context, Generation
from strategies.base import Params as BaseParams

MOST_BLANK_STEPS = 3
"""After so many empty steps in a row a path is written to its end in one go: a chat template that trims what is gone
on from makes the model write the delimiter again and again."""


class SearchParams(BaseParams):
    r"""`delimiter` ends a step: "\n", or "\n\n" as is usual for large models; the reward model should end its steps
    there too. At `max_steps` a path is written to its end. `aggregate`: a path's reward from those of its steps.
    `pick`: among finished paths, by the sum of rewards per answer, or by the best reward."""

    n: int = Field(8, ge=1, le=MAX_BRANCHES)
    delimiter: str = Field("\n", min_length=1, max_length=32)
    max_steps: int = Field(40, ge=1, le=256)
    aggregate: Literal["last", "min", "product"] = "last"
    pick: Literal["weighted-vote", "reward"] = "weighted-vote"


class ExpandingParams(SearchParams):
    """`expand`: how many next steps each kept path is tried with (M in the papers); n is a multiple of it."""

    expand: int = Field(4, ge=1, le=MAX_BRANCHES)

    @model_validator(mode="before")
    @classmethod
    def _few(cls, data: object) -> object:
        if isinstance(data, dict) and "expand" not in data and isinstance(n := data.get("n"), int) and 1 <= n < 4:
            return {**data, "expand": n}
        return data

    @model_validator(mode="after")
    def _whole(self) -> ExpandingParams:
        if self.n % self.expand:
            more = self.n + self.expand - self.n % self.expand
            less = max(m for m in range(1, self.expand) if self.n % m == 0) if self.expand < self.n else self.n
            raise ValueError(
                f"n ({self.n}) must be a multiple of expand ({self.expand}): n {more} would do, or expand {less}"
            )
        return self


@dataclass(frozen=True, slots=True, eq=False)
class Path:
    """An answer as far as it has come; two are equal only if they are one.

    `tokens`: of all its steps. `blank_steps`: empty ones in a row, at its end. `scores`: per step, 0 to 1; while
    `judged` is False, they and the `reward` are those of the path that it went on from. `branch`: its last step's;
    None before the first. `tree`: the subtree it belongs to, where a search has several.
    """

    text: str = ""
    tokens: int = 0
    steps: int = 0
    blank_steps: int = 0
    scores: tuple[float, ...] = ()
    reward: float = 0.0
    judged: bool = False
    branch: Branch | None = None
    finished: bool = False
    tree: int = 0

    @property
    def stuck(self) -> bool:
        """Only empty steps come, or came until it was written to its end in one go."""
        return self.blank_steps >= MOST_BLANK_STEPS


async def advance(
    context: Context, paths: Sequence[Path], params: SearchParams, *, to_the_end: bool = False
) -> list[Path]:
    """One wave: each unfinished path by a step (`to_the_end`: by all that is left). A path that stands in `paths` k
    times gets k continuations; finished ones are passed on. What failed, or had not arrived at the deadline, is gone.
    """
    going = [path for path in paths if not path.finished]
    arrived: dict[int, Branch] = {}
    steps = [_step(path, params, context.max_tokens, to_the_end) for path in going]
    async with context.sample(steps) as arrivals:
        async for branch in arrivals:
            arrived[branch.place] = branch
    grown = [_grown(going[at], arrived[at], steps[at], context.max_tokens) for at in sorted(arrived)]
    return [*(path for path in paths if path.finished), *grown]


async def scored(context: Context, paths: Sequence[Path], params: SearchParams) -> list[Path]:
    """The same paths, each with the reward of its last step too; equal texts are asked once. Raises NoScore."""
    texts = list(dict.fromkeys(path.text for path in paths if not path.judged))
    if not texts:
        return list(paths)
    scores = dict(zip(texts, await context.score(texts, "process-reward", so_far=True), strict=True))
    return [path if path.judged else _judged(path, scores[path.text], params) for path in paths]


def _step(path: Path, params: SearchParams, limit: int | None, to_the_end: bool) -> Generation:
    whole = to_the_end or path.steps + 1 >= params.max_steps or path.stuck
    return Generation(
        continues=path.text,
        stop=() if whole else (params.delimiter,),
        max_tokens=None if limit is None else limit - path.tokens,
    )


def _grown(path: Path, branch: Branch, step: Generation, limit: int | None) -> Path:
    new, tokens = branch.text[len(path.text) :], path.tokens + branch.tokens
    goes_on = branch.finish_reason != "length" and (limit is None or tokens < limit)
    goes_on = goes_on and any(new.endswith(delimiter) for delimiter in step.stop) and not states_answer(branch.text)
    return replace(
        path,
        text=branch.text,
        tokens=tokens,
        steps=path.steps + 1,
        blank_steps=path.blank_steps if not step.stop else 0 if new.strip() else path.blank_steps + 1,
        judged=False,
        branch=branch,
        finished=not goes_on,
    )


def _judged(path: Path, scores: Sequence[float], params: SearchParams) -> Path:
    """A text without a step to score keeps the reward it had."""
    reward = aggregated(scores, params.aggregate) if scores else path.reward
    return replace(path, scores=tuple(scores) or path.scores, reward=reward, judged=True)


def aggregated(scores: Sequence[float], how: Literal["last", "min", "product"]) -> float:
    """One reward from at least one step's."""
    return scores[-1] if how == "last" else min(scores) if how == "min" else prod(scores)


def states_answer(text: str) -> bool:
    r"""Whether the visible text has a whole `\boxed{…}`: what would follow is no reasoning."""
    visible = split_thinking(text)[1]
    box = visible.rfind("\\boxed{")
    return box >= 0 and "}" in visible[box:]
