"""A finished request leaves no reference cycle: the cycle collector's pauses would show in everybody's latency."""

from __future__ import annotations

import gc
from collections import Counter

import pytest
from http_rig import Fleet
from own_strategies import gathered, ranked, strategy

from strategies.base import Branch, Context, Generation, Outcome

MANY = 40


async def two_waves(context: Context) -> Outcome:
    """Every kind of call once: progress, scores, similarities, a text to go on from."""
    async with context.watch([Generation(confidence=True)] * 2, every_tokens=1) as events:
        drafts = [event async for event in events if isinstance(event, Branch)]
    await context.score([draft.text for draft in drafts], "reward")
    await context.similarity([draft.text for draft in drafts])
    finals = await gathered(context, [Generation(continues=draft.text) for draft in drafts])
    await context.answer(finals[0])
    return ranked(finals)


@pytest.mark.parametrize(
    "headers",
    [{}, {"x_tts_strategy": "self-consistency", "x_tts_n": "4"}, {"x_tts_strategy": "own"}],
    ids=["pass-through", "fan-out", "two waves"],
)
async def test_requests_leave_nothing_for_the_cycle_collector(fleet: Fleet, headers: dict[str, str]) -> None:
    if "own" in headers.values():
        await fleet.pooled("outcome")
        await fleet.pooled("embedding")
    _, proxy = await fleet.one(strategy(two_waves))
    for _ in range(5):
        assert (await proxy.ask(**headers)).status_code == 200
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for _ in range(MANY):
            assert (await proxy.ask(**headers)).status_code == 200
        gc.collect()
        left = Counter(type(each).__qualname__ for each in gc.garbage if type(each).__module__.startswith("proxy"))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    # Connections that a cancelled branch closed are cycles by nature, and few.
    per_request = {"Client", "Exchange", "BranchStream", "Run", "FanOut", "RelaySink", "Trace"}
    per_request |= {"Confidence", "Requests", "Scoring", "PooledModel", "PooledCall", "_Aside", "_Whole"}
    assert not per_request & set(left), left


async def test_side_routes_leave_no_client_behind(fleet: Fleet) -> None:
    _, proxy = await fleet.one()
    await proxy.client.get("/health")
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for _ in range(MANY):
            await proxy.client.get("/health")
        gc.collect()
        left = Counter(type(each).__qualname__ for each in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert left["Client"] == left["RequestResponseCycle"] == 0
