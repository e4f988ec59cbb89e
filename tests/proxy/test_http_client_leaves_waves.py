"""A client that leaves a strategy of several calls, wherever it is, takes all upstream connections with it within
100 ms (on uvloop, as `serve` runs)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
from http_rig import Fleet, RunningProxy
from own_strategies import gathered, pinned, ranked, strategy
from scripted_backend import Received, begins, says, stalls, until

from strategies.base import Branch, Context, Generation, Outcome

WITHIN_S = 0.1
FOUR = "\\boxed{4}"

whole_or_streamed = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


async def leave(proxy: RunningProxy, body: dict[str, Any], then: list[Received], wanted: int) -> dict[str, Any]:
    """Leave once so many of `then` have arrived; the trace, once all of them are known to have been dropped in time.

    `then`: what is open by that time; a list that grows.
    """
    async with await proxy.connect() as client:
        await client.post(body)
        await until(lambda: len(then) >= wanted)
        left_at = client.leave()
    await until(lambda: all(request.cancelled for request in then))
    assert len(then) == wanted
    assert max(request.left_at - left_at for request in then if request.left_at is not None) < WITHIN_S
    trace = await proxy.trace()
    assert (trace["outcome"], trace["status"]) == ("client_gone", 499)
    return trace


class _At(list[Received]):
    """The requests at a path, as they come."""

    def __init__(self, received: list[Received], paths: Iterable[str], first: int = 0) -> None:
        self._received, self._paths, self._first = received, tuple(paths), first

    def _now(self) -> list[Received]:
        return [request for request in self._received if request.path in self._paths][self._first :]

    def __len__(self) -> int:
        return len(self._now())

    def __iter__(self) -> Any:
        return iter(self._now())


CHAT = ["/v1/chat/completions"]


@whole_or_streamed
async def test_in_a_later_wave(fleet: Fleet, stream: bool) -> None:
    async def refine(context: Context) -> Outcome:
        await gathered(context, 2)
        return ranked(await gathered(context, [Generation(continues="so ")] * 3))

    backend, proxy = await fleet.one(strategy(refine))
    backend.will(says(FOUR), says(FOUR), begins(FOUR, after=2), stalls(), stalls())

    trace = await leave(proxy, pinned(stream=stream), _At(backend.received, CHAT, first=2), 3)

    assert [row["outcome"] for row in trace["branches"]] == ["completed"] * 2 + ["cancelled"] * 3
    assert [row["wave"] for row in trace["branches"]] == [1, 1, 2, 2, 2]


@whole_or_streamed
async def test_in_a_wave_within_a_wave(fleet: Fleet, stream: bool) -> None:
    async def nested(context: Context) -> Outcome:
        found: list[Branch] = []
        async with context.sample(2) as outer:
            async for branch in outer:
                found += await gathered(context, [Generation(continues=branch.text)])
        return ranked(found)

    backend, proxy = await fleet.one(strategy(nested))
    backend.will(says(FOUR), stalls(), stalls())

    trace = await leave(proxy, pinned(stream=stream), _At(backend.received, CHAT, first=1), 2)

    assert [row["outcome"] for row in trace["branches"]] == ["completed", "cancelled", "cancelled"]


@whole_or_streamed
@pytest.mark.parametrize("path", ["/classify", "/tokenize"])
async def test_while_answers_are_scored(fleet: Fleet, stream: bool, path: str) -> None:
    async def best(context: Context) -> Outcome:
        branches = await gathered(context, 2)
        await context.score([branch.text for branch in branches], "reward")
        return ranked(branches)

    rewards = await fleet.pooled("outcome")
    _, proxy = await fleet.one(strategy(best))
    rewards.plays[path] = stalls()

    trace = await leave(proxy, pinned(stream=stream), _At(rewards.received, [path]), 1 if path == "/classify" else 2)

    rows = [("completed", None), ("completed", None)] + [("cancelled", "score")] * (path == "/classify")
    assert [(row["outcome"], row["role"]) for row in trace["branches"]] == rows


async def test_while_the_judge_compares_texts(fleet: Fleet) -> None:
    await fleet.backend("a", "m")
    judge = await fleet.backend("j", "judge")
    proxy = await fleet.proxy(task=None, answers="text", first_model={"judge": "judge", "compare_text": "judge"})
    a = fleet.scripted("a")
    a.will(says("four"), says("4"), says("it is four"))
    judge.otherwise = stalls()
    body = {"strategy": "self-consistency", "n": 3, "stop": "all"}

    trace = await leave(proxy, pinned() | {"tts": body}, _At(judge.received, CHAT), 1)

    assert [(r["backend"], r["outcome"], r["role"]) for r in trace["branches"]][-1] == ("j", "cancelled", "judge")


async def test_between_two_calls_nothing_more_is_asked(fleet: Fleet) -> None:
    """The client leaves while the strategy computes: neither a wave nor a score is started."""
    gate, over = asyncio.Event(), asyncio.Event()
    raised: list[str] = []

    async def compute(context: Context) -> Outcome:
        branches = await gathered(context, 1)
        gate.set()
        await over.wait()
        for ask in (lambda: context.score(["4"], "reward"), lambda: gathered(context, 1)):
            try:
                await ask()
            except Exception as error:
                raised.append(type(error).__name__)
        return ranked(branches)

    rewards = await fleet.pooled("outcome")
    backend, proxy = await fleet.one(strategy(compute))
    async with await proxy.connect() as client:
        await client.post(pinned())
        await gate.wait()
        client.leave()
        await asyncio.sleep(0.05)
        over.set()
        await until(lambda: len(raised) == 2)

    assert raised == ["ClientGone"] * 2
    assert (len(backend.generations), len(rewards.at("/tokenize"))) == (1, 0)
