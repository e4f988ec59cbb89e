"""Strategies of several calls: what they see while branches run, what they drop, and when the deadline comes."""

from __future__ import annotations

import asyncio
import time

import pytest
from http_rig import Fleet, RunningProxy
from own_strategies import gathered, pinned, ranked, strategy
from scripted_backend import PROMPT_TOKENS, ScriptedBackend, begins, drips, says, stalls, until

from proxy.service import FinishTime
from strategies.base import WHOLE, Branch, Context, Generation, Outcome, Progress

FOUR, FIVE = "\\boxed{4}", "\\boxed{5}"
DEADLINE_MS = 400


async def test_progress_tells_the_text_so_far_at_least_so_often(fleet: Fleet) -> None:
    seen: list[Progress] = []

    async def look(context: Context) -> Outcome:
        finished = []
        async with context.watch([Generation(continues="> ")], every_tokens=2) as events:
            async for event in events:
                (seen if isinstance(event, Progress) else finished).append(event)  # type: ignore[arg-type]
        return ranked(finished)  # type: ignore[arg-type]

    backend, proxy = await fleet.one(strategy(look))
    gate = asyncio.Event()
    backend.will(says("0123456789", tokens=10, when=gate))
    asking = asyncio.create_task(proxy.ask(pinned()))
    await until(lambda: bool(seen) and seen[-1].tokens >= 8)
    gate.set()
    await asking

    assert all(each.text == "> 0123456789"[: 2 + each.tokens] for each in seen), "with what it went on from"
    assert all((each.index, each.place) == (0, 0) for each in seen)
    assert backend.generations[0].json["stream_interval"] == 2, "coarser chunks would bring coarser progress"


async def test_a_dropped_branch_ends_at_once_and_is_counted(fleet: Fleet) -> None:
    """Two of four are dropped while they run: their connections close before the others are done."""

    async def prune(context: Context) -> Outcome:
        finished, dropped = [], set()
        async with context.watch(4, every_tokens=2) as events:
            async for event in events:
                if isinstance(event, Branch):
                    finished.append(event)
                elif event.index not in dropped and "5" in event.text:
                    dropped.add(event.index)
                    events.drop(event.index)
        return ranked(finished)

    backend, proxy = await fleet.one(strategy(prune, branches=4, waves=1))
    gate = asyncio.Event()
    backend.will(*[says("44444444", tokens=4, when=gate)] * 2, *[begins("55555555", tokens=4, after=3)] * 2)
    asking = asyncio.create_task(proxy.ask(pinned()))
    await until(lambda: [r.cancelled for r in backend.generations].count(True) == 2)
    gate.set()
    answer = (await asking).json()

    assert answer["choices"][0]["message"]["content"] == "44444444"
    told = answer["usage"]["tts"]
    assert (told["completed"], told["cancelled"], told["failed"]) == (2, 2, 0)
    trace = await proxy.trace()
    assert sorted(branch["outcome"] for branch in trace["branches"]) == ["cancelled"] * 2 + ["completed"] * 2
    tokens = {b["outcome"]: b["completion_tokens"] for b in trace["branches"]}
    assert tokens["completed"] == 4
    assert 0 < tokens["cancelled"] <= 3
    assert answer["usage"]["completion_tokens"] == sum(b["completion_tokens"] for b in trace["branches"])


async def test_a_branch_that_is_dropped_after_it_ended_does_not_arrive(fleet: Fleet) -> None:
    arrived: list[int] = []

    async def late(context: Context) -> Outcome:
        async with context.sample(2) as events:
            async for branch in events:
                arrived.append(branch.index)
                await until(lambda: all(request.over.is_set() for request in backend.generations))
                await asyncio.sleep(0.02)  # the other's end is here, too
                events.drop(1 - branch.index)
        return Outcome(tuple(arrived))

    backend, proxy = await fleet.one(strategy(late))
    await proxy.ask(pinned())

    assert len(arrived) == 1


async def test_waves_follow_each_other_and_nest(fleet: Fleet) -> None:
    """A second wave after the first, and one opened while it runs."""

    async def nested(context: Context) -> Outcome:
        drafts = await gathered(context, 2)
        async with context.sample(2) as outer:
            async for branch in outer:
                again = Generation(turns=(("assistant", branch.text), ("user", "Sure?")))
                (checked,) = await gathered(context, [again])
                return ranked([checked, branch, *drafts])
        return ranked(drafts)

    backend, proxy = await fleet.one(strategy(nested))
    backend.will(says(FIVE), says(FIVE), says("so"), stalls(), says(FOUR, tokens=3))

    answer = (await proxy.ask(pinned())).json()

    assert answer["choices"][0]["message"]["content"] == FOUR
    told = answer["usage"]["tts"]
    assert (told["completed"], told["cancelled"]) == (4, 1)
    trace = await proxy.trace()
    assert [branch["wave"] for branch in trace["branches"]] == [1, 1, 2, 2, 3]
    assert [branch["index"] for branch in trace["branches"]] == [0, 1, 2, 3, 4]
    assert trace["selection"]["winners"] == [4]
    assert trace["completion_tokens"] == 4 + 4 + 4 + 3
    assert trace["prompt_tokens"] == 5 * PROMPT_TOKENS, "a cancelled branch has read its prompt, too"


