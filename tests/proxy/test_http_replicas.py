"""Two equal replicas share the work: a busy backend must not look cheaper than an idle one."""

import asyncio
from random import Random

import pytest
from http_rig import Fleet
from scripted_backend import says, until

VOTES, SAMPLES = 8, 4


@pytest.mark.parametrize("seed", range(4))
async def test_votes_that_run_together_spread_over_equal_replicas(fleet: Fleet, seed: int) -> None:
    """While a vote runs on one of them it is the slower one, by more than chance makes up for: the next vote goes to
    the other, whatever chance says of the first."""
    held = asyncio.Event()
    one, two, proxy = await fleet.two()
    proxy.service.rng = Random(seed)
    for backend in (one, two):
        backend.will(*[says("The answer is \\boxed{42}.", when=held)] * VOTES * SAMPLES)
    pinned = {"x_tts_strategy": "self-consistency", "x_tts_n": str(SAMPLES)}
    asks = []
    for number in range(1, VOTES + 1):
        asks.append(asyncio.create_task(proxy.ask(**pinned)))
        await until(lambda started=number * SAMPLES: len(one.generations) + len(two.generations) == started)
        if number == 2:
            assert len(one.generations) == len(two.generations) == SAMPLES
    held.set()
    await asyncio.gather(*asks)

    shares = len(one.generations), len(two.generations)
    assert sum(shares) == VOTES * SAMPLES
    assert min(shares) >= SAMPLES * VOTES // 4, "neither is left to the other"
