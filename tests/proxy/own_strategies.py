"""Small strategies of the tests' own: each is its `run`, so that a test says on the spot what is asked.

async def ask(context: Context) -> Outcome: ...
backend, proxy = await fleet.one(strategy(ask))
await proxy.ask(pinned())
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from http_rig import chat

from strategies.base import Branch, Context, Generation, Need, Outcome, Params, Shape, Strategy
from strategies.stopping import All

Run = Callable[[Context], Awaitable[Outcome]]
NAME = "own"


def strategy(
    run: Run, *, name: str = NAME, needs: Iterable[Need] = (), branches: int = 2, waves: int = 2
) -> type[Strategy[Any]]:
    """One without parameters."""

    class Own(Strategy[Params]):
        params_type = Params

        @classmethod
        def grid(cls) -> list[Params]:
            return [Params()]

        @classmethod
        def pin(cls, n: int) -> dict[str, int]:
            return {}

        def shape(self) -> Shape:
            return Shape(branches, All(), waves=waves, votes=False)

        async def run(self, context: Context) -> Outcome:
            return await run(context)

    Own.name, Own.needs = name, frozenset(needs)
    return Own


def pinned(name: str = NAME, **members: Any) -> dict[str, Any]:
    """A chat completion that runs it."""
    return chat(tts={"strategy": name}, **members)


async def gathered(context: Context, what: int | Sequence[Generation]) -> list[Branch]:
    """One wave, to its end, in order of start."""
    async with context.sample(what) as arrivals:
        return sorted([branch async for branch in arrivals], key=lambda branch: branch.index)


def ranked(branches: Iterable[Branch]) -> Outcome:
    return Outcome(tuple(branch.index for branch in branches))


def asks(*generations: Generation) -> Run:
    """One wave of these; the last one answers."""

    async def run(context: Context) -> Outcome:
        return ranked(reversed(await gathered(context, generations)))

    return run