async def hurried(fleet: Fleet, *own: type) -> tuple[ScriptedBackend, RunningProxy]:
    """A proxy that has measured 200 ms for finishing an answer: these tests do not hang on this machine's speed."""
    backend, proxy = await fleet.one(*own)
    proxy.service.finish_time = FinishTime(mean_s=0.2, deviation_s=0.0)
    return backend, proxy


async def in_time(proxy: RunningProxy) -> dict[str, object]:
    """The answer, which must have come before the deadline."""
    began = time.monotonic()
    answer = await proxy.ask(pinned(), x_slo_latency_ms=str(DEADLINE_MS))
    assert (time.monotonic() - began) * 1e3 < DEADLINE_MS
    assert answer.status_code == 200, answer.text
    told: dict[str, object] = answer.json()["usage"]["tts"]
    assert told["slo_status"] == "degraded"
    return {**told, "text": answer.json()["choices"][0]["message"]["content"]}


async def test_a_deadline_within_a_later_wave_leaves_the_earlier_ones_answer(fleet: Fleet) -> None:
    async def refine(context: Context) -> Outcome:
        drafts = await gathered(context, 2)
        return ranked([*await gathered(context, 2), *drafts])

    backend, proxy = await hurried(fleet, strategy(refine))
    backend.will(says(FOUR), says(FOUR), begins(FIVE, after=2), stalls())

    told = await in_time(proxy)

    assert (told["text"], told["completed"], told["cancelled"]) == (FOUR, 2, 2)


async def test_after_the_deadline_nothing_is_started(fleet: Fleet) -> None:
    """It comes while the strategy is between two waves."""
    seen: list[bool] = []

    async def slow(context: Context) -> Outcome:
        drafts = await gathered(context, 1)
        while not context.out_of_time:
            await asyncio.sleep(0.005)
        for what in (2, [Generation(prompt="Which?")]):
            seen.append(bool(await gathered(context, what)))
        async with context.watch(1, every_tokens=4) as events:
            seen.append(bool([event async for event in events]))
        return ranked(drafts)

    backend, proxy = await hurried(fleet, strategy(slow))

    told = await in_time(proxy)

    assert seen == [False] * 3
    assert len(backend.generations) == len((await proxy.trace())["branches"]) == 1
    assert (told["text"], told["completed"], told["cancelled"]) == (FOUR, 1, 0)


async def test_progress_ends_with_the_deadline_though_branches_go_on(fleet: Fleet) -> None:
    """A strategy that takes its time over each event is told no more of them."""
    late: list[object] = []

    async def dawdle(context: Context) -> Outcome:
        async with context.watch(1, every_tokens=1) as events:
            async for event in events:
                if context.out_of_time:
                    late.append(event)
                await asyncio.sleep(0.01)
        return Outcome(())

    backend, proxy = await hurried(fleet, strategy(dawdle, branches=1))
    backend.otherwise = drips(0.002)

    assert str((await in_time(proxy))["text"]).startswith("xx")
    assert len(late) <= 1


async def test_an_unfinished_later_branch_answers_where_nothing_else_does(fleet: Fleet) -> None:
    """The first wave was but preparation: the one that went on farthest is the answer, its beginning included."""

    async def prepare(context: Context) -> Outcome:
        await gathered(context, [Generation(prompt="Plan it", final=False)])
        await gathered(context, [WHOLE, Generation(continues="So far: ")])
        return Outcome(())

    backend, proxy = await hurried(fleet, strategy(prepare))
    backend.will(says("a plan"), begins("0123", after=3), begins("4567", after=2))

    told = await in_time(proxy)

    assert told["text"] == "So far: 45"
    rows = (await proxy.trace())["branches"]
    assert [row["role"] for row in rows] == ["aside", None, None]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_finished_branch_answers_for_a_strategy_that_ranks_none(fleet: Fleet, stream: bool) -> None:
    async def undecided(context: Context) -> Outcome:
        await gathered(context, 1)
        return Outcome(())

    _, proxy = await fleet.one(strategy(undecided))

    if stream:
        assert (await proxy.stream(pinned())).text == FOUR
    else:
        assert (await proxy.ask(pinned())).json()["choices"][0]["message"]["content"] == FOUR
